"""`cvae.zoo` and `cvae.info`."""

from pathlib import Path

import pytest

import cvae
from cvae import model_zoo
from cvae.errors import UsageError


def test_zoo_functions_return_what_the_commands_print(in_tmp):
    listing = cvae.zoo.list()
    assert listing["default"] == model_zoo.DEFAULT and set(listing["models"]) == set(model_zoo.models())
    assert cvae.zoo.show("mnist-ladder")["card"].startswith("---")
    assert "epochs" in cvae.zoo.show("cars")["recipe"]
    folder = cvae.zoo.copy("mnist-ladder")
    assert folder == Path("runs/mnist-ladder") and (folder / "decoder.onnx").is_file()
    assert cvae.zoo.copy("mnist-ladder", out="other") == Path("other")
    with pytest.raises(UsageError, match="'other' already exists"):
        cvae.zoo.copy("mnist-ladder", out="other")
    with pytest.raises(UsageError, match="did you mean 'mnist-ladder'"):
        cvae.zoo.show("mnist-lader")


def test_info_describes_the_default_model_and_names_it(in_tmp):
    notes: list[str] = []
    description = cvae.info(note=notes.append)
    assert notes == [f"zoo model: {model_zoo.DEFAULT}"]
    assert description["conditions"][0]["values"] == list("0123456789") and "nats" in description["test_bound"]
    decoder = cvae.info(Path(description["run"]) / "decoder.onnx")
    assert decoder["role"] == "decoder" and decoder["bytes"] > 0
