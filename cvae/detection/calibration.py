"""Calibration of anomaly scores on normal images: thresholds and a combined score. Does not import torch."""

import math
from collections.abc import Mapping

import numpy as np

from cvae.detection.scores import NEIGHBOURS, Measurement

COMBINED = ("local", "neighbours", "ratio")
"""Scores from which the score `combined` is computed. They measure the pixels, the latent code and the label; none of
them alone finds every anomaly."""

TAIL = 0.1
"""Fraction of the normal scores in the upper tail, where p-values come from a fitted distribution instead of counts."""

NUM_FOLDS = 10
"""Number of folds of normal images. Each fold is compared with the other folds."""

MIN_IMAGES = 20
"""Minimum number of images that a label needs to get its own mean and standard deviation."""


def ratio_statistics(normal: Measurement, num_labels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of `ratio` for each label, over the images that the label fits best.

    A label with fewer than `MIN_IMAGES` images gets the mean and standard deviation of all images.

    Args:
        normal: measurements of normal images.
        num_labels: number of labels.
    """
    assert normal.ratio is not None
    centre, scale = [], []
    for label in range(num_labels):
        ratio = normal.ratio[normal.label == label]
        ratio = ratio if len(ratio) >= MIN_IMAGES else normal.ratio
        centre.append(float(ratio.mean()))
        scale.append(float(ratio.std().clip(min=1e-6)))
    return tuple(centre), tuple(scale)


def conformal_threshold(score: np.ndarray, quantile: float) -> float:
    """Return the threshold that the score of a new normal image exceeds with probability at most 1 - `quantile`.

    The threshold is computed from the scores (M,) of normal images by split conformal prediction (Lei et al. 2018,
    algorithm 2, https://arxiv.org/abs/1604.04173). With too few images for the quantile, it is the largest score.
    """
    rank = min(len(score), math.ceil((len(score) + 1) * quantile))
    return float(np.sort(score)[rank - 1])


def sorted_scores(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sort the M values of each of the S scores in `COMBINED`, and return them as columns (M, S)."""
    return np.sort([scores[name].astype(np.float64) for name in COMBINED if name in scores], axis=1).T


def combine(scores: Mapping[str, np.ndarray], calibration: np.ndarray) -> np.ndarray:
    """Combine the scores in `COMBINED` by Fisher's method: -2 sum ln p.

    Fisher 1932, Statistical Methods for Research Workers, 4th edition, section 21.1. The scores depend on each other,
    so the sum is not chi-squared distributed. Its threshold is therefore an empirical quantile, as for other scores.
    """
    columns = [scores[name] for name in COMBINED if name in scores]
    logs = [log_p_value(score, normal) for score, normal in zip(columns, calibration.T, strict=True)]
    return -2 * np.sum(logs, axis=0) + 0.0  # adding 0.0 turns -0.0 into 0.0


def combine_normal(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the combined scores (M,) of normal images.

    Each fold is compared with the other folds, because an image compared with itself would score lower than a new one.
    """
    fold = np.arange(len(next(iter(scores.values())))) % NUM_FOLDS
    combined = np.zeros(len(fold))
    for mask in (fold == number for number in range(NUM_FOLDS)):
        calibration = sorted_scores({name: score[~mask] for name, score in scores.items()})
        combined[mask] = combine({name: score[mask] for name, score in scores.items()}, calibration)
    return combined


def log_p_value(score: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return the log p-value of each score (N,): the log of the fraction of normal scores that are not lower.

    In the upper tail (the highest `TAIL` of the normal scores, and everything above them), the p-value follows an
    exponential distribution that is fitted to the tail (peaks over threshold with shape 0, Pickands 1975,
    https://doi.org/10.1214/aos/1176343003). Different scores above all normal scores therefore have different p-values.

    Args:
        score: scores (N,).
        normal: scores of normal images (M,), sorted.
    """
    count = len(normal)
    tail = min(max(NEIGHBOURS, int(TAIL * count)), count - 1)
    start, share = normal[-tail - 1], tail / count
    excess = max((normal[-tail:] - start).mean(), 1e-6 * max(1.0, abs(start)))
    lower = np.searchsorted(normal, score) / count  # (N,)
    return np.log(np.maximum(1 - lower, share)) - np.maximum(score - start, 0) / excess
