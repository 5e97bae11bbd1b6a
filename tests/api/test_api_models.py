"""`cvae.evaluate` and `cvae.export`, and the parameters of functions and commands."""

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cvae as package
from cvae import model_zoo
from cvae.cli import detect, evaluate, hub, plot, tune
from cvae.errors import UsageError

COMMANDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "evaluate": (evaluate.evaluate, package.evaluate),
    "detect fit": (detect.fit, package.detect.fit),
    "detect score": (detect.score, package.detect.score),
    "hub push": (hub.push, package.hub.push),
    **{
        f"plot {name}": (getattr(plot, name), getattr(package.plot, name))
        for name in ("latent", "traverse", "reconstructions", "grid", "losses", "progress")
    },
}


@pytest.mark.parametrize(("command", "function"), COMMANDS.values(), ids=COMMANDS)
def test_function_has_the_parameters_and_defaults_of_the_command(command, function):
    expected, actual = (dict(inspect.signature(each).parameters) for each in (command, function))
    for name in ("json", "by"):  # `by` is a former name
        expected.pop(name, None)
    for name in ("note", "progress"):
        actual.pop(name, None)
    assert list(actual) == list(expected)
    assert {name: parameter.default for name, parameter in actual.items() if name != "out"} == {
        name: parameter.default for name, parameter in expected.items() if name != "out"
    }
    assert [parameter.kind for parameter in actual.values()].count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 2
    documented = inspect.getdoc(function) or ""
    assert [name for name in actual if f"  {name}: " not in documented] == []


def test_tune_has_the_parameters_of_the_command():
    expected, actual = (dict(inspect.signature(each).parameters) for each in (tune.tune, package.tune))
    assert set(expected) - {"set_", "json", "without_without"} == set(actual) - {"options"}
    assert actual["trials"].default == expected["trials"].default


def test_evaluate_returns_what_the_command_prints(cvae, trained):
    notes: list[str] = []
    report = package.evaluate(trained["plain"], limit=20, samples=2, generated=20, device="cpu", note=notes.append)
    command = [
        "evaluate",
        trained["plain"],
        "--limit",
        20,
        "--samples",
        2,
        "--generated",
        20,
        "--device",
        "cpu",
        "--json",
    ]
    result = cvae(*command)
    assert report == result.json and notes == result.err.splitlines() != []


@pytest.mark.integration
def test_export_returns_the_paths(trained, in_tmp):
    shutil.copytree(trained["plain"], "run")
    notes: list[str] = []
    paths = package.export("onnx", "run", half=True, license="MIT", note=notes.append)
    assert paths == [Path("run") / name for name in ("decoder.onnx", "encoder.onnx", "README.md")] and len(notes) == 2
    assert package.load("run").spec.license == "MIT"
    (model,) = {path.parts[1] for path in package.export("triton", "run", out="triton") if len(path.parts) > 2}
    assert model == "run"


def test_export_rejects_unknown_formats_and_options(in_tmp):
    for arguments, options, words in [
        (("onnxx",), {}, "'onnx'"),
        (("web",), {"outt": "x"}, "'out'"),
        (("onnx", model_zoo.DEFAULT), {}, "already exported"),
        (("onnx",), {}, "no run"),
    ]:
        with pytest.raises(UsageError, match=words):
            package.export(*arguments, **options)
