"""Calibration of anomaly scores with normal images: thresholds and a combined score. Torch-free."""

import math
from collections.abc import Mapping

import numpy as np

from cvae.detection.scores import NEIGHBOURS, Measurement

COMBINED = ("local", "neighbours", "ratio")
"""Scores that `combined` is made of: one of the pixels, one of the code, one of the label. None finds every anomaly."""

TAIL = 0.1
"""Fraction of normal scores, the highest, whose distribution is fitted rather than counted."""

FOLDS = 10
"""Number of folds in which normal images are scored against all others."""

MIN_IMAGES = 20
"""Minimum number of images for a label to have a mean and standard deviation of its own."""


def ratio_by_label(normal: Measurement, labels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the ratio per best label, or over all images if a label has too few."""
    assert normal.ratio is not None
    centre, scale = [], []
    for label in range(labels):
        ratio = normal.ratio[normal.label == label]
        ratio = ratio if len(ratio) >= MIN_IMAGES else normal.ratio
        centre.append(float(ratio.mean()))
        scale.append(float(ratio.std().clip(min=1e-6)))
    return tuple(centre), tuple(scale)


def conformal_threshold(score: np.ndarray, quantile: float) -> float:
    """Return the score that a new normal image does not exceed with probability `quantile`, from normal scores (M,).

    Split conformal prediction (Lei et al. 2018, algorithm 2, https://arxiv.org/abs/1604.04173). With too few images for
    it, this is the largest score.
    """
    rank = min(len(score), math.ceil((len(score) + 1) * quantile))
    return float(np.sort(score)[rank - 1])


def sorted_scores(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the scores (M,) of normal images that are in `COMBINED`, each sorted, as (M, S)."""
    return np.sort([scores[name].astype(np.float64) for name in COMBINED if name in scores], axis=1).T


def combine(scores: Mapping[str, np.ndarray], calibration: np.ndarray) -> np.ndarray:
    """Combine the scores in `COMBINED` by Fisher's method: -2 sum ln p.

    Fisher 1932, Statistical Methods for Research Workers, 4th edition, section 21.1. The scores depend on each other,
    so the sum is not chi-squared distributed, and its threshold is a quantile too.
    """
    parts = [scores[name] for name in COMBINED if name in scores]
    logs = [log_p_value(score, normal) for score, normal in zip(parts, calibration.T, strict=True)]
    return -2 * np.sum(logs, axis=0) + 0.0  # adding 0.0 turns -0.0 into 0.0


def combine_normal(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the combined scores (M,) of normal images, each fold scored against the others, as new images are."""
    fold = np.arange(len(next(iter(scores.values())))) % FOLDS
    combined = np.zeros(len(fold))
    for mask in (fold == number for number in range(FOLDS)):
        others = sorted_scores({name: score[~mask] for name, score in scores.items()})
        combined[mask] = combine({name: score[mask] for name, score in scores.items()}, others)
    return combined


def log_p_value(score: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the log p-value of each score (N,): the fraction of the sorted normal scores (M,) that are not lower.

    In the highest `TAIL` of the normal scores and beyond, it follows an exponential fitted there (peaks over threshold,
    Pickands 1975, https://doi.org/10.1214/aos/1176343003, with shape 0), so that different extremes differ.
    """
    count = len(normal)
    tail = min(max(NEIGHBOURS, int(TAIL * count)), count - 1)
    start, share = normal[-tail - 1], tail / count
    excess = max((normal[-tail:] - start).mean(), 1e-6 * max(1.0, abs(start)))
    lower = np.searchsorted(normal, score) / count  # (N,)
    return np.log(np.maximum(1 - lower, share)) - np.maximum(score - start, 0) / excess
