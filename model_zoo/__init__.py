"""Recipes and trained models that come with the package, by name. Torch-free."""

from pathlib import Path

from cvae.errors import UsageError, near

DEFAULT = "mnist-resnet-conditional"
"""The model that is used when none is named."""

_HERE = Path(__file__).resolve().parent


def models() -> dict[str, Path]:
    """The trained models: name -> folder, laid out as a run's."""
    return {path.parent.name: path.parent for path in sorted(_HERE.glob("*/config.json"))}


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
        raise UsageError(f"unknown recipe {name!r}; {near(name, recipes())}; a file of yours ends in .toml")
    return recipes()[name]
