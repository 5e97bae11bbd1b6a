"""Conditions of a model: named categories, numbers and attributes, each of them known or unknown.

Does not import torch.
"""

import difflib
import keyword
import math
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

from cvae.errors import UsageError, one_line, suggest
from cvae.serialization import check_text

CATEGORY, NUMBER, ATTRIBUTES = KINDS = ("category", "number", "attributes")
"""Kinds of conditions: one of K names, a number in a range, and K independent properties that are yes or no."""

LABEL = "label"
"""Name of the category of a data set that has classes."""

KNOWN = "known"
"""Input of a graph that says which conditions are known."""

MAX_VALUES = 65536
"""Maximum number of values of a category."""

MAX_ATTRIBUTES = 1024
"""Maximum number of attributes of a condition."""

MAX_CONDITIONS = 64
"""Maximum number of conditions of a model."""

RESERVED = frozenset(
    {
        "a", "b", "extrapolate", "image", "images", "known", "label_index", "mean", "mode", "n", "noise", "seed",
        "self", "std", "steps", "temperature", "to", "to_index",
    }
)  # fmt: skip
"""Names that a condition can't have: other arguments of a model's methods, and other inputs and outputs of a graph."""

YES, NO = frozenset({"yes", "true", "1", "1.0"}), frozenset({"no", "false", "0", "0.0"})
"""Spellings of the values of an attribute, in lower case."""

UNKNOWN = frozenset({"unknown", "any"})
"""Spellings of an unknown value, unless a category has a value of this name."""

DIGITS = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE)
"""Pattern of a number, such as 10, 007, -5, 0.5 or 1e-4."""


