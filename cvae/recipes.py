"""Recipes in TOML, and the options that `--set` assigns. Torch-free."""

import json
import tomllib
from pathlib import Path
from typing import Any

from cvae.atomic import read_at_most
from cvae.config import Config, TrainConfig
from cvae.errors import CvaeError, UsageError, one_line
from cvae.serialization import check_depth, from_dict, to_dict

PARTS = ("arch", "conditioning", "likelihood", "prior", "objective")
"""The parts of a run that take options, by flag name."""

MAX_RECIPE = 2**13
"""Bytes of a recipe: tomllib takes memory and time by the square of a key's length."""


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The flags that a recipe sets: a TOML file, or a run's config.json, whose training it repeats.

    Keys are those of `TrainConfig`; a dash may stand for an underscore.

    Raises:
        UsageError: the file can't be read, is not TOML, or has a key that is no flag.
    """
    path = Path(path)
    if path.suffix == ".json":
        return to_dict(Config.read(path).training)
    try:
        data = tomllib.loads(read_at_most(path, MAX_RECIPE).decode())
        check_depth(data)
    except CvaeError as error:
        raise UsageError(f"the recipe can't be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe {str(path)!r} is not TOML: {one_line(error)}") from error
    recipe = {key.replace("-", "_"): value for key, value in data.items() if key != "search"}  # that is for cvae tune
    from_dict(TrainConfig, recipe, f"recipe {path.name}")
    return recipe


def parse_options(assignments: list[str]) -> dict[str, dict[str, Any]]:
    """["arch.width=32"] -> {"arch": {"width": 32}}; values are JSON, or else text.

    Raises:
        UsageError: an assignment is not of this form.
    """
    options: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        part, dot, option = name.partition(".")
        if not (equals and dot and part in PARTS and option):
            raise UsageError(f"--set {assignment!r} is not PART.OPTION=VALUE with PART one of {', '.join(PARTS)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options.setdefault(part, {})[option] = value
    return options
