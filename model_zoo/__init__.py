"""Recipes and trained models that come with the package, by name. Torch-free."""

import json
from pathlib import Path
from typing import Any

from cvae.atomic import copy_folder
from cvae.errors import UsageError, suggest
from cvae.run import CONFIG

DEFAULT = "mnist-resnet-conditional"
"""The model that is used when none is named."""

_HERE = Path(__file__).resolve().parent


def models() -> dict[str, Path]:
    """The trained models: name -> folder, laid out as a run's, with `evaluation.json` besides."""
    return {path.parent.name: path.parent for path in sorted(_HERE.glob(f"*/{CONFIG}"))}


def model(name: str) -> Path:
    """The folder of the model called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in models():
        raise UsageError(f"there is no zoo model {name!r}; {suggest(name, models())}")
    return models()[name]


def facts(name: str) -> dict[str, Any]:
    """A model's summary, its size in bytes, and what `cvae evaluate --json` has said of it."""
    folder = model(name)
    return {
        "summary": summary(name),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "evaluation": json.loads((folder / "evaluation.json").read_text("utf-8")),
    }


def copy(name: str, target: Path) -> None:
    """Copy a model's folder to `target`, whole or not at all.

    Raises:
        UsageError: there is no such model, or something is at `target` already.
        CvaeError: the folder can't be written.
    """
    copy_folder(model(name), target)


def recipes() -> dict[str, Path]:
    """The recipes of `cvae train --recipe NAME`: name -> TOML file."""
    return {path.stem: path for path in sorted((_HERE / "recipes").glob("*.toml"))}


def recipe(name: str) -> Path:
    """The recipe called `name`, or the file of that path.

    Raises:
        UsageError: there is neither.
    """
    path = Path(name)
    if path.suffix in (".toml", ".json"):
        return path
    if name not in recipes():
        raise UsageError(f"unknown recipe {name!r}; {suggest(name, recipes())}; a file of yours ends in .toml")
    return recipes()[name]


def summary(name: str) -> str:
    """The first line of a recipe, which says what it makes. A model has the recipe of its name."""
    return recipe(name).read_text("utf-8").partition("\n")[0].removeprefix("#").strip()
