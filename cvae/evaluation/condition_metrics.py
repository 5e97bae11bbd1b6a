"""How well images obey their conditions, by the outputs of a network that predicts conditions. Does not import torch.

The network has K outputs for a category (logits), one for a number (its value), and K for K attributes (logits).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cvae.condition_rows import read_rows
from cvae.conditions import ATTRIBUTES, CATEGORY, NUMBER, Condition

Scores = Mapping[str, Mapping[str, Any]]
"""Metrics by the name of the condition: `accuracy`, or `mean_absolute_error` and `correlation` of a number.

Several attributes also have `accuracy_per_attribute`, by the name of the attribute.
"""


def count_outputs(condition: Condition) -> int:
    """Return the number of outputs that predict a condition."""
    return 1 if condition.kind == NUMBER else len(condition.values)


def split_outputs(conditions: Sequence[Condition], outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs (N, O) of each condition by name."""
    ends = np.cumsum([count_outputs(condition) for condition in conditions])
    parts = np.split(outputs, ends[:-1], axis=1)
    return {condition.name: part for condition, part in zip(conditions, parts, strict=True)}


def read_outputs(conditions: Sequence[Condition], outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return the predicted values by name: indices (N,), numbers (N,), or attributes (N, K) that are 0 or 1."""
    values = split_outputs(conditions, outputs)
    for condition in conditions:
        part = values[condition.name]
        if condition.kind == CATEGORY:
            values[condition.name] = part.argmax(1)
        else:
            values[condition.name] = part[:, 0] if condition.kind == NUMBER else (part > 0).astype(np.float32)
    return values


def score_conditions(
    conditions: Sequence[Condition], rows: np.ndarray, predicted: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Compare predicted values with those in rows, where these are known.

    Args:
        conditions: conditions of the rows.
        rows: rows of N images (see `cvae.condition_rows`).
        predicted: predicted values by name, as in `read_outputs`.

    Returns:
        The scores of each condition that is predicted and known for at least one image. The accuracy of attributes is
        the mean over images and attributes. The correlation is Pearson's; it is None if all values are equal.
    """
    values, known = read_rows(conditions, rows)
    scores: dict[str, dict[str, Any]] = {}
    for i, condition in enumerate(conditions):
        mask = known[:, i]
        if condition.name not in predicted or not mask.any():
            continue
        expected, actual = values[condition.name][mask], predicted[condition.name][mask]
        if condition.kind == NUMBER:
            error = float(np.abs(actual.astype(np.float64) - expected).mean())
            scores[condition.name] = {"mean_absolute_error": error, "correlation": correlation(actual, expected)}
        else:
            scores[condition.name] = {"accuracy": float((actual == expected).mean())}
            if condition.kind == ATTRIBUTES and len(condition.values) > 1:
                per_attribute = map(float, (actual == expected).mean(axis=0))  # (N, K) -> (K,)
                scores[condition.name]["accuracy_per_attribute"] = dict(
                    zip(condition.values, per_attribute, strict=True)
                )
    return scores


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Pearson's correlation of numbers (N,), or None if all numbers of an array are equal."""
    a, b = (values.astype(np.float64) for values in (a, b))
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1].clip(-1, 1))


def is_same(a: Condition, b: Condition) -> bool:
    """Return whether two conditions have the same name, kind and values, so that their rows mean the same."""
    return (a.name, a.kind, a.values) == (b.name, b.kind, b.values)
