"""Scores of generated digits: are label, angle and thickness as requested, and distributed as in the data?"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from _morphology import measure_thickness
from scipy import stats
from scipy.spatial import KDTree

Values = dict[str, np.ndarray]
"""The label, the angle in degrees and the thickness in pixels of each image, (N,) each."""

Measure = Callable[[np.ndarray], Values]
"""Function that measures the values of images (N, 1, 28, 28) or (N, 28, 28)."""

SAMPLE = 1000
"""Number of images that are generated to compare the distributions of values."""

UNITS = {"label": 1e-3, "angle": 26.0, "thickness": 0.9}
"""Unit of the distance between values. For a number, it is about the standard deviation."""


class Generator(Protocol):
    """Model with the conditions label, angle and thickness, each of which may be unknown."""

    def generate(self, n: int, *, seed: int, **conditions: np.ndarray) -> np.ndarray:
        """Return images (n, 1, 28, 28) float32 in [0, 1]. A condition that is left out is unknown."""


class Score(NamedTuple):
    """A property of generated images, the same property of real images, and the target."""

    name: str
    value: float
    real: float | None  # None for a p-value
    target: float
    is_error: bool = False  # whether the target is a maximum instead of a minimum

    @property
    def met(self) -> bool:
        return self.value <= self.target if self.is_error else self.value >= self.target


class RealImages:
    """Control that answers each request with the real image whose values are nearest to the requested ones."""

    def __init__(self, images: np.ndarray, values: Values) -> None:
        """Create the control from images (N, 28, 28) uint8 and their values."""
        self.images = images
        self.values = values

    def generate(self, n: int, *, seed: int, **conditions: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(seed)

        def points(values: Values, count: int) -> np.ndarray:
            columns = [values[name] / UNITS[name] for name in conditions]
            return np.column_stack([*columns, 1e-3 * rng.random(count)])  # a random choice between equal distances

        _, nearest = KDTree(points(self.values, len(self.images))).query(points(conditions, n))
        return self.images[nearest, None].astype(np.float32) / 255


def score_all(model: Generator, images: np.ndarray, values: Values, measure: Measure, seed: int = 0) -> list[Score]:
    """Score a model whose training images have angles of the whole range.

    Args:
        model: the model.
        images: real test images (N, 28, 28).
        values: values of these images, which are requested from the model.
        measure: measures the values of real and generated images.
        seed: seed of the images, and of the choice of values where not all are requested.
    """
    real = measure(images)
    generated = model.generate(len(images), seed=seed, **values)
    scores = _score_requested(values, measure(generated), real)
    correlation = np.corrcoef(values["thickness"], measure_thickness(generated))[0, 1]
    scores.append(Score("thickness by the distance transform: correlation", float(correlation), 1.0, 0.98))
    for offset, name in enumerate(values, 1):
        rows = np.random.default_rng([seed, offset]).choice(len(images), min(SAMPLE, len(images)), replace=False)
        request = {name: values[name][rows]}
        measured = measure(model.generate(len(rows), seed=seed + offset, **request))
        scores += _score_requested(request, measured, {name: real[name][rows]}, text=f", only {name} known")
        scores += [
            Score(f"distribution of {other}, only {name} known: p", compare(measured[other], real[other]), None, 0.01)
            for other in values
            if other != name
        ]
    return scores


def score_held_out(
    model: Generator, images: np.ndarray, values: Values, measure: Measure, low: float, high: float, seed: int = 0
) -> list[Score]:
    """Score a model in the range of angles that its training images lack. The arguments are those of `score_all`."""
    inside = (values["angle"] > low) & (values["angle"] < high)
    request = {name: array[inside] for name, array in values.items()}
    measured = measure(model.generate(int(inside.sum()), seed=seed, **request))
    return _score_requested(request, measured, measure(images[inside]), f", {low:g} to {high:g} degrees", max_ratio=2)


def compare(sample: np.ndarray, real: np.ndarray) -> float:
    """Return the p-value of a two-sample test: chi-squared for integers, and Kolmogorov-Smirnov for numbers."""
    if not np.issubdtype(real.dtype, np.integer):
        return float(stats.ks_2samp(sample, real, method="asymp").pvalue)
    counts = np.stack([np.bincount(labels, minlength=10) for labels in (sample, real)])
    return float(stats.chi2_contingency(counts[:, counts.any(0)]).pvalue)


def _score_requested(
    requested: Values, measured: Values, real: Values, text: str = "", max_ratio: float = 1.2
) -> list[Score]:
    """Compare requested values with those measured on generated images and on real images that have these values."""
    scores = []
    for name, array in requested.items():
        pair = measured[name], real[name]
        if name == "label":
            accuracy, real_accuracy = (float((labels == array).mean()) for labels in pair)
            scores.append(Score(f"label: as requested{text}", accuracy, real_accuracy, 0.99))
        elif name == "angle":
            error, real_error = (float(np.abs(angles - array).mean()) for angles in pair)
            scores += [
                Score(f"angle: mean absolute error in degrees{text}", error, real_error, max_ratio * real_error, True),
                Score(f"angle: relative to real images{text}", error / real_error, 1.0, max_ratio, True),
            ]
        else:
            correlation, real_correlation = (float(np.corrcoef(array, numbers)[0, 1]) for numbers in pair)
            scores.append(Score(f"thickness: correlation{text}", correlation, real_correlation, 0.98))
    return scores
