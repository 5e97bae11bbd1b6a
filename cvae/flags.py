"""Command-line flags as metadata of dataclass fields.

A field of a config states its flag once, in `flag_field`. The checks of the config, the signatures of the commands, the
search space of `cvae tune` and the reference page are derived from there. Torch-free.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from cvae.errors import UsageError, suggest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """The finite numbers between two ends. `above` and `below` are ends that do not belong to the interval."""

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
        ends = {
            "at least": self.minimum,
            "more than": self.above,
            "at most": self.maximum,
            "less than": self.below,
        }
        return " and ".join(f"{words} {end}" for words, end in ends.items() if end is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """The facts about a flag, except for the name, the type and the default of its field."""

    help: str
    """Its effect, and the unit of its value."""
    group: str
    """The heading under which the reference lists it."""
    name: str | None = None
    """The spelling on the command line, without dashes, where it differs from the field's name."""
    aliases: tuple[str, ...] = ()
    """Former spellings, which still work and are not shown."""
    metavar: str | None = None
    """What a person types, where the type and the choices do not say it."""
    automatic: str | None = None
    """What a default of None means."""
    interval: Interval | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None
    """Converts the text of the command line, where the type alone does not."""
    canonical: Callable[[Any], Any] | None = None
    """Maps values with the same meaning, such as two spellings of a path, to one value."""
    takes_options: bool = False
    """The value names a registered part, whose options `--set` assigns."""
    resolved: bool = False
    """The default leaves the choice to the run, whose config.json records what was chosen."""
    resumable: bool = False
    """The value may change when a run is resumed; then it is a parameter of `cvae.resume` too."""
    searchable: bool = True
    """`cvae tune` may vary the value: bounds under two of its values are comparable."""
    machine: bool = False
    """The value describes the machine: `cvae tune` does not vary it, and the workers of one study may differ in it."""

    def spelling(self, name: str) -> str:
        """Return the flag of the field `name` as it is typed: kl_warmup -> --kl-warmup."""
        return "--" + (self.name or name.replace("_", "-"))

    def check(self, name: str, value: Any) -> None:
        """Check a value of the field `name`, or each value of a tuple. None passes: the run chooses.

        Raises:
            UsageError: The value is not among the choices, or out of range.
        """
        for each in value if isinstance(value, tuple) else (value,):
            if each is None:
                continue
            if self.choices and each not in self.choices:
                raise UsageError(f"{self.spelling(name)} {each!r} is unknown; {suggest(str(each), self.choices)}")
            if self.interval is not None and each not in self.interval:
                raise UsageError(f"{self.spelling(name)} {each} is out of range; it must be {self.interval}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortFlag(Flag):
    """A flag that stands for `--set PART.NAME=VALUE`. The part checks the value."""

    part: str
    type: type


def flag_field(default: Any, group: str, help: str, **facts: Any) -> Any:
    """Return a dataclass field that is a flag too. `facts` are those of `Flag`."""
    return dataclasses.field(default=default, metadata={"flag": Flag(group=group, help=help, **facts)})


def flags_of(config: type) -> dict[str, Flag]:
    """Return the flags of a dataclass by the names of their fields."""
    return {field.name: field.metadata["flag"] for field in dataclasses.fields(config) if "flag" in field.metadata}


def check_values(config: type, values: Mapping[str, Any]) -> None:
    """Check values of some fields of a dataclass against its flags.

    Raises:
        UsageError: A value is not among the choices, or out of range.
    """
    for name, flag in flags_of(config).items():
        if name in values:
            flag.check(name, values[name])