class Input(NamedTuple):
    """Input of a graph: its type, "int64", "float32" or "bool", and its number of columns, or None for (B,)."""

    dtype: str
    columns: int | None


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Condition of a model.

    Attributes:
        name: name, which is a Python identifier; also the name of the input of an exported graph.
        kind: one of `KINDS`.
        values: names of the values of a category, or names of the attributes.
        low: lowest value of a number in the training data.
        high: highest value of a number in the training data.
        unit: unit of a number, for display.
        optional: whether the model can be used without a value of this condition.
    """

    name: str
    kind: str
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    unit: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.kind not in KINDS:
            kinds = f"{CATEGORY!r}, {NUMBER!r} or {ATTRIBUTES!r}"
            raise UsageError(f"condition {self.name!r} has the kind {one_line(repr(self.kind), 40)}, not {kinds}")
        limit = {CATEGORY: MAX_VALUES, NUMBER: 0, ATTRIBUTES: MAX_ATTRIBUTES}[self.kind]
        if not min(1, limit) <= len(self.values) <= limit:
            raise UsageError(
                f"condition {self.name!r} has {len(self.values)} values; a {self.kind} has {min(1, limit)} to {limit}"
            )
        if len(set(self.values)) < len(self.values):
            value = next(value for value, count in Counter(self.values).items() if count > 1)
            raise UsageError(
                f"condition {self.name!r} has the value {one_line(repr(value), 40)} more than once; give each value "
                "its own name"
            )
        for text in (*self.values, self.unit or ""):
            check_text(text)
        if self.kind == NUMBER:
            if self.low is None or self.high is None or not -math.inf < self.low < self.high < math.inf:
                raise UsageError(f"condition {self.name!r} has the range {self.low}..{self.high}, which is empty")
        elif (self.low, self.high, self.unit) != (None, None, None):
            raise UsageError(f"condition {self.name!r} is a {self.kind}, so it has no range and no unit")

    @property
    def columns(self) -> int:
        """Number of columns of the condition's value in a row."""
        return len(self.values) if self.kind == ATTRIBUTES else 1

    @property
    def input(self) -> Input:
        """Input of a graph that takes the value."""
        if self.kind == CATEGORY:
            return Input("int64", None)
        return Input("float32", None) if self.kind == NUMBER else Input("float32", len(self.values))

    @property
    def range(self) -> tuple[float, float]:
        """Range of a number, (0, 1) for attributes, and (0, K - 1) for a category."""
        if self.kind == NUMBER:
            assert self.low is not None and self.high is not None
            return self.low, self.high
        return 0, 1 if self.kind == ATTRIBUTES else len(self.values) - 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are not at their defaults."""
        defaults = {"values": (), "low": None, "high": None, "unit": None, "optional": False}
        fields = {name: value for name, value in vars(self).items() if name not in defaults or value != defaults[name]}
        return fields | ({"values": list(self.values)} if self.values else {})

    def describe(self) -> str:
        """Return the kind with the values or the range, such as "number 3..92 years"."""
        if self.kind == NUMBER:
            return f"number {self.low:g}..{self.high:g}{f' {one_line(self.unit, 40)}' if self.unit else ''}"
        if self.kind == CATEGORY:
            return f"category of {len(self.values)} ({_list_values(self.values, 6)})"
        if self.values == (self.name,):
            return "attribute"
        return f"{len(self.values)} attributes ({_list_values(self.values, 6)})"

    def parse(self, value: Any, model: str, *, extrapolate: bool = False) -> tuple[float, ...] | None:
        """Return the columns of a value in a row, or None for an unknown value.

        Args:
            value: name of the value of a category; a number; yes or no for a single attribute; or for several
                attributes, a mapping from their names to yes or no, a sequence of yes or no for all of them, or text
                with the names of those that are yes, separated by commas. None stands for an unknown value.
            model: name of the model, for error messages.
            extrapolate: whether to accept a number beyond the range of the training data.

        Raises:
            UsageError: If the condition does not have this value, or must be known.
        """
        if _is_scalar(value) and self._is_unknown(value):
            if not self.optional:
                raise UsageError(
                    f"{self.name} of {model!r} must be known, because it always was in training; choose a value, or "
                    "train with --drop-conditions 0.1"
                )
            return None
        if self.kind == CATEGORY:
            return (self.index(value, model),)
        if self.kind == NUMBER:
            return (self._parse_number(value, model, extrapolate),)
        return self._parse_attributes(value, model)

    def _is_unknown(self, value: Any) -> bool:
        if value is None:
            return True
        return isinstance(value, str) and value.lower() in UNKNOWN and value not in self.values

    def _parse_number(self, value: Any, model: str, extrapolate: bool) -> float:
        low, high = self.range
        try:
            if str(value) in ("True", "False") or not _is_scalar(value):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise UsageError(f"{self.name} of {model!r} must be a number, not {quote_value(value)}") from None
        if not math.isfinite(number) or abs(number) > 1e30:
            raise UsageError(f"{self.name} of {model!r} must be a finite number, not {quote_value(value)}")
        if not low <= number <= high and not extrapolate:
            raise UsageError(
                f"{self.name} is {quote_value(value)}, but the images of {model!r} had values in {low:g}..{high:g}; "
                "choose one of these, or pass --extrapolate"
            )
        return number

    def _parse_attributes(self, value: Any, model: str) -> tuple[float, ...]:
        if isinstance(value, Mapping):
            return self._parse_mapping(value, model)
        if len(self.values) == 1:
            return (self._parse_attribute(self.name, value[0] if _has_one_item(value) else value, model),)
        if isinstance(value, str):
            names = [] if value.lower() == "none" and "none" not in self.values else value.split(",")
            chosen = [self._check_attribute(name.strip(), model) for name in names]
            return tuple(float(name in chosen) for name in self.values)
        if not _is_scalar(value) and len(value) == len(self.values):
            pairs = zip(self.values, value, strict=True)
            return tuple(self._parse_attribute(name, item, model) for name, item in pairs)
        raise UsageError(
            f"{self.name} of {model!r} must be the names of those of its attributes that are yes, such as "
            f"{self.values[0]!r}, not {quote_value(value)}; the attributes are {_list_values(self.values)}"
        )

    def _parse_mapping(self, value: Mapping[Any, Any], model: str) -> tuple[float, ...]:
        for name in value:
            self._check_attribute(name, model)
        if missing := [name for name in self.values if name not in value]:
            raise UsageError(
                f"{self.name} of {model!r} lacks {_list_values(missing)}; say yes or no for each attribute"
            )
        return tuple(self._parse_attribute(name, value[name], model) for name in self.values)

    def _check_attribute(self, name: Any, model: str) -> str:
        if name in self.values:
            return str(name)
        fix = suggest(str(name)[:80], self.values[:100])
        raise UsageError(f"{self.name} of {model!r} has no attribute {quote_value(name)}; {fix}")

    @staticmethod
    def _parse_attribute(name: str, value: Any, model: str) -> float:
        text = str(value).lower() if _is_scalar(value) else ""
        if text not in YES | NO:
            raise UsageError(f"{name} of {model!r} must be yes or no, not {quote_value(value)}")
        return float(text in YES)

    def index(self, value: Any, model: str) -> int:
        """Return the index of the value of a category that a name stands for.

        A name selects the value that matches it as text or, failing that, as a number: 1, "1" and 1.0 all select the
        value "01". If no value is a number, a non-negative integer is an index.

        Raises:
            UsageError: If no value has this name, or several values equal this number.
        """
        text = _to_text(value)
        if text is None:
            raise self._unknown_value_error(value, model)
        if text in self.values:
            return self.values.index(text)
        number, indices = parse_number(text), _indices_by_number(self.values)
        matches = [] if number is None else indices.get(number, [])
        if len(matches) > 1:
            names = ", ".join(self.values[index] for index in matches[:20])
            raise UsageError(
                f"{self.name} {quote_value(value)} is ambiguous for {model!r}: the {self._plural} {names} are all "
                "equal to it as numbers; give the name exactly as it is written"
            )
        if matches:
            return matches[0]
        index = int(text) if text.isdecimal() and len(text) < 10 else -1
        if not 0 <= index < len(self.values):
            raise self._unknown_value_error(value, model)
        if indices:
            hint = f"; to choose by index, pass label_index={index} (--label-index {index})"
            raise self._unknown_value_error(value, model, hint if self.name == LABEL else "")
        return index

    def check_index(self, index: Any, model: str) -> int:
        """Check the index of a value and return it as an int. onnxruntime itself would accept -1 for the last value.

        Raises:
            UsageError: If the index is out of range or not an integer.
        """
        try:
            number = -1 if isinstance(index, bool) else operator.index(index)
        except TypeError:
            number = -1
        if 0 <= number < len(self.values):
            return number
        raise UsageError(
            f"{model!r} has no class with the index {quote_value(index)}; its classes are 0..{len(self.values) - 1}, "
            f"named {_list_values(self.values)}"
        )

    @property
    def _plural(self) -> str:
        return "classes" if self.name == LABEL else "values"

    def _unknown_value_error(self, value: object, model: str, hint: str = "") -> UsageError:
        similar = self._suggest(value)
        return UsageError(
            f"{model!r} has no {self.name} {quote_value(value)}{similar}; its {self._plural} are named "
            f"{_list_values(self.values)}{hint}"
        )

    def _suggest(self, value: object) -> str:
        """Return a question with the most similar name that is not a number, or "" if none is similar."""
        if not isinstance(value, str) or len(value) > 80:
            return ""
        names = {name.casefold(): name for name in self.values[:1000] if not DIGITS.fullmatch(name)}
        matches = difflib.get_close_matches(value.casefold(), names, n=1, cutoff=0.7)
        return f" (did you mean {quote_value(names[matches[0]])}?)" if matches else ""


def check_name(name: str) -> None:
    """Check the name of a condition.

    Raises:
        UsageError: If it is not a Python identifier, or is reserved.
    """
    check_text(name)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(
            f"the name {one_line(repr(name), 40)} of a condition is not an identifier; use letters, digits and _"
        )
    if name in RESERVED:
        raise UsageError(
            f"a condition can't have the name {name!r}, which is an argument of generate and other methods; rename "
            f"it: --condition NEW_NAME={name}"
        )


def check_conditions(conditions: Sequence[Condition]) -> None:
    """Check that the conditions of a model fit together.

    Raises:
        UsageError: If there are too many, or two have the same name.
    """
    if len(conditions) > MAX_CONDITIONS:
        raise UsageError(f"{len(conditions)} conditions are too many; the limit is {MAX_CONDITIONS}")
    names = [condition.name for condition in conditions]
    if len(set(names)) < len(names):
        raise UsageError(f"two conditions have the name {Counter(names).most_common(1)[0][0]!r}; rename one")
    if not single_category(conditions) and not all(condition.optional for condition in conditions):
        raise UsageError("every condition must be optional, unless a model has only a single category")


def single_category(conditions: Sequence[Condition]) -> Condition | None:
    """Return the category of a model whose only condition is a category, else None."""
    return conditions[0] if len(conditions) == 1 and conditions[0].kind == CATEGORY else None


def label_condition(classes: Sequence[str] | None) -> tuple[Condition, ...]:
    """Return the conditions of a model with the given class names, or without labels."""
    return () if classes is None else (Condition(name=LABEL, kind=CATEGORY, values=tuple(classes)),)


def graph_inputs(conditions: Sequence[Condition]) -> dict[str, Input]:
    """Return the inputs of a graph that take the values of the conditions, by name."""
    inputs = {condition.name: condition.input for condition in conditions}
    if conditions and single_category(conditions) is None:
        inputs[KNOWN] = Input("bool", len(conditions))
    return inputs


def quote_value(value: object) -> str:
    """Quote a value for error messages."""
    try:
        return one_line(repr(str(value)) if isinstance(value, str) else value, 80)
    except ValueError:
        return "of thousands of digits"


def parse_number(text: str) -> Decimal | None:
    """Return the number that a text is, or None if it is not a number."""
    return Decimal(text) if DIGITS.fullmatch(text) else None


def _list_values(values: Sequence[str], count: int = 20) -> str:
    return ", ".join(values[:count]) + ", ..." * (len(values) > count)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str) or not hasattr(value, "__len__")


def _has_one_item(value: Any) -> bool:
    return not _is_scalar(value) and len(value) == 1


def _to_text(value: object) -> str | None:
    """Convert a value to a string, or return None if it is neither a string nor a number."""
    try:
        if isinstance(value, str | Real):  # Real includes numpy's numbers
            return str(value)
        return str(operator.index(value))  # type: ignore[arg-type]  # for example, a tensor with one element
    except (TypeError, ValueError):  # Python does not convert ints with thousands of digits to text
        return None


@lru_cache(maxsize=16)
def _indices_by_number(values: tuple[str, ...]) -> dict[Decimal, list[int]]:
    """Return the indices of the values that are numbers, by number."""
    indices: dict[Decimal, list[int]] = {}
    for index, name in enumerate(values):
        if (number := parse_number(name)) is not None:
            indices.setdefault(number, []).append(index)
    return indices
