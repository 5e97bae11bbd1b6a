"""Values of conditions that are passed to a model's methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cvae.condition_rows import make_rows, read_rows, unknown_rows
from cvae.conditions import ATTRIBUTES, CATEGORY, LABEL, NUMBER, Condition, quote_value, single_category
from cvae.errors import UsageError, suggest
from cvae.runtime.arguments import Indices, Labels, label_indices
from cvae.spec import Spec

Values = Mapping[str, Any]
"""Values by the name of the condition: one for all images, or a sequence with one for each. None stands for unknown."""


def collect_values(spec: Spec, label: Labels, label_index: Indices, values: Values) -> dict[str, Any]:
    """Return the values of a call by the name of the condition, including the label. Values that are None are left out.

    Raises:
        UsageError: If the model has no condition of a name, or two arguments set the same condition.
    """
    if label is not None and label_index is not None:
        raise UsageError(
            f"label {quote_value(label)} and label_index {quote_value(label_index)} both choose the class; give one"
        )
    names = [condition.name for condition in spec.conditions]
    for name in values:
        if name not in names:
            fix = suggest(name, names) if names else "it was trained without conditions"
            raise UsageError(f"{spec.name!r} has no condition {quote_value(name)}; {fix}")
    collected = {name: value for name, value in values.items() if value is not None}
    if label is None and label_index is None:
        return collected
    if (category := spec.category) is None:
        label_indices(spec, label, label_index, 1)  # raises an error
    assert category is not None
    if category.name in collected:
        raise UsageError(f"label and the condition {category.name} both choose the {category.name}; give one of them")
    if label_index is not None and single_category(spec.conditions) is None:
        indices = np.vectorize(lambda index: category.check_index(index, spec.name), otypes=[int])(label_index)
        label = np.array(category.values, object)[indices]
    return collected | ({} if label is None else {category.name: label})


def condition_rows(
    spec: Spec,
    count: int,
    label: Labels = None,
    label_index: Indices = None,
    values: Values | None = None,
    *,
    extrapolate: bool = False,
    what: str = "images",
) -> np.ndarray | None:
    """Return the rows of the conditions of `count` images, or None for a model without conditions.

    Args:
        spec: Spec of the model.
        count: Number of rows.
        label: Name of the class, or `count` names.
        label_index: Index of the class or `count` indices, instead of `label`.
        values: Values of the conditions by name. A condition that is left out is unknown.
        extrapolate: Accept numbers beyond the range of the training data.
        what: Plural noun for what has the conditions, for error messages.

    Raises:
        UsageError: If the model has no such condition or value, or must know a condition that is left out.
    """
    collected = collect_values(spec, label, label_index, values or {})
    if category := single_category(spec.conditions):
        label = collected.get(category.name, label)
        if label is None and label_index is None and category.optional:
            return unknown_rows(spec.conditions, count)
        return label_indices(spec, label, label_index, count, what)
    columns: dict[str, np.ndarray] = {}
    known = np.zeros((count, len(spec.conditions)), bool)
    for i, condition in enumerate(spec.conditions):
        parsed = _parse(condition, collected.get(condition.name), count, spec.name, extrapolate, what)
        known[:, i] = [value is not None for value in parsed]
        zeros = (0.0,) * condition.columns
        array = np.array([zeros if value is None else value for value in parsed])
        columns[condition.name] = array if condition.kind == ATTRIBUTES else array[:, 0]
    return make_rows(spec.conditions, columns, known) if spec.conditions else None


def replace_values(
    spec: Spec,
    rows: np.ndarray | None,
    values: Values,
    label_index: Indices = None,
    *,
    count: int,
    extrapolate: bool = False,
) -> np.ndarray | None:
    """Return rows with new values of some conditions.

    Args:
        spec: Spec of the model.
        rows: Rows of `count` images; None for a model without conditions.
        values: New values by name, from `collect_values`.
        label_index: New indices of the class of a model with a single category, instead of a value.
        count: Number of rows.
        extrapolate: Accept numbers beyond the range of the training data.

    Raises:
        UsageError: If a value does not fit the model.
    """
    if rows is None or single_category(spec.conditions):
        return condition_rows(spec, count, None, label_index, values)
    new = condition_rows(spec, count, None, None, values, extrapolate=extrapolate)
    assert new is not None
    is_new = [condition.name in values for condition in spec.conditions]
    return _merge(spec.conditions, rows, new, np.tile(is_new, (count, 1)))


def count_values(spec: Spec, values: Values) -> int | None:
    """Return the length of the first sequence with a value for each image, or None if there is none.

    Raises:
        UsageError: If a sequence is empty.
    """
    for condition in spec.conditions:
        value = values.get(condition.name)
        if value is not None and is_per_image(condition, value):
            if not len(value):
                what = LABEL if condition.name == LABEL else "value"
                raise UsageError(f"{condition.name} is an empty list; give at least one {what}")
            return len(value)
    return None


def is_per_image(condition: Condition, value: Any) -> bool:
    """Return whether a value is a sequence with one value for each image, rather than one value for all images."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__len__"):
        return False
    if condition.kind != ATTRIBUTES or len(condition.values) == 1:
        return True
    return not len(value) or all(
        item is None or isinstance(item, str | Mapping) or hasattr(item, "__len__") for item in value
    )


