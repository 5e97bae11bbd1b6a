"""Command-line flags as metadata of dataclass fields.

A field of a config defines its flag once, with `flag_field`. The checks of the config, the signatures of the commands,
the search space of `cvae tune` and the reference page are derived from that definition. Does not import torch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cvae.atomic import expand_user
from cvae.errors import UsageError, suggest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """Interval of finite numbers.

    Attributes:
        minimum: lower bound, inclusive.
        above: lower bound, exclusive.
        maximum: upper bound, inclusive.
        below: upper bound, exclusive.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
            return False
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {
            "at least": self.minimum,
            "more than": self.above,
            "at most": self.maximum,
            "less than": self.below,
        }
        return " and ".join(f"{relation} {bound}" for relation, bound in bounds.items() if bound is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """Metadata of a flag. The field supplies the flag's type, its default and, unless `name` is set, its name."""

    help: str
    """Effect of the flag, and the unit of its value."""
    group: str
    """Heading under which the reference lists the flag."""
    name: str | None = None
    """Name on the command line, without the leading dashes, if it differs from the field name."""
    aliases: tuple[str, ...] = ()
    """Former spellings, which still work but are not shown."""
    metavar: str | None = None
    """Placeholder for the value in the help, unless the type or the choices determine it."""
    automatic: str | None = None
    """Meaning of the default None."""
    interval: Interval | None = None
    """Range of the value, or of each item of a tuple."""
    choices: tuple[str, ...] = ()
    """Allowed values."""
    synonyms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Words that users may try, and the allowed value that the error message suggests for each."""
    parse: Callable[[str], Any] | None = None
    """Function that converts the command-line argument, if the type alone is not enough."""
    canonical: Callable[[Any], Any] | None = None
    """Function that maps values with the same meaning, such as two spellings of a path, to one value."""
    takes_options: bool = False
    """Whether the value names a registered part, whose options `--set` assigns."""
    resolved: bool = False
    """Whether the run chooses a value in place of the default, and records it in config.json."""
    resumable: bool = False
    """Whether the value can change when a run is resumed. If so, it is also a parameter of `cvae.resume`."""
    searchable: bool = True
    """Whether `cvae tune` can vary the value. It can if the bounds of runs with different values are comparable."""
    machine: bool = False
    """Whether the value describes the machine: `cvae tune` does not vary it, and it can differ between the workers of a
    study."""

    def spelling(self, name: str) -> str:
        """Return the flag of the field `name`: kl_warmup -> --kl-warmup."""
        return "--" + (self.name or name.replace("_", "-"))

    def check(self, name: str, value: Any) -> None:
        """Check a value, or each item of a tuple. None is always valid.

        Args:
            name: name of the flag for error messages, either the name of the field or the spelling on the command line.
            value: value of the flag.

        Raises:
            UsageError: If the value is not among the choices, or out of range.
        """
        for item in value if isinstance(value, tuple) else (value,):
            if item is None:
                continue
            if self.choices and item not in self.choices:
                known = self.synonyms.get(str(item).lower())
                fix = suggest(str(item), self.choices) if known is None else f"did you mean {known!r}?"
                raise UsageError(f"{name} {item!r} is unknown; {fix}")
            if self.interval is not None and item not in self.interval:
                raise UsageError(f"{name} {item} is out of range; it must be {self.interval}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortFlag(Flag):
    """Flag that stands for `--set PART.NAME=VALUE`. The part checks the value."""

    part: str
    type: type


def flag_field(default: Any, group: str, help: str, **metadata: Any) -> Any:
    """Return a dataclass field that is also a flag. `metadata` sets further fields of `Flag`."""
    return dataclasses.field(default=default, metadata={"flag": Flag(group=group, help=help, **metadata)})


def flags_of(config: type) -> dict[str, Flag]:
    """Return the flags of a dataclass by field name."""
    return {field.name: field.metadata["flag"] for field in dataclasses.fields(config) if "flag" in field.metadata}


def parse_size(text: str) -> int | str:
    """Parse the argument of `--size` as an integer if possible: 64 or "48x80"."""
    return int(text) if text.isdecimal() else text


def parse_sides(size: int | str | None) -> tuple[int, int] | None:
    """Return the height and width of a size: 64 -> (64, 64), "48x80" -> (48, 80), None -> None.

    Raises:
        UsageError: If `size` is neither the side of a square nor a string such as "48x80".
    """
    if size is None or isinstance(size, int):
        return None if size is None else (size, size)
    height, cross, width = size.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and len(size) < 12):
        raise UsageError(f"size {size!r} is neither a side, such as 64, nor HEIGHTxWIDTH, such as 48x80")
    return int(height), int(width)


def canonical_path(path: str | None) -> Path | None:
    """Return the absolute path, which is the same for all spellings of a path."""
    try:
        return None if path is None else expand_user(path).resolve()
    except UsageError:  # there is no such user
        return Path(path or "")


def canonical_data(data: str) -> tuple[str, Path | None]:
    """Return the name of a data set, such as "folder", and its path."""
    name, _, path = data.partition(":")
    return name, canonical_path(path)


def check_values(config: type, values: Mapping[str, Any]) -> None:
    """Check the values of some fields of a dataclass against the flags of the fields.

    Raises:
        UsageError: If a value is not among the choices, or out of range.
    """
    for name, flag in flags_of(config).items():
        if name in values:
            flag.check(name, values[name])
