"""Inference of the conditions of images: the values under which the negative bound is lowest.

The bound is evaluated at the mean of the code. The distortion alone is not enough, because an image can be
reconstructed well under a wrong condition from an unlikely code.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cvae.conditions import ATTRIBUTES, CATEGORY, Condition, single_category
from cvae.runtime.arguments import Indices
from cvae.runtime.conditions import condition_rows
from cvae.runtime.density import gaussian_kl, log_prob

if TYPE_CHECKING:
    from cvae.runtime.model import Model

CANDIDATES = 17
"""Number of values of a number that are compared, first over its range, and then around the best of them."""

SWEEPS = 2
"""Number of times that each condition is inferred, given the values of the others."""

Bound = Callable[[np.ndarray], np.ndarray]
"""Function that returns the negative bound (N,) in nats of a batch of images, for the rows of their conditions."""


def explain(
    model: "Model", batch: np.ndarray, values: Mapping[str, Any], label_index: Indices, *, extrapolate: bool
) -> np.ndarray | None:
    """Return the rows of `Model.explain`.

    Args:
        model: Model with an encoder.
        batch: Images (N, C, H, W) in [0, 1].
        values: Values of conditions by name, from `cvae.runtime.conditions.collect_values`.
        label_index: Indices of the class of a model with a single category, instead of a value.
        extrapolate: Whether to accept numbers beyond the range of the training data.
    """
    conditions = model.spec.conditions
    rows: np.ndarray | None
    if single_category(conditions) is None:
        fixed = [condition.name in values for condition in conditions]
        rows = condition_rows(model.spec, len(batch), values=values, extrapolate=extrapolate)
    elif values or label_index is not None:
        return condition_rows(model.spec, len(batch), None, label_index, values)
    else:
        fixed, rows = [False], np.zeros(len(batch), np.int64)
    return None if rows is None else infer_rows(conditions, rows, fixed, lambda rows: _bound(model, batch, rows))


def _bound(model: "Model", batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the negative bound (N,) of images in nats, evaluated at the mean of their codes."""
    mean, std = model.encode_rows(batch, rows)
    distortion = -log_prob(model.spec, batch, model.decode_rows(mean, rows)).sum(axis=(1, 2, 3))  # -> (N,)
    return distortion + gaussian_kl(mean, std).sum(1)  # (N, Z) -> (N,)


def infer_rows(conditions: Sequence[Condition], rows: np.ndarray, fixed: Sequence[bool], bound: Bound) -> np.ndarray:
    """Return rows in which every condition that is not fixed is known.

    They are inferred one after the other, each with the value of the lowest negative bound given the values of the
    others.

    Args:
        conditions: Conditions of the model.
        rows: Rows (N, W), or indices (N,) for a single category. Conditions that are not fixed are unknown.
        fixed: Whether each condition keeps its value.
        bound: Function that returns the negative bound of each image.
    """
    if category := single_category(conditions):
        if fixed[0]:
            return rows
        nats = [bound(np.full(len(rows), index)) for index in range(len(category.values))]
        return np.argmin(nats, axis=0)
    if all(fixed):
        return rows
    offset = rows.shape[1] - len(conditions)
    for _ in range(SWEEPS):
        column = 0
        for i, condition in enumerate(conditions):
            if not fixed[i]:
                rows = _infer(condition, rows, column, offset + i, bound)
            column += condition.columns
    return rows


def _infer(condition: Condition, rows: np.ndarray, column: int, known: int, bound: Bound) -> np.ndarray:
    """Infer one condition, whose values begin at the index `column`, and whose known flag has the index `known`."""
    rows = rows.copy()
    rows[:, known] = 1
    if condition.kind == CATEGORY:
        return _choose(rows, column, np.arange(len(condition.values))[:, None], bound)
    if condition.kind == ATTRIBUTES:
        for i in range(condition.columns):
            rows = _choose(rows, column + i, np.array([[0], [1]]), bound)
        return rows
    low, high = condition.range
    step = (high - low) / (CANDIDATES - 1)
    rows = _choose(rows, column, np.linspace(low, high, CANDIDATES)[:, None], bound)
    offsets = np.linspace(-step, step, CANDIDATES)[:, None]
    return _choose(rows, column, np.clip(rows[None, :, column] + offsets, low, high), bound)


def _choose(rows: np.ndarray, column: int, candidates: np.ndarray, bound: Bound) -> np.ndarray:
    """Set a column of each row to the candidate, (K, 1) or (K, N), with the lowest negative bound."""
    trials = np.repeat(rows[None], len(candidates), axis=0)  # (K, N, W)
    trials[:, :, column] = candidates
    nats = np.array([bound(trial) for trial in trials])  # (K, N)
    return trials[np.argmin(nats, axis=0), np.arange(len(rows))]
