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
from cvae.runtime.session import CHUNK

if TYPE_CHECKING:
    from cvae.runtime.model import Model

CANDIDATES = 17
"""Number of values of a number that are compared, first over its range, and then around the best of them."""

SWEEPS = 2
"""Number of times that each condition is inferred, given the values of the others, if there are several."""

Bound = Callable[[np.ndarray], np.ndarray]
"""Function from the rows (K*N, W) of K candidates for each of N images to the negative bounds (K*N,) in nats."""


def explain(
    model: "Model",
    batch: np.ndarray,
    values: Mapping[str, Any],
    label_index: Indices = None,
    *,
    extrapolate: bool = False,
) -> np.ndarray | None:
    """Return the rows of the conditions of images, or None for a model without conditions.

    Conditions without a value get the one under which the negative bound is lowest.

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
    """Return the negative bounds (K*N,) of N images under K rows each, evaluated at the mean of their codes."""
    batch = np.tile(batch, (len(rows) // len(batch), 1, 1, 1))
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
        bound: Function that returns negative bounds.
    """
    if category := single_category(conditions):
        if fixed[0]:
            return rows
        return np.argmin(_evaluate(np.arange(len(category.values))[:, None].repeat(len(rows), axis=1), bound), axis=0)
    if all(fixed):
        return rows
    offset = rows.shape[1] - len(conditions)
    columns = sum(condition.columns for condition, known in zip(conditions, fixed, strict=True) if not known)
    for _ in range(SWEEPS if columns > 1 else 1):  # a single value would be inferred again
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
    return trials[np.argmin(_evaluate(trials, bound), axis=0), np.arange(len(rows))]


def _evaluate(trials: np.ndarray, bound: Bound) -> np.ndarray:
    """Return the negative bounds (K, N) of trials: rows (K, N, W), or indices (K, N) of a single category.

    Several candidates are evaluated at once, because a batch takes far less time than as many single images.
    """
    candidates, count = trials.shape[:2]
    step = max(1, CHUNK // count)
    parts = [trials[i : i + step].reshape(-1, *trials.shape[2:]) for i in range(0, candidates, step)]
    return np.concatenate([bound(part) for part in parts]).reshape(candidates, count)
