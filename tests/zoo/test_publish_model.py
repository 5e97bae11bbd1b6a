"""The script that publishes a trained run in the zoo."""

import shutil
import sys

import pytest

from cvae import model_zoo
from cvae.config import Config

MODELS = list(model_zoo.models())


@pytest.fixture
def script(import_script):
    return import_script("publish_model")


@pytest.mark.parametrize("name", MODELS)
def test_commands_on_the_card_are_those_of_the_recipes(script, name):
    card = (model_zoo.model(name) / "README.md").read_text("utf-8")
    commands = script.list_commands(name)
    assert "```bash\n" + "\n".join(commands) in card and commands[-1] == f"cvae train --recipe {name}"


def test_published_model_has_the_card_and_the_samples_of_its_run(script, tmp_path, monkeypatch):
    published = model_zoo.model("mnist-resnet-flow")
    run = tmp_path / published.name
    shutil.copytree(published, run)
    for name in ("README.md", "samples.png"):
        (run / name).unlink()
    shutil.copytree(script.ZOO / "recipes", tmp_path / "zoo" / "recipes")
    monkeypatch.setattr(script, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(sys, "argv", ["publish_model.py", str(run), "a test machine"])
    script.main()
    target = tmp_path / "zoo" / run.name
    assert {path.name for path in target.iterdir()} == {path.name for path in published.iterdir()}
    card = (target / "README.md").read_text("utf-8")
    assert "a test machine" in card and (published / "README.md").read_text("utf-8").splitlines()[14] in card


def test_unknown_data_is_an_error_in_one_line_and_nothing_is_published(script, tmp_path, monkeypatch, capsys):
    run = tmp_path / "mnist-resnet-flow"
    shutil.copytree(model_zoo.model(run.name), run)
    text = Config.read(run / "config.json").to_json().replace('"data": "mnist"', '"data": "fashion-mnist"')
    (run / "config.json").write_text(text, "utf-8")
    monkeypatch.setattr(script, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(sys, "argv", ["publish_model.py", str(run), "a test machine"])
    with pytest.raises(SystemExit):
        script.main()
    error = "no text about the data 'fashion-mnist' for the card; add it to SUBJECTS"
    assert capsys.readouterr().err.splitlines()[-1].endswith(error)
    assert not (tmp_path / "zoo").exists()
