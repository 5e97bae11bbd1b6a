"""Recipes and trained models that come with the package. Does not import torch."""

import json
from pathlib import Path
from typing import Any

from cvae.atomic import copy_folder
from cvae.errors import UsageError, suggest
from cvae.run import CONFIG, DECODER

DEFAULT = "mnist-resnet-conditional"
"""Name of the default model."""

_FOLDER = Path(__file__).resolve().parent


def models() -> dict[str, Path]:
    """Return the folders of the trained models by name. Each is a run folder plus `evaluation.json`.

    An installed package contains no torch weights and, for large models, no exported files either.
    """
    return {path.parent.name: path.parent for path in sorted(_FOLDER.glob(f"*/{CONFIG}"))}


def model(name: str) -> Path:
    """Return the folder of a trained model with its exported files.

    Raises:
        UsageError: If there is no model of this name, or the installed package does not contain its exported files.
    """
    folder = _find_folder(name)
    if not (folder / DECODER).is_file():
        raise UsageError(
            f"the zoo model {name!r} is too large for the installed package; clone the repository of cvae, and pass "
            f"the path of its folder model_zoo/{name} instead of the name"
        )
    return folder


def _find_folder(name: str) -> Path:
    if name not in models():
        raise UsageError(f"there is no zoo model {name!r}; {suggest(name, models())}")
    return models()[name]


def describe(name: str) -> dict[str, Any]:
    """Return a model's summary, whether it is installed, its size in bytes, and its `cvae evaluate --json` report.

    Raises:
        UsageError: If there is no model of this name.
    """
    folder = _find_folder(name)
    return {
        "summary": summary(name),
        "installed": (folder / DECODER).is_file(),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "evaluation": json.loads((folder / "evaluation.json").read_text("utf-8")),
    }


def copy(name: str, target: Path) -> None:
    """Copy a model's folder to `target`, atomically.

    Raises:
        UsageError: If there is no such model, its files are not installed, or `target` already exists.
        CvaeError: If the folder can't be written.
    """
    copy_folder(model(name), target)


def recipes() -> dict[str, Path]:
    """Return the recipe files by name, for `cvae train --recipe NAME`."""
    return {path.stem: path for path in sorted((_FOLDER / "recipes").glob("*.toml"))}


def recipe(name: str) -> Path:
    """Return the path of a recipe file, given the name or the path of the recipe.

    Raises:
        UsageError: If there is no recipe of this name.
    """
    path = Path(name)
    if path.suffix in (".toml", ".json"):
        return path
    if name not in recipes():
        raise UsageError(
            f"unknown recipe {name!r} (the path of a recipe must end in .toml or .json); {suggest(name, recipes())}"
        )
    return recipes()[name]


def summary(name: str) -> str:
    """Return the first line of a recipe, which describes the recipe and the model of the same name."""
    return recipe(name).read_text("utf-8").partition("\n")[0].removeprefix("#").strip()
