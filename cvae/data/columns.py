"""Conditions from columns of values: inference of their kinds, and conversion of their values.

A cell of a column is text, and "" stands for an unknown value. `read_cells` converts other values to cells, so that the
same rules hold for tables, arrays and Python objects.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, TypeVar

import numpy as np

from cvae.conditions import ATTRIBUTES, CATEGORY, DIGITS, MAX_VALUES, NO, NUMBER, YES, Condition
from cvae.data.conversion import to_numpy
from cvae.data.listing import join_names
from cvae.errors import UsageError, count_of, one_line
from cvae.serialization import quote
from cvae.text import describe_character, find_unsafe

MAX_INTEGERS = 20
"""Maximum number of distinct integers that are inferred to be a category."""

MIN_OCCURRENCES = 20
"""Minimum number of images with each of these integers."""

MIN_NUMBERS = 0.9
"""Minimum fraction of numbers in a column that is inferred to be a number. Its other values are unknown."""

MAX_NUMBER = 1e30
"""Maximum absolute value of a number, far below that of float32."""

MAX_IDENTIFIERS = 20
"""Number of images above which a text that differs between all images is not taken for a category."""

MIN_NUMBERED = 1000
"""Number of images from which on distinct integers without large gaps are taken for indices and not for a condition."""

Cells = list[str]
"""Values of the images as text, without space around it; "" is an unknown value."""

Result = TypeVar("Result")

Values = tuple[np.ndarray, np.ndarray]
"""Values of a condition, (N,) or (N, K) for attributes, and whether each is known, (N,) bool."""


def read_cells(values: Any, name: str) -> list[Cells]:
    """Convert values to the cells of one column, or of K columns if the values are (N, K).

    Args:
        values: list or array, (N,) or (N, K), of numbers, strings or bools. None and NaN stand for unknown values.
        name: name of the values, for error messages.

    Raises:
        UsageError: If the values have another shape, or a value is of another type.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        try:
            is_list = isinstance(values, list | tuple)
            has_rows = is_list and any(isinstance(value, list | tuple | np.ndarray) for value in values)
            values = np.array([*values, None], object)[:-1] if is_list and not has_rows else to_numpy(values)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{name} is not an array: {one_line(error)}; pass one value for each image") from error
        if values.ndim not in (1, 2) or 0 in values.shape[1:]:
            raise UsageError(f"{name} has shape {values.shape}; pass one value for each image, or bools (N, K)")
        if values.ndim == 2:
            return [_to_cells(column.tolist(), name) for column in values.T]
        values = values.tolist()
    return [_to_cells(values, name)]


def _to_cells(values: Sequence[Any], name: str) -> Cells:
    return [value.strip() if isinstance(value, str) else _to_cell(value, name) for value in values]


def is_unknown(value: Any) -> bool:
    """Return whether a value is None, NaN or a missing value of pandas."""
    if isinstance(value, float):  # includes numpy.float64
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _to_cell(value: Any, name: str) -> str:
    if is_unknown(value):
        return ""
    if isinstance(value, str):
        return value.strip()
    if hasattr(value, "item"):  # a number of numpy, or a tensor with one element
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise UsageError(f"{name} has the value {quote(value)}; pass one number, text or bool per image") from None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, int | float):
        return repr(value)
    raise UsageError(f"{name} has the value {quote(value)}, which is not a number, text or bool; convert it")


def infer_kind(cells: Cells) -> str:
    """Return the kind of the condition that a column of training values is.

    - Values that are all 0/1, true/false or yes/no are an attribute.
    - Integers with at most 20 distinct values, each of which occurs at least 20 times, are a category.
    - Other numbers are a number. A few other values among them are unknown.
    - Text is a category.
    """
    counts = Counter(filter(None, cells))
    if all(cell.lower() in YES | NO for cell in counts):
        return ATTRIBUTES
    if sum(count for cell, count in counts.items() if _to_number(cell) is not None) < MIN_NUMBERS * counts.total():
        return CATEGORY
    if any(_to_integer(cell) is None for cell in counts):
        return NUMBER
    integers: Counter[str] = Counter()
    for cell, count in counts.items():
        integers[_integer_name(cell)] += count
    is_category = len(integers) <= MAX_INTEGERS and min(integers.values()) >= MIN_OCCURRENCES
    return CATEGORY if is_category else NUMBER


def find_defect(cells: Cells, kind: str) -> str | None:
    """Return why a column of training values is of no use as a condition, or None if it is of use."""
    known = [cell for cell in cells if cell]
    if not known:
        return "it has no values"
    if kind == NUMBER:
        distinct: set[Any] = {number for cell in set(known) if (number := _to_number(cell)) is not None}
    else:
        distinct = {cell.lower() in YES for cell in set(known)} if kind == ATTRIBUTES else set(known)
    if not distinct:
        return "it has no numbers"
    if len(distinct) < 2:
        return f"it has the value {quote(known[0])} only"
    if kind == CATEGORY and len(distinct) == len(known) > MAX_IDENTIFIERS:
        return "each image has its own text"
    if kind == NUMBER and len(known) >= MIN_NUMBERED and _is_numbering(distinct, len(known)):
        return "it numbers the images"
    if kind == CATEGORY and len(distinct) > MAX_VALUES:
        return f"it has {len(distinct):,} values, more than {MAX_VALUES:,}"
    return None


def _is_numbering(numbers: set[float], count: int) -> bool:
    """Return whether numbers of `count` images are like the indices of a subset: dense and mostly distinct integers."""
    is_integer = all(number == int(number) for number in numbers)
    return is_integer and len(numbers) > 0.9 * count and max(numbers) - min(numbers) < 2 * count


