"""The search space of a study: flags and part options of `cvae train`, as ranges or lists of choices.

A search space is created in two steps, from the command line or from a recipe:

1. `parse_search` converts the arguments of `--search`, such as "lr=1e-4..1e-2:log", to a table, such as
   {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}. `read_search` reads a table of the same form from a recipe.
2. `make_space` checks the table and converts it to a `Space`, which maps each name to a `Range` or a tuple of choices.

Without a table, `default_space` creates the space. For each trial, `apply_params` sets the values that Optuna proposes
in a training configuration. `to_recipe` writes the best configuration as a recipe.
"""

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
from cvae.recipes import takes_options
from cvae.serialization import from_dict, to_dict

MACHINE_FLAGS = tuple(name for name, flag in flags_of(TrainConfig).items() if flag.machine)
"""Flags that describe the machine. They may differ between the workers of a study."""

NOT_SEARCHABLE = tuple(name for name, flag in flags_of(TrainConfig).items() if flag.machine or not flag.searchable)
"""Flags that can't be searched: they describe the machine, or make bounds incomparable, as --data does."""


@dataclass(frozen=True)
class Range:
    """A range of numbers.

    Attributes:
        low: lower end, included.
        high: upper end, included.
        log: whether to sample uniformly on a log scale.
        whole: whether the range contains only integers. Existing studies contain this name, so it can't change.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"the range from {self.low} to {self.high} is empty; put the lower end first")
        if self.log and self.low <= 0:
            raise UsageError(f"a range on a log scale can't start at {self.low}; start above 0")

    @property
    def ends(self) -> tuple[float, float]:
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


Domain = Range | tuple[Any, ...]
"""A range, or a tuple of choices."""

Space = dict[str, Domain]
"""Domain of each flag (`lr`) and of each option of a part (`arch.width`), by name."""

DEFAULT_SPACE: Space = {
    "lr": Range(3e-4, 3e-2, log=True),
    "batch_size": (32, 64, 128, 256),
    "latent_dim": (8, 16, 32, 64),
    "ema": (0.0, 0.99, 0.999),
}
"""Search space for a study without a search table."""


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
            space[name] = tuple(sorted({*domain, value} - {None}))  # None means that the data determine the value
    return space


def parse_search(assignments: list[str]) -> dict[str, Any]:
    """Convert assignments like "lr=1e-4..1e-2:log" and "latent_dim=8,16" to the form of a recipe's [search] table.

    Raises:
        UsageError: If an assignment does not have this form.
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
        except ValueError:  # the choices are not JSON but plain strings, as in optimizer=adam,adamw
            table[name] = text.split(",")
    return table


def read_search(recipe: Path) -> dict[str, Any]:
    """Return the [search] table of a recipe that `read_recipe` has accepted. The config.json of a run has no table."""
    return tomllib.loads(recipe.read_text("utf-8")).get("search", {}) if recipe.suffix == ".toml" else {}


def make_space(table: Mapping[str, Any]) -> Space:
    """Convert a table like {"lr": {"low": 1e-4, "high": 1e-2, "log": true}, "arch.hidden": [[200], [400]]} to a space.

    Raises:
        UsageError: If a name is not a flag or can't be searched, or a range is not valid.
    """
    space: Space = {}
    for key, value in table.items():
        name = key if "." in key else key.replace("-", "_")
        _check_name(name, key)
        domain = _make_domain(value, key, takes_integers=_takes_integers(name))
        space[f"{SHORT_FLAGS[name].part}.{name}" if name in SHORT_FLAGS else name] = domain
    return space


def _check_name(name: str, key: str) -> None:
    """Check that `name` is a flag or an option that can be searched; `key` is its spelling in the table."""
    if name in SHORT_FLAGS:
        return
    flags = typing.get_type_hints(TrainConfig)
    part, dot, option = name.partition(".")
    exists = takes_options(part) and option if dot else name in flags and name != "options"
    if not exists:
        raise UsageError(f"search: {key!r} is neither a flag of cvae train nor PART.OPTION; {suggest(name, flags)}")
    if name in NOT_SEARCHABLE:
        reason = "it describes the machine" if name in MACHINE_FLAGS else "bounds would not be comparable"
        raise UsageError(f"search: {flag(name)} can't be searched, because {reason}; set a single value")


def _takes_integers(name: str) -> bool:
    """Return whether a range with integer ends contains only integers.

    For a flag, this depends on its type. The type of an option (PART.OPTION) is not known here, so a range with integer
    ends is taken to contain only integers.
    """
    if name in SHORT_FLAGS:
        return SHORT_FLAGS[name].type is int
    hint = typing.get_type_hints(TrainConfig).get(name)
    return float not in (hint, *typing.get_args(hint))


def _make_domain(value: Any, key: str, *, takes_integers: bool) -> Domain:
    """Convert a value of the table to a range (from a mapping) or to choices (from a list)."""
    if isinstance(value, Mapping):
        whole = takes_integers and type(value.get("low")) is type(value.get("high")) is int
        domain: Range = from_dict(Range, {"whole": whole, **value}, f"search {key}")
        return domain
    if isinstance(value, list) and value:
        return tuple(map(encode_choice, value))
    raise UsageError(f"search: {key} = {value!r} is neither {{low = ..., high = ...}} nor a list of choices")


def encode_choice(value: Any) -> Any:
    """Encode a list as JSON, because Optuna only accepts scalars as choices. `apply_params` decodes it."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def apply_params(base: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
    """Return a copy of the configuration `base` with the parameter values of a trial."""
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
    """Return the TOML recipe that reproduces `config`."""

    def format_lines(values: Mapping[str, Any]) -> list[str]:  # scalars and lists are the same in JSON and TOML
        return [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
        ]

    data, default = to_dict(config), to_dict(TrainConfig())
    options = data.pop("options")
    text = format_lines({key: value for key, value in data.items() if value != default[key]})
    for part, values in options.items():
        text += ["", f"[options.{part}]", *format_lines(values)]
    return "\n".join(text) + "\n"
