"""Parsing of flags that choose classes: a single class, a list such as `3,4`, or a range such as `0-9`.

A value that equals the name of a class always means that class. `3-4` is a range unless a class has this name.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from cvae import model_zoo
from cvae.conditions import DIGITS, Condition, quote_value
from cvae.errors import UsageError, count_of, one_line

if TYPE_CHECKING:
    from cvae.spec import Spec

Labels = str | float | Sequence[str | float]
"""Names of classes. A numeric name may be given as a number. A string may contain a list or a range."""

Indices = str | int | Sequence[str | int]
"""Indices of classes, counted from 0. A string may contain a list or a range."""


def choose_classes(spec: "Spec", **flags: Labels | Indices | None) -> list[int] | None:
    """Return the indices of the classes that the flags choose, in the order listed, or None if no flag is set.

    Args:
        spec: spec of the model.
        flags: values by flag name. `digit` takes digits, a flag whose name ends with "index" takes indices, and all
            others take class names.

    Raises:
        UsageError: If the model has no such class, or two flags contradict each other.
    """
    choices = _read_flags(spec, flags)
    if len({tuple(indices) for indices in choices.values()}) > 1:
        raise UsageError(f"{' and '.join(choices)} contradict each other; pass only one of them")
    return next(iter(choices.values()), None)


def choose_class(spec: "Spec", **flags: Labels | Indices | None) -> int | None:
    """Return the index of the one class that the flags choose, or None if no flag is set.

    Raises:
        UsageError: If the flags choose several classes, or for the reasons that `choose_classes` lists.
    """
    indices = choose_classes(spec, **flags)
    if indices is not None and len(indices) > 1:
        raise UsageError(f"{_quote_flags(flags)}: {len(indices)} classes, but only one is allowed; pass a single class")
    return None if indices is None else indices[0]


def choose_image_classes(spec: "Spec", count: int, **flags: Labels | Indices | None) -> list[int] | None:
    """Return the indices of the classes that the flags choose for `count` images, or None if no flag is set.

    Raises:
        UsageError: If the flags choose neither one class for all images nor one for each, or for the reasons that
            `choose_classes` lists.
    """
    indices = choose_classes(spec, **flags)
    if indices is None or len(indices) == count:
        return indices
    if len(indices) > 1:
        raise UsageError(
            f"{_quote_flags(flags)}: {len(indices)} classes for {count_of(count, 'image')}; give one class "
            "for all images, or one for each"
        )
    return indices * count


def parse_labels(spec: "Spec", value: str | float) -> list[int]:
    """Return the indices of the classes that a value stands for (see `parse_names`).

    Raises:
        UsageError: If the model has no labels, or a class is unknown.
    """
    if (category := spec.category) is None or not isinstance(value, str):
        return [spec.label_index(value)]
    return parse_names(category, value, spec.name)


def parse_names(category: Condition, text: str, model: str) -> list[int]:
    """Return the indices of the values of a category that a text stands for: a name, or a list or range of names.

    A range of numbers contains all values whose numbers are in the range. Any other range contains the values from the
    first to the last, in the order of the model. An unknown value has the index K.

    Raises:
        UsageError: If there is no value of a name, or an unknown value is not allowed.
    """

    def index(name: str) -> int:
        parsed = category.parse(name, model)
        return len(category.values) if parsed is None else int(parsed[0])

    def find(name: str) -> int | None:
        try:
            return category.index(name, model)
        except UsageError:
            return None

    if find(text) is None:
        if "," in text:
            return [i for part in text.split(",") for i in parse_names(category, part.strip(), model)]
        for match in re.finditer("-", text):
            first, last = find(text[: match.start()]), find(text[match.end() :])
            if first is not None and last is not None:
                return _expand(category.values, first, last)
        start, _, end = text.partition("-")
        if start and end and (find(start) is None) != (find(end) is None):
            index(end if find(end) is None else start)  # raises an error about the unknown end
    return [index(text)]


def _parse_digits(spec: "Spec", value: str | float) -> list[int]:
    """Parse the value of `digit` like `parse_labels`, after checking that the model has classes that are numbers."""
    quoted = f"--digit {quote_value(value)}"
    if (category := spec.category) is None:
        raise UsageError(
            f"{spec.name!r} was trained without labels, so it does not accept {quoted}; remove it, or choose a model "
            f"of digits: -m {model_zoo.DEFAULT}"
        )
    if not any(DIGITS.fullmatch(name) for name in category.values):
        names = ", ".join(category.values[:10]) + ", ..." * (len(category.values) > 10)
        raise UsageError(
            f"{quoted}: the classes of {spec.name!r} are not digits but {one_line(names)}; choose one with "
            f"--label {shlex.quote(category.values[0])}"
        )
    return parse_labels(spec, value)


def _parse_indices(spec: "Spec", value: str | int) -> list[int]:
    """Return the indices that a value stands for: an integer, or a string with an integer, a list or a range."""
    if spec.category is None or not isinstance(value, str):
        return [spec.check_index(value)]  # type: ignore[arg-type]  # raises an error without labels
    indices: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if match is None:
            raise UsageError(
                f"class index {quote_value(value)}: it must be an integer, a list such as 0,2, or a range such as 0-3"
            )
        first, last = (spec.check_index(int(number)) for number in (match[1], match[2] or match[1]))
        indices += _interval(first, last)
    return indices


def _read_flags(spec: "Spec", flags: dict[str, Any]) -> dict[str, list[int]]:
    """Return the class indices that each flag chooses, keyed by the flag and its value, such as "--label 7"."""
    choices = {}
    for flag, value in flags.items():
        parse: Callable[[Spec, Any], list[int]] = parse_labels
        if flag == "digit":
            parse = _parse_digits
        elif flag.endswith("index"):
            parse = _parse_indices
        if values := _as_list(value):
            choices[_quote_flag(flag, values)] = [index for item in values for index in parse(spec, item)]
    return choices


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return [value]
    return list(value)


def _quote_flags(flags: dict[str, Any]) -> str:
    return " and ".join(_quote_flag(flag, values) for flag, value in flags.items() if (values := _as_list(value)))


def _quote_flag(flag: str, values: list[Any]) -> str:
    text = ",".join(map(str, values))
    return f"--{flag.replace('_', '-')} {quote_value(text) if not flag.endswith('index') else one_line(text, 80)}"


def _expand(classes: tuple[str, ...], first: int, last: int) -> list[int]:
    """Return the indices of the classes from `first` to `last`, ordered by number if both ends are numbers."""
    numbers = {index: Decimal(name) for index, name in enumerate(classes) if DIGITS.fullmatch(name)}
    if first not in numbers or last not in numbers:
        return _interval(first, last)
    low, high = sorted((numbers[first], numbers[last]))
    return sorted(
        (index for index, number in numbers.items() if low <= number <= high),
        key=lambda index: numbers[index],
        reverse=numbers[first] > numbers[last],
    )


def _interval(first: int, last: int) -> list[int]:
    """Return the integers from `first` to `last`, in descending order if `last` is smaller."""
    return list(range(first, last + 1) if first <= last else range(first, last - 1, -1))
