"""Calibration: thresholds and a combined score from the scores of normal images. Torch-free."""

import math
from collections.abc import Mapping

import numpy as np

from cvae.detection.scores import NEIGHBOURS, Measurement

COMBINED = ("local", "neighbours", "ratio")
"""What `combined` is made of: what the pixels, the code and the label tell. None of them sees every anomaly."""

TAIL = 0.1
"""Share of the highest normal scores, whose distribution is fitted instead of counted."""

FOLDS = 10
"""Parts in which normal images are scored by all others."""

MIN_IMAGES = 20
"""Images from which on a label has a mean and a deviation of its own."""


def ratio_by_label(normal: Measurement, labels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the ratio for each best label; those of all images where a label has too few."""
    assert normal.ratio is not None
    centre, scale = [], []
    for label in range(labels):
        ratio = normal.ratio[normal.label == label]
        ratio = ratio if len(ratio) >= MIN_IMAGES else normal.ratio
        centre.append(float(ratio.mean()))
        scale.append(float(ratio.std().clip(min=1e-6)))
    return tuple(centre), tuple(scale)


def conformal_threshold(score: np.ndarray, quantile: float) -> float:
    """From the scores (M,) of normal images the one that a new normal image is not above with probability `quantile`.

    Split conformal prediction (Lei et al. 2018, algorithm 2, https://arxiv.org/abs/1604.04173); the largest where there
    are too few images for that.
    """
    rank = min(len(score), math.ceil((len(score) + 1) * quantile))
    return float(np.sort(score)[rank - 1])


def sorted_scores(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Those scores (M,) of normal images that are `COMBINED`, each sorted: (M, S)."""
    return np.sort([scores[name].astype(np.float64) for name in COMBINED if name in scores], axis=1).T


def combine(scores: Mapping[str, np.ndarray], calibration: np.ndarray) -> np.ndarray:
    """Fisher's method: -2 sum ln p over the scores that are `COMBINED` (Fisher 1932, Statistical Methods for Research
    Workers, 4th edition, section 21.1). They depend on each other, so that it is no chi-squared variable; a quantile
    serves."""
    parts = [scores[name] for name in COMBINED if name in scores]
    logs = [log_p_value(score, normal) for score, normal in zip(parts, calibration.T, strict=True)]
    return -2 * np.sum(logs, axis=0) + 0.0  # which makes -0 a 0


def combine_normal(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of the normal images themselves (M,), each fold against all others, so that they score as new ones do."""
    fold = np.arange(len(next(iter(scores.values())))) % FOLDS
    combined = np.zeros(len(fold))
    for own in (fold == number for number in range(FOLDS)):
        others = sorted_scores({name: score[~own] for name, score in scores.items()})
        combined[own] = combine({name: score[own] for name, score in scores.items()}, others)
    return combined


def log_p_value(score: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The logarithm of each score's (N,) p-value: the share of normal ones (M,), sorted, that are no lower.

    Beyond all but `TAIL` of them it falls on as an exponential fitted there (peaks over threshold, Pickands 1975,
    https://doi.org/10.1214/aos/1176343003, with the shape 0), so that no two extremes are alike.
    """
    count = len(normal)
    tail = min(max(NEIGHBOURS, int(TAIL * count)), count - 1)
    start, share = normal[-tail - 1], tail / count
    excess = max((normal[-tail:] - start).mean(), 1e-6 * max(1.0, abs(start)))
    lower = np.searchsorted(normal, score) / count  # (N,)
    return np.log(np.maximum(1 - lower, share)) - np.maximum(score - start, 0) / excess