def make_condition(name: str, kind: str, columns: dict[str, Cells], unit: str | None = None) -> Condition:
    """Return the condition that columns of training values are.

    Args:
        name: name of the condition.
        kind: kind of the condition.
        columns: cells by attribute, or those of a single column.
        unit: unit of a number.

    Raises:
        UsageError: If no image has all attributes, or a text can't be shown.
    """
    cells = next(iter(columns.values()))
    has_unknown = any("" in column for column in columns.values())
    if kind == CATEGORY:
        values = _category_values(cells)
        for value in values:
            if (character := find_unsafe(value)) is not None:
                raise UsageError(
                    f"the value {value!r} of {name!r} has the character {describe_character(character)}, which "
                    "controls, reorders or hides text; change it"
                )
        return Condition(name=name, kind=kind, values=values, optional=has_unknown)
    if kind == ATTRIBUTES:
        known = ~np.isnan([_map(_to_attribute, column) for column in columns.values()])  # (K, N)
        if not known.all(axis=0).any():
            raise UsageError(f"no image has a yes or no in each column of {name!r}; choose another kind or column")
        return Condition(name=name, kind=kind, values=tuple(columns), optional=not known.all())
    numbers = [number for number in _map(_to_number, cells) if number is not None]
    has_unknown = has_unknown or len(numbers) < len(cells)
    return Condition(name=name, kind=kind, low=min(numbers), high=max(numbers), unit=unit, optional=has_unknown)


def convert(condition: Condition, columns: Sequence[Cells], split: str) -> tuple[Values, list[str]]:
    """Return the values of a condition in the images of a split, and notes about values that do not fit.

    Args:
        condition: the condition.
        columns: cells of each attribute, or of a single column.
        split: name of the split, for notes.
    """
    if condition.kind == CATEGORY:
        return _convert_category(condition, columns[0], split)
    if condition.kind == NUMBER:
        return _convert_number(condition, columns[0], split)
    table = np.array([_map(_to_attribute, column) for column in columns], np.float64).T  # (N, K)
    known = ~np.any(np.isnan(table), axis=1)
    bad = [
        cell for column, numbers in zip(columns, table.T, strict=True) for cell in _select(column, np.isnan(numbers))
    ]
    notes = _note(condition, split, bad, "other than yes and no, so unknown")
    if partly := int((~known).sum() - np.isnan(table).all(axis=1).sum()):
        notes.append(f"{condition.name}: unknown in {count_of(partly, 'image')} of {split} without all its attributes")
    return (np.where(known[:, None], table, 0), known), notes


def _convert_category(condition: Condition, cells: Cells, split: str) -> tuple[Values, list[str]]:
    index = {value: i for i, value in enumerate(condition.values)}
    names = [cell if cell in index else _integer_name(cell) for cell in cells]
    known = np.array([name in index for name in names], bool)
    new = _select(cells, ~known)
    values = np.array([index.get(name, 0) for name in names], np.int64)
    return (values, known), _note(condition, split, new, "that train does not have, so unknown")


def _convert_number(condition: Condition, cells: Cells, split: str) -> tuple[Values, list[str]]:
    numbers = _map(_to_number, cells)
    known = np.array([number is not None for number in numbers], bool)
    bad = _select(cells, ~known)
    notes = _note(condition, split, bad, "that can't be read as numbers, so unknown")
    low, high = condition.range
    outside = [
        cell for cell, number in zip(cells, numbers, strict=True) if number is not None and not low <= number <= high
    ]
    notes += _note(condition, split, outside, f"beyond the range {low:g}..{high:g} of train")
    return (np.array([0.0 if number is None else number for number in numbers]), known), notes


def _note(condition: Condition, split: str, cells: Sequence[str], problem: str) -> list[str]:
    """Return a note about values, or no note if there are none."""
    if not cells:
        return []
    count, names = count_of(len(cells), f"{split} value"), join_names(sorted(set(cells)))
    return [f"{condition.name}: {count} {problem}: {names}"]


def _select(cells: Cells, mask: np.ndarray) -> Cells:
    """Return the cells that a mask selects, without the unknown ones."""
    return list(filter(None, compress(cells, mask.tolist())))


def _category_values(cells: Cells) -> tuple[str, ...]:
    """Return the names of the values of a category, sorted; integers are sorted as numbers."""
    names = {cell for cell in cells if cell}
    if any(_to_integer(name) is None for name in names):
        return tuple(sorted(names))
    return tuple(sorted(set(map(_integer_name, names)), key=lambda name: (_to_integer(name), name)))


def _integer_name(cell: str) -> str:
    """Return "3" for "3.0", as pandas writes an integer in a column with missing values."""
    return cell.partition(".")[0] if _to_integer(cell) is not None and "e" not in cell.lower() else cell


def _map(function: Callable[[str], Result], cells: Cells) -> list[Result]:
    """Return the results of a function for cells, calling it once for each distinct cell."""
    results = {cell: function(cell) for cell in set(cells)}
    return [results[cell] for cell in cells]


def _to_number(cell: str) -> float | None:
    if not DIGITS.fullmatch(cell):
        return None
    number = float(cell)
    return number if abs(number) <= MAX_NUMBER else None


def _to_integer(cell: str) -> int | None:
    number = _to_number(cell)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**53 else None


def _to_attribute(cell: str) -> float:
    lower = cell.lower()
    return 1.0 if lower in YES else 0.0 if lower in NO else math.nan
