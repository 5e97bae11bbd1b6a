"""`cvae zoo`: list, show and copy."""

from pathlib import Path

import pytest


def test_zoo_lists_shows_and_copies_models(cvae):
    report = cvae("zoo", "list", "--json").json
    assert report["default"] in report["models"] and set(report["models"]) <= set(report["recipes"])
    result = cvae("zoo", "list")
    for name, model in report["models"].items():
        assert model["evaluation"]["model"] == name
        assert f"{name} " in result.out and model["summary"] in result.out
        page = cvae("zoo", "show", name)
        assert page.code == 0 and f"# {name}" in page.out
    name = report["default"]
    copied = cvae("zoo", "copy", name, "--json").json
    assert copied["out"] == f"runs/{name}" and "decoder.onnx" in copied["files"]
    assert cvae("generate", "--digit", 7, "--seed", 1, "--json").json["model"] == name  # the copy is the newest run
    second_copy = cvae("zoo", "copy", name)
    assert second_copy.code == 2 and "already exists" in second_copy.err
    assert not list(Path("runs").glob(".*"))


@pytest.mark.parametrize("command", ["show", "copy"])
def test_zoo_suggests_similar_model_for_unknown_name(cvae, command):
    result = cvae("zoo", command, "mnist-resnet-conditonal")
    assert result.code == 2 and "did you mean 'mnist-resnet-conditional'" in result.err


def test_zoo_suggests_similar_recipe_for_unknown_name(cvae):
    result = cvae("zoo", "show", "classic-car-bce")
    assert result.code == 2 and "did you mean 'classic-cars-bce'" in result.err
