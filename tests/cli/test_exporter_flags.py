"""`cvae export NAME` for exporters from other packages: their options become flags, and they receive a model."""

import re
from pathlib import Path
from typing import Any

import pytest

from cvae import model_zoo
from cvae.exporters.base import requires_weights
from cvae.registry import EXPORTERS

calls: list[tuple[Path, dict[str, Any]]] = []
"""Arguments of every call of the exporters below."""


def export(
    model: Path,
    *,
    level: int = 3,
    max_size: float = 0.5,
    sizes: tuple[int, ...] = (4,),
    crop: bool = True,
    title: str = "",
    note: str | None = None,
    half: str = "left",
    out: Path = Path("mine.txt"),
) -> list[Path]:
    """Write a file.

    Args:
        level: Compression level, higher
            for smaller files.
        sizes: Sides in pixels.
    """
    options = {name: value for name, value in locals().items() if name != "model"}
    calls.append((model, options))
    out.write_text("x")
    return [out]


@requires_weights
def export_weights(run: Path, *, level: int = 3) -> list[Path]:
    calls.append((run, {"level": level}))
    return [run / "config.json"]


def export_nothing(model: Path) -> list[Path]:
    return []


@pytest.fixture(autouse=True)
def exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    for name, exporter in {"mine": export, "weights": export_weights, "nothing": export_nothing}.items():
        monkeypatch.setitem(EXPORTERS._registered, name, exporter)


@pytest.mark.parametrize("arguments", ["mine --level 1", "mine --level=1", "--level 1 mine"])
def test_value_of_exporter_flag_is_not_mistaken_for_the_run(cvae, arguments):
    result = cvae("export", *arguments.split())
    assert (result.code, result.err) == (0, f"zoo model: {model_zoo.DEFAULT}\n")
    ((model, options),) = calls
    assert model == model_zoo.models()[model_zoo.DEFAULT] and options["level"] == 1


@pytest.mark.parametrize(
    "arguments", ["mine runs/x --level 1", "mine --level 1 runs/x", "mine --level=1 runs/x", "--level 1 mine runs/x"]
)
def test_exporter_flag_and_run_may_come_in_any_order(cvae, trained, in_tmp, arguments):
    (in_tmp / "runs").mkdir()
    (in_tmp / "runs" / "x").symlink_to(trained["plain"])
    result = cvae("export", *arguments.split())
    assert (result.code, result.err) == (0, "")
    ((model, options),) = calls
    assert model == Path("runs/x") and options["level"] == 1


@pytest.mark.parametrize(
    ("flag", "option", "value"),
    [
        ("--level -1", "level", -1),
        ("--max-size 2", "max_size", 2.0),
        ("--sizes [1,2]", "sizes", (1, 2)),
        ("--crop", "crop", True),
        ("--no-crop", "crop", False),
        ("--title 3", "title", "3"),
        ("--note 3", "note", "3"),
        ("--half right", "half", "right"),  # the onnx exporter has a flag of this name with another type
        ("--out new.txt", "out", Path("new.txt")),
    ],
)
def test_exporter_flag_has_the_type_of_its_default(cvae, flag, option, value):
    defaults = EXPORTERS.options("mine")
    assert cvae("export", "mine", *flag.split()).code == 0
    ((_, options),) = calls
    assert options == {**defaults, option: value} and type(options[option]) is type(value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("mine --levle 1", ["exporter 'mine'", "'levle'", "did you mean 'level'?"]),
        ("mine --license MIT", ["exporter 'mine'", "'license'"]),  # a flag of the onnx exporter
        ("mine --level x", ["exporter 'mine'", "level='x' is not an integer"]),
        ("mine --level 1.5", ["level=1.5 is not an integer"]),
        ("mine --sizes 3", ["sizes=3 is not a list"]),
        ('mine --sizes ["a"]', ["sizes=['a'] is not a list"]),
        ("nothing --level 1", ["exporter 'nothing' has no option 'level'; it has none"]),
        ("mien --level 1", ["unknown exporter 'mien'; did you mean 'mine'?"]),
        ("weights --level 1", ["'runs'", "cvae train"]),
        ("weights mnist-resnet-conditional", ["'mnist-resnet-conditional'", "already exported"]),
    ],
)
def test_invalid_export_commands_are_reported_in_one_line(cvae, arguments, words):
    result = cvae("export", *arguments.split())
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1 and calls == []
    assert result.err.startswith("cvae: error: ") and all(word in result.err for word in words), result.err


def test_exporter_that_requires_weights_gets_the_newest_run(cvae, trained, in_tmp):
    (in_tmp / "runs").mkdir()
    (in_tmp / "runs" / "x").symlink_to(trained["plain"])
    result = cvae("export", "weights", "--level", "1", "--json")
    assert result.json == {"files": ["runs/x/config.json"]} and calls == [(Path("runs/x"), {"level": 1})]


def test_help_of_plugin_exporter_lists_only_its_options(cvae):
    result = cvae("export", "mine", "--help")
    text = " ".join(result.out.split())
    assert "--level N Compression level, higher for smaller files. [default: 3]" in text
    assert "--sizes JSON Sides in pixels. [default: [4]]" in text
    assert re.search(r"--crop / --no-crop +\[default: crop\]", text)
    assert "--half TEXT" in text and "--json" in text and "--license" not in text and "--encoder" not in text


def test_export_help_lists_the_flags_of_every_built_in_exporter(cvae):
    text = cvae("export", "--help").out
    options = {option for name in ("onnx", "web", "triton") for option in EXPORTERS.options(name)}
    assert options == {"license", "half", "out", "webgpu", "encoder"}
    assert all(f"--{option}" in text for option in options)
