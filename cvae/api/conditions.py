"""Parsing of flags that choose values of conditions, such as `--condition age=20,40`.

A flag has one value or several: `age=20,40`, or the flag may be repeated. A list or range of a category is written as
that of classes (see `cvae.api.classes`). The value of several attributes is a list of those that are yes, so several
values of such a condition require several flags.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from cvae.api.classes import Indices, Labels, choose_class, choose_classes, choose_image_classes, parse_names
from cvae.conditions import ATTRIBUTES, CATEGORY, NUMBER, Condition, quote_value
from cvae.errors import UsageError, count_of

if TYPE_CHECKING:
    from cvae.spec import Spec

Conditions = Mapping[str, Any] | Sequence[str]
"""Values of conditions by name: one, or a list of several. Texts of the form NAME=VALUE are accepted, too."""

Values = dict[str, list[Any]]
"""Values by name: for a category its name, for a number a float, for an attribute a bool, for several attributes a
tuple of bools, and None for an unknown value."""


def choose_values(
    spec: "Spec",
    conditions: Conditions | None,
    *,
    option: str = "--condition",
    extrapolate: bool = False,
    **flags: Labels | Indices | None,
) -> Values:
    """Return the values that the flags choose, those of the label first.

    Args:
        spec: spec of the model.
        conditions: values of conditions.
        option: name of the option with these values, for error messages.
        extrapolate: whether to accept numbers beyond the range of the training data.
        flags: values of the flags that choose classes (see `choose_classes`).

    Raises:
        UsageError: If the model has no such condition or value, or two flags contradict each other.
    """
    values: Values = {}
    indices = choose_classes(spec, **flags)
    if indices is not None and spec.category is not None:
        values[spec.category.name] = [[*spec.category.values, None][index] for index in indices]
    for name, items in _list_items(spec, conditions, option).items():
        condition = next(condition for condition in spec.conditions if condition.name == name)
        chosen = [value for item in items for value in _parse(condition, item, spec.name, extrapolate)]
        if not chosen:
            raise UsageError(f"{name} is an empty list; give at least one value")
        if values.get(name, chosen) != chosen:
            flag = next(f"--{flag.replace('_', '-')}" for flag, value in flags.items() if value is not None)
            raise UsageError(f"{flag} and {option} {name} contradict each other; pass only one of them")
        values[name] = chosen
    return values


def choose_value(
    spec: "Spec",
    conditions: Conditions | None,
    *,
    option: str = "--condition",
    extrapolate: bool = False,
    **flags: Labels | Indices | None,
) -> dict[str, Any]:
    """Return the one value of each condition that the flags choose.

    Raises:
        UsageError: If there are several values of a condition, or for the reasons that `choose_values` lists.
    """
    choose_class(spec, **flags)  # raises an error that quotes the flag
    values = choose_values(spec, conditions, option=option, extrapolate=extrapolate, **flags)
    for name, items in values.items():
        if len(items) > 1:
            raise UsageError(f"{len(items)} values of {name}, but only one is allowed; pass a single value")
    return {name: items[0] for name, items in values.items()}


def choose_image_values(
    spec: "Spec",
    count: int,
    conditions: Conditions | None,
    *,
    option: str = "--condition",
    extrapolate: bool = False,
    **flags: Labels | Indices | None,
) -> Values:
    """Return the values of the conditions of each image that the flags choose.

    Raises:
        UsageError: If there is neither one value of a condition for all images nor one for each, or for the reasons
            that `choose_values` lists.
    """
    choose_image_classes(spec, count, **flags)  # raises an error that quotes the flag
    values = choose_values(spec, conditions, option=option, extrapolate=extrapolate, **flags)
    for name, items in values.items():
        if len(items) not in (1, count):
            raise UsageError(
                f"{len(items)} values of {name} for {count_of(count, 'image')}; give one value for all images, or one "
                "for each"
            )
    return {name: items * count if len(items) == 1 else items for name, items in values.items()}


def combine(values: Values) -> list[dict[str, Any]]:
    """Return all combinations of values. The value of the last condition changes first."""
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def to_columns(combinations: Sequence[Mapping[str, Any]], repeats: int = 1) -> Values:
    """Return the values of each condition in a list, which holds each combination `repeats` times."""
    names = combinations[0] if combinations else ()
    return {name: [values[name] for values in combinations for _ in range(repeats)] for name in names}


def describe(spec: "Spec", values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as reports show them: for several attributes, the list of those that are yes."""
    described = dict(values)
    for condition in spec.conditions:
        if isinstance(flags := values.get(condition.name), tuple):
            described[condition.name] = [name for name, flag in zip(condition.values, flags, strict=True) if flag]
    return described


def format_value(condition: Condition, value: Any) -> str:
    """Return a value that `describe` has returned as text, such as "age 40 years", "smiling yes" or "traits none"."""
    if value is None:
        text = "unknown"
    elif condition.kind == NUMBER:
        text = f"{value:.4g}{f' {condition.unit}' if condition.unit else ''}"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = value if isinstance(value, str) else "+".join(value) or "none"
    return f"{condition.name} {text}"


def format_values(conditions: Sequence[Condition], values: Mapping[str, Any]) -> str:
    """Return the values of conditions as text, such as "age 40 years, smiling yes"."""
    return ", ".join(format_value(c, values[c.name]) for c in conditions if c.name in values)


def _split_pair(spec: "Spec", text: str, option: str) -> tuple[str, str]:
    """Split text of the form NAME=VALUE.

    Raises:
        UsageError: If the text has no "=".
    """
    name, equals, value = text.partition("=")
    if not equals:
        example = next((f"{condition.name}=VALUE" for condition in spec.conditions), "NAME=VALUE")
        raise UsageError(f"{option} {quote_value(text)} is not of the form NAME=VALUE, such as {example}")
    return name.strip(), value.strip()


def _list_items(spec: "Spec", conditions: Conditions | None, option: str) -> Values:
    """Return the values of each condition, which are not checked yet, in a list.

    Raises:
        UsageError: If the model has no condition of a name.
    """
    from cvae.runtime.conditions import collect_values, is_per_image

    items: Values = {}
    if conditions is None:
        return items
    if isinstance(conditions, str):
        conditions = [conditions]
    is_mapping = isinstance(conditions, Mapping)
    pairs = list(conditions.items()) if is_mapping else [_split_pair(spec, text, option) for text in conditions]  # type: ignore[union-attr]
    for name, value in pairs:
        collect_values(spec, None, None, {name: value})  # raises an error about an unknown name
        condition = next(condition for condition in spec.conditions if condition.name == name)
        values = list(value) if is_per_image(condition, value) else [value]
        items.setdefault(name, []).extend(values)
    return items


def _parse(condition: Condition, item: Any, model: str, extrapolate: bool) -> list[Any]:
    """Return the values that an item stands for."""
    if condition.kind == CATEGORY and isinstance(item, str):
        return [[*condition.values, None][index] for index in parse_names(condition, item, model)]
    parts = [item]
    if isinstance(item, str) and len(condition.values) <= 1:
        parts = [part.strip() for part in item.split(",")]
    return [_read(condition, condition.parse(part, model, extrapolate=extrapolate)) for part in parts]


def _read(condition: Condition, columns: tuple[float, ...] | None) -> Any:
    """Return the value that the columns of a row hold."""
    if columns is None:
        return None
    if condition.kind == NUMBER:
        return columns[0]
    if condition.kind == ATTRIBUTES:
        flags = tuple(value > 0 for value in columns)
        return flags[0] if condition.values == (condition.name,) else flags
    return condition.values[int(columns[0])]
