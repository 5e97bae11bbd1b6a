"""Rows of an array that store the values of all conditions of images.

- If a model has a single category, the rows are indices (N,) int64. K stands for an unknown value.
- Otherwise the rows are (N, W) float32: one column for the index of a category or for a number, K columns of 0 or 1 for
  K attributes, and then one column for each condition that is 1 if its value is known, and 0 if it is unknown.

Does not import torch.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cvae.conditions import ATTRIBUTES, CATEGORY, KNOWN, LABEL, Condition, graph_inputs, single_category


def count_columns(conditions: Sequence[Condition]) -> int:
    """Return the number of columns W of a row, of the values and the known flags."""
    return sum(condition.columns for condition in conditions) + len(conditions)


def unknown_rows(conditions: Sequence[Condition], count: int) -> np.ndarray | None:
    """Return rows in which every condition is unknown, or None for a model without conditions."""
    if not conditions:
        return None
    if category := single_category(conditions):
        return np.full(count, len(category.values))
    return np.zeros((count, count_columns(conditions)), np.float32)


def make_rows(conditions: Sequence[Condition], values: Mapping[str, np.ndarray], known: np.ndarray) -> np.ndarray:
    """Return the rows of values.

    Args:
        conditions: the conditions.
        values: value of each condition by name: (N,) or, for attributes, (N, K). Those of unknown values are ignored.
        known: whether each value is known, (N, number of conditions) bool.
    """
    if category := single_category(conditions):
        return np.where(known[:, 0], values[category.name], len(category.values)).astype(np.int64)
    columns = []
    for i, condition in enumerate(conditions):
        columns.append(np.where(known[:, i, None], np.reshape(values[condition.name], (len(known), -1)), 0))
    return np.concatenate([*columns, known], axis=1).astype(np.float32)


def read_rows(conditions: Sequence[Condition], rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the values by name and the known flags (N, number of conditions) of rows, as `make_rows` takes them."""
    if category := single_category(conditions):
        return {category.name: rows}, (rows < len(category.values))[:, None]
    values, start = {}, 0
    for condition in conditions:
        columns = rows[:, start : start + condition.columns]
        values[condition.name] = columns if condition.kind == ATTRIBUTES else columns[:, 0]
        start += condition.columns
    return values, rows[:, start:] > 0


def label_category(conditions: Sequence[Condition]) -> tuple[int, Condition]:
    """Return the category named label, or else the first one, and its index, of conditions with at least one."""
    categories = [(i, condition) for i, condition in enumerate(conditions) if condition.kind == CATEGORY]
    return next(((i, category) for i, category in categories if category.name == LABEL), categories[0])


def read_category(conditions: Sequence[Condition], rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the index of each row's value of the first category, (N,) int64, and the number K of its values.

    The index of an unknown value is K.
    """
    i, category = label_category(conditions)
    values, known = read_rows(conditions, rows)
    count = len(category.values)
    return np.where(known[:, i], values[category.name], count).astype(np.int64), count


def feed(conditions: Sequence[Condition], rows: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the inputs of a graph for rows, by name."""
    if rows is None:
        return {}
    values, known = read_rows(conditions, rows)
    types = graph_inputs(conditions)
    inputs = {name: np.ascontiguousarray(value, types[name].dtype) for name, value in values.items()}
    return inputs | ({KNOWN: known} if KNOWN in types else {})
