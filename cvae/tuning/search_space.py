"""The search space of a study: flags of `cvae train` and options of parts, as ranges or lists of choices."""

import json
import re
import tomllib
import typing
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvae.config import SHORT_FLAGS, TrainConfig, flag
from cvae.errors import UsageError, suggest
from cvae.flags import flags_of
from cvae.recipes import PARTS
from cvae.serialization import from_dict, to_dict

MACHINE = tuple(name for name, flag in flags_of(TrainConfig).items() if flag.machine)
"""Flags in which the workers of one study may differ."""

NOT_SEARCHABLE = tuple(name for name, flag in flags_of(TrainConfig).items() if flag.machine or not flag.searchable)
"""Flags that can't be searched: the bounds of two data sets or likelihoods do not compare."""


@dataclass(frozen=True)
class Range:
    """A range of numbers from `low` to `high`, both included. With `log`, they are uniform on a log scale."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"the search from {self.low} to {self.high} is empty; put the lower end first")
        if self.log and self.low <= 0:
            raise UsageError(f"a search on the log scale can't start at {self.low}; start above 0")

    @property
    def ends(self) -> tuple[float, float]:
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


Space = dict[str, Range | tuple[Any, ...]]
"""Maps a flag (`lr`) or an option of a part (`arch.width`) to a range or a tuple of choices."""

DEFAULT_SPACE: Space = {
    "lr": Range(3e-4, 3e-2, log=True),
    "batch_size": (32, 64, 128, 256),
    "latent_dim": (8, 16, 32, 64),
    "ema": (0.0, 0.99, 0.999),
}


def default_space(base: TrainConfig, overrides: Container[str]) -> Space:
    """Return the default search space without the flags in `overrides`, widened to include the values of `base`."""
    space: Space = {}
    for name, domain in DEFAULT_SPACE.items():
        if name in overrides:
            continue
        value = getattr(base, name)
        if isinstance(domain, Range):
            space[name] = Range(min(domain.low, value), max(domain.high, value), domain.log)
        else:
            space[name] = tuple(sorted({*domain, value}))
    return space


def parse_search(assignments: list[str]) -> dict[str, Any]:
    """Convert flags like "lr=1e-4..1e-2:log" and "latent_dim=8,16" to the form of a recipe's table [search].

    Raises:
        UsageError: an assignment is not of this form.
    """
    table: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name and equals and text):
            raise UsageError(f"--search {assignment!r} is neither NAME=LOW..HIGH, NAME=LOW..HIGH:log nor NAME=A,B,C")
        try:
            if ends := re.fullmatch(r"(.+?)\.\.(.+?)(:log)?", text):
                table[name] = {"low": json.loads(ends[1]), "high": json.loads(ends[2]), "log": ends[3] is not None}
            else:
                table[name] = json.loads(f"[{text}]")
        except ValueError:
            table[name] = text.split(",")
    return table


def read_search(recipe: Path) -> dict[str, Any]:
    """Return the table [search] of a recipe that `read_recipe` has accepted."""
    return tomllib.loads(recipe.read_text("utf-8")).get("search", {}) if recipe.suffix == ".toml" else {}


def make_space(table: Mapping[str, Any]) -> Space:
    """Convert a table like {"lr": {"low": 1e-4, "high": 1e-2, "log": true}, "arch.hidden": [[200], [400]]} to a space.

    Raises:
        UsageError: a name is not a flag or can't be searched, or a range is not valid.
    """
    hints = typing.get_type_hints(TrainConfig)
    space: Space = {}
    for key, domain in table.items():
        name = key if "." in key else key.replace("-", "_")
        if name in SHORT_FLAGS:
            name, whole_numbers = f"{SHORT_FLAGS[name].part}.{name}", SHORT_FLAGS[name].type is int
        else:
            whole_numbers = float not in (hints.get(name), *typing.get_args(hints.get(name)))
        part, dot, option = name.partition(".")
        if not (part in PARTS and option if dot else name in hints and name != "options"):
            raise UsageError(f"search: {key!r} is neither a flag of cvae train nor PART.OPTION; {suggest(name, hints)}")
        if name in NOT_SEARCHABLE:
            raise UsageError(
                f"search: {flag(name)} can't be searched, because bounds would not compare; give it one value"
            )
        if isinstance(domain, Mapping):
            whole = whole_numbers and type(domain.get("low")) is type(domain.get("high")) is int
            space[name] = from_dict(Range, {"whole": whole, **domain}, f"search {key}")
        elif isinstance(domain, list) and domain:
            space[name] = tuple(map(scalar, domain))
        else:
            raise UsageError(f"search: {key} = {domain!r} is neither {{low = ..., high = ...}} nor a list of choices")
    return space


def scalar(value: Any) -> Any:
    """Encode a list as JSON, because the choices of Optuna are scalars."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def apply_params(base: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
    """Return `base` with the values of a trial."""
    data = to_dict(base)
    for name, value in params.items():
        part, dot, option = name.partition(".")
        if dot:
            is_list = isinstance(value, str) and value.startswith("[")
            data["options"].setdefault(part, {})[option] = json.loads(value) if is_list else value
        else:
            data[name] = value
    return from_dict(TrainConfig, data)


def to_recipe(config: TrainConfig) -> str:
    """Return the recipe in TOML that makes `config`."""

    def lines(values: Mapping[str, Any]) -> list[str]:  # a scalar or a list is the same in JSON and in TOML
        return [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
        ]

    data, default = to_dict(config), to_dict(TrainConfig())
    options = data.pop("options")
    text = lines({key: value for key, value in data.items() if value != default[key]})
    for part, values in options.items():
        text += ["", f"[options.{part}]", *lines(values)]
    return "\n".join(text) + "\n"
