"""Recipes in TOML, and the options that `--set` assigns. Does not import torch."""

import json
import tomllib
from pathlib import Path
from typing import Any

from cvae.atomic import read_at_most
from cvae.config import Config, TrainConfig, expand_short_flags
from cvae.errors import CvaeError, UsageError, one_line
from cvae.flags import flags_of
from cvae.registry import LOSSES
from cvae.serialization import check_depth, from_dict, to_dict

PARTS = tuple(name for name, flag in flags_of(TrainConfig).items() if flag.takes_options)
"""Flags that name a registered part with options."""


def takes_options(name: str) -> bool:
    """Return whether options can be assigned to `name`: a flag in `PARTS`, or a loss, of which a run can have several.

    For example, `--set adversarial.weight=1` sets the weight of the loss that `--loss adversarial` adds.
    """
    return name in PARTS or name in LOSSES


MAX_RECIPE_BYTES = 2**13
"""Maximum size of a recipe. The memory and time that tomllib needs grow with the square of the length of a key."""


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read the flags that a recipe sets.

    Args:
        path: a TOML file, or the config.json of a run to repeat. The keys of a TOML file are the fields of
            `TrainConfig` and the names of its flags, with dashes or underscores.

    Raises:
        UsageError: If the file can't be read, is not TOML, or has a key that is not a flag.
    """
    path = Path(path)
    if path.suffix == ".json":
        return to_dict(Config.read(path).training)
    try:
        data = tomllib.loads(read_at_most(path, MAX_RECIPE_BYTES).decode())
        check_depth(data)
    except CvaeError as error:
        raise UsageError(f"the recipe can't be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe {str(path)!r} is not TOML: {one_line(error)}") from error
    data.pop("search", None)  # only cvae tune uses this table
    fields = {flag.spelling(name)[2:].replace("-", "_"): name for name, flag in flags_of(TrainConfig).items()}
    keys = {key: key.replace("-", "_") for key in data}
    recipe = expand_short_flags({fields.get(name, name): data[key] for key, name in keys.items()})
    from_dict(TrainConfig, recipe, f"recipe {path.name}")
    return recipe


def parse_options(assignments: list[str]) -> dict[str, dict[str, Any]]:
    """Parse assignments of `--set`: ["arch.width=32"] -> {"arch": {"width": 32}}. A value is JSON, or else a string.

    Raises:
        UsageError: If an assignment is not of this form.
    """
    options: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        part, dot, option = name.partition(".")
        if not (equals and dot and takes_options(part) and option):
            raise UsageError(
                f"--set {assignment!r} is not of the form PART.OPTION=VALUE, where PART is one of "
                f"{', '.join(PARTS)}, or a loss such as adversarial"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options.setdefault(part, {})[option] = value
    return options