def _parse(
    condition: Condition, value: Any, count: int, model: str, extrapolate: bool, what: str
) -> Sequence[tuple[float, ...] | None]:
    """Return the parsed value of each image."""
    if value is None or not is_per_image(condition, value):
        return [condition.parse(value, model, extrapolate=extrapolate)] * count
    if len(value) != count:
        raise UsageError(f"{len(value)} values of {condition.name} for {count} {what}: give one value, or one for each")
    items = value.tolist() if isinstance(value, np.ndarray) else value
    return [condition.parse(item, model, extrapolate=extrapolate) for item in items]


def fill_unknown(conditions: Sequence[Condition], rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return rows whose unknown values are replaced by those of other rows."""
    return _merge(conditions, rows, others, ~read_rows(conditions, rows)[1])


def _merge(conditions: Sequence[Condition], rows: np.ndarray, others: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return rows with the values of other rows where a mask (N, number of conditions) is true."""
    (values, known), (other_values, other_known) = read_rows(conditions, rows), read_rows(conditions, others)
    merged = {}
    for i, condition in enumerate(conditions):
        is_other = mask[:, i, None] if condition.kind == ATTRIBUTES else mask[:, i]
        merged[condition.name] = np.where(is_other, other_values[condition.name], values[condition.name])
    return make_rows(conditions, merged, np.where(mask, other_known, known))


def interpolate_numbers(
    conditions: Sequence[Condition], start: np.ndarray, end: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Return rows (steps, W) whose numbers pass from those of a row to those of another. The rest is that of `start`.

    Args:
        conditions: Conditions of the model.
        start: First row, (1, W).
        end: Last row, (1, W).
        positions: Positions in 0..1, (steps, 1).
    """
    rows = np.repeat(start, len(positions), axis=0)
    if single_category(conditions):
        return rows
    known = read_rows(conditions, start)[1] & read_rows(conditions, end)[1]
    column = 0
    for i, condition in enumerate(conditions):
        if condition.kind == NUMBER and known[0, i]:
            rows[:, column] = start[0, column] + positions[:, 0] * (end[0, column] - start[0, column])
        column += condition.columns
    return rows


def describe_rows(conditions: Sequence[Condition], rows: np.ndarray | None) -> list[dict[str, Any]]:
    """Return the values of each row by name: a name, a number, yes or no (a bool), or a list of attributes.

    Unknown values are None.
    """
    return [] if rows is None else [_describe_row(conditions, rows[i : i + 1]) for i in range(len(rows))]


def to_arrays(conditions: Sequence[Condition], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values of rows by name, in the form in which `--data npz:` reads them.

    A category gives names (N,), and "" is an unknown value. A number or a single attribute gives float32 (N,), and
    several attributes give float32 (N, K); NaN is an unknown value.
    """
    values, known = read_rows(conditions, rows)
    arrays = {}
    for i, condition in enumerate(conditions):
        value = values[condition.name]
        if condition.kind == CATEGORY:
            names = np.array([*condition.values, ""])
            arrays[condition.name] = names[np.where(known[:, i], value, len(condition.values)).astype(int)]
            continue
        value = value[:, 0] if value.ndim == 2 and condition.columns == 1 else value
        arrays[condition.name] = np.where(known[:, i, None] if value.ndim == 2 else known[:, i], value, np.nan)
    return {name: array if array.dtype.kind == "U" else array.astype(np.float32) for name, array in arrays.items()}


def _describe_row(conditions: Sequence[Condition], row: np.ndarray) -> dict[str, Any]:
    values, known = read_rows(conditions, row)
    described: dict[str, Any] = {}
    for i, condition in enumerate(conditions):
        value = values[condition.name][0]
        if not known[0, i]:
            described[condition.name] = None
        elif condition.kind == NUMBER:
            described[condition.name] = float(str(value))  # the shortest decimal number with this value
        elif condition.kind == ATTRIBUTES:
            names = [name for name, flag in zip(condition.values, value, strict=True) if flag > 0.5]
            described[condition.name] = bool(names) if condition.values == (condition.name,) else names
        else:
            described[condition.name] = condition.values[int(value)]
    return described
