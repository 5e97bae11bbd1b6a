"""Functions of `cvae.zoo`: the trained models and recipes that come with the package.

Importing this module is cheap and requires no extras.
"""

from pathlib import Path
from typing import Any

from cvae import model_zoo
from cvae.errors import UsageError, suggest
from cvae.run import CARD, RUNS

__all__ = ["copy", "list", "show"]


def list() -> dict[str, Any]:
    """List the trained models, and the recipes for `cvae.train(recipe=...)`.

    Returns:
        `default`, the name of the default model; `models`, the summary, size and evaluation of each model by name; and
        `recipes`, the summary of each recipe by name.
    """
    return {
        "default": model_zoo.DEFAULT,
        "models": {name: model_zoo.describe(name) for name in model_zoo.models()},
        "recipes": {name: model_zoo.summary(name) for name in model_zoo.recipes()},
    }


def show(name: str) -> dict[str, Any]:
    """Describe a model or a recipe.

    Args:
        name: Model or recipe from `cvae.zoo.list`.

    Returns:
        For a model: its `name`, summary, size, evaluation, and `card`, the text of its model card. For a recipe without
        a trained model: its `name`, and `recipe`, the text of its file.

    Raises:
        UsageError: If there is no such model or recipe.
    """
    models, recipes = model_zoo.models(), model_zoo.recipes()
    if name in models:
        card = (models[name] / CARD).read_text("utf-8")
        return {"name": name, **model_zoo.describe(name), "card": card}
    if name in recipes:
        return {"name": name, "recipe": model_zoo.recipe(name).read_text("utf-8")}
    raise UsageError(f"there is no zoo model or recipe {name!r}; {suggest(name, {**models, **recipes})}")


def copy(name: str, *, out: str | Path | None = None) -> Path:
    """Copy the folder of a model, to use or inspect its files.

    Args:
        name: Model from `cvae.zoo.list`.
        out: Folder to create, by default `runs/NAME`.

    Returns:
        The folder.

    Raises:
        UsageError: If there is no such model, its files are not installed, or the folder already exists.
        CvaeError: If the folder can't be written.
    """
    target = RUNS / name if out is None else Path(out)
    model_zoo.copy(name, target)
    return target
