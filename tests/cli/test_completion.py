"""Shell completion of values, through typer's completion protocol."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cvae import model_zoo
from cvae.config import flag
from cvae.registry import REGISTRIES, Registry


@pytest.fixture
def complete(cvae, monkeypatch) -> Callable[[str], list[str]]:
    """Return a function that completes the last word of a command line as bash does."""

    def run(line: str) -> list[str]:
        monkeypatch.setenv("_CVAE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - (not line.endswith(" "))))
        result = cvae()
        assert result.err == ""
        return result.out.split()

    return run


@pytest.mark.parametrize("kind", [kind for kind in REGISTRIES if kind not in ("data", "export")])
def test_parts_are_completed(complete, monkeypatch, kind):
    monkeypatch.setitem(REGISTRIES[kind]._registered, "of-this-program", lambda: None)
    assert complete(f"cvae train {flag(kind)} ") == complete(f"cvae tune {flag(kind)} ") == list(REGISTRIES[kind])
    assert complete(f"cvae train {flag(kind)} of-") == ["of-this-program"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cvae train --optimizer ", ["adam", "adamw", "muon"]),
        ("cvae train --data fol", ["folder:", "folder-classes:"]),
        ("cvae train --data mnist", ["mnist-small", "mnist"]),
        ("cvae train --recipe cars", ["cars-grid-base", "cars-grid-prior", "cars-grid", "cars"]),
        ("cvae export ", ["onnx", "web", "triton"]),
        ("cvae export onnx --", ["--model", "--license", "--half", "--json", "--help"]),
        ("cvae export onnx -m mnist-resnet-fl", ["mnist-resnet-flow"]),
        ("cvae export web mnist-resnet-fl", ["mnist-resnet-flow"]),
        ("cvae generate --device c", ["cpu", "cuda"]),
        ("cvae evaluate --split t", ["train", "test"]),
        ("cvae plot latent --method ", ["tsne", "pca", "umap"]),
        ("cvae parts resnet", ["resnet", "resnet-small", "resnet-large"]),
        ("cvae zoo copy ", [*model_zoo.models()]),
        ("cvae zoo show cla", [name for name in model_zoo.recipes() if name.startswith("cla")]),
        ("cvae generate --label ", [*"0123456789"]),  # the classes of the default model
        ("cvae generate mnist-resnet-conditional --label ", [*"0123456789"]),
        ("cvae generate -n 3 mnist-ladder --label ", []),
        ("cvae generate -m mnist-ladder --label ", []),
        ("cvae restyle a.png -m mnist-resnet-conditional --to ", [*"0123456789"]),
        ("cvae interpolate --to-label 3,", [f"3,{digit}" for digit in range(10)]),
        ("cvae generate hf://owner/name --label ", []),  # nothing is downloaded
        ("cvae generate no-such-model --label ", []),
    ],
)
def test_values_are_completed(complete, line, words):
    assert complete(line) == words


def test_runs_and_their_classes_are_completed(complete):
    zoo = model_zoo.models()
    for name in ("first", "mnist-ladder"):
        Path("runs", name).mkdir(parents=True)
        shutil.copy(zoo["mnist-resnet-conditional"] / "config.json", f"runs/{name}/config.json")
        Path("runs", name, "model.safetensors").touch()
    assert sorted(complete("cvae generate ")) == sorted({"first", *zoo})
    assert complete("cvae plot progress f") == ["first"]
    # A run takes precedence over a zoo model of the same name, as in `cvae generate`.
    assert complete("cvae generate mnist-ladder --label ") == [*"0123456789"]
    Path("runs/first/config.json").write_text("{")
    assert complete("cvae generate first --label ") == []


def test_every_registry_is_completed():
    assert {id(value) for value in REGISTRIES.values()} == {
        id(value) for value in vars(sys.modules[Registry.__module__]).values() if isinstance(value, Registry)
    }


@pytest.mark.integration
def test_completion_does_not_import_torch(tmp_path):
    program = "import atexit, sys; atexit.register(lambda: print(*{'torch', 'rich'} & set(sys.modules)))\n"
    program += "from cvae.__main__ import main; main()"
    for line in ("cvae export onnx ", "cvae generate --label ", "cvae train --arch ", "cvae parts "):
        variables = {"_CVAE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()))}
        command = [sys.executable, "-c", program]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **variables}, check=True
        )
        *words, imported = result.stdout.splitlines()
        assert words and imported == "", line


@pytest.mark.integration
def test_completion_script_is_shown_and_installed(tmp_path):
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("bash is not installed")

    def run(flag: str) -> str:
        # typer looks for the shell among the parent processes.
        command = [shell, "-c", f"'{sys.executable}' -m cvae {flag}; exit $?"]
        environment = {**os.environ, "HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout

    assert "_CVAE_COMPLETE=complete_bash" in run("--show-completion")
    assert "bash completion installed" in run("--install-completion")
    assert "_CVAE_COMPLETE" in (tmp_path / ".bash_completions" / "cvae.sh").read_text()
