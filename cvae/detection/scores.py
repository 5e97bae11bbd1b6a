"""Anomaly scores, which measure how much an image differs from normal images. Does not import torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cvae.condition_rows import unknown_rows
from cvae.data import DiskImages
from cvae.evaluation.bounds import batches, log_mean_exp
from cvae.evaluation.exported_scorer import ExportedScorer

SCORES = {
    "reconstruction": "squared error of the reconstruction, summed over pixels",
    "local": "largest error of the reconstruction at any position, after blurring the difference",
    "bound": "importance-weighted bound on -log p(x) under the label that fits best, in nats",
    "kl": "KL divergence of the posterior from the prior, in nats",
    "neighbours": "mean distance of the latent code from the codes of the nearest normal images",
    "ratio": "log-likelihood ratio of the other labels to the best one, standardized over normal images",
    "combined": "how rarely normal images score as high in local, neighbours and ratio",
}
"""Description of each score. A higher score means a less normal image. `ratio` requires a model with several labels."""

BLUR = 0.05
"""Standard deviation of the blur in the score `local`, as a fraction of the shorter side."""

NUM_SAMPLES = 16
"""Number of samples for the importance-weighted bound."""

NEIGHBOURS = 5
"""Number of nearest normal images over which the score `neighbours` averages."""


class Measurement(NamedTuple):
    """Measurements of N images. They do not depend on the normal images.

    If the model has labels, each image is measured under the label that fits it best. Other conditions are unknown.

    Attributes:
        squared_error: squared error of the reconstruction, summed over pixels, (N,).
        local: largest error of the reconstruction after blurring the difference, (N,).
        bound: importance-weighted bound on -log p(x) in nats, (N,).
        kl: KL divergence of the posterior from the prior in nats, (N,).
        ratio: bound in nats under the best label minus the mean of the bounds under the other labels, (N,); None for a
            model with fewer than two labels.
        label: index of the best label, (N,); None for a model without labels.
        code: posterior mean, (N, Z).
        reconstruction: reconstructions (N, C, H, W), if requested.
    """

    squared_error: np.ndarray
    local: np.ndarray
    bound: np.ndarray
    kl: np.ndarray
    ratio: np.ndarray | None
    label: np.ndarray | None
    code: np.ndarray
    reconstruction: np.ndarray | None


def measure(
    scorer: ExportedScorer,
    images: np.ndarray | DiskImages,
    *,
    seed: int = 0,
    reconstructions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure images with an exported model, each under the label that fits it best. Other conditions are unknown.

    The noise is the same for every image, so that the result does not depend on the other images.

    Args:
        scorer: the exported model.
        images: (N, C, H, W), uint8 or float32 in [0, 1].
        seed: seed of the noise.
        reconstructions: whether to keep the reconstructions in the result.
        progress: function called with the number of images measured so far and the total.
    """
    noise = np.random.default_rng(seed).standard_normal((1, NUM_SAMPLES, scorer.latent_dim), dtype=np.float32)
    per_batch = []
    for start, batch, _ in batches(images, None):
        with np.errstate(all="ignore"):  # an overflow leads to scores that are not finite, which are rejected later
            measurement = _measure_batch(scorer, batch, noise)
        per_batch.append(measurement if reconstructions else measurement._replace(reconstruction=None))
        if progress is not None:
            progress(start + len(batch), len(images))
    columns: list[Any] = [None if field[0] is None else np.concatenate(field) for field in zip(*per_batch, strict=True)]
    return Measurement(*columns)


def _measure_batch(scorer: ExportedScorer, image: np.ndarray, noise: np.ndarray) -> Measurement:
    count = len(image)
    label = ratio = None
    rows = unknown_rows(scorer.conditions, count)
    if scorer.classes is not None:
        # Compare labels by the bound at the posterior mean, because random samples would be too noisy.
        zero_noise, terms = np.zeros((count, 1, scorer.latent_dim), np.float32), []
        for k in range(len(scorer.classes)):
            sample = scorer.sample(scorer.encode(image, np.full(count, k)), zero_noise)
            terms.append(sample.distortion[:, 0] + sample.rate[:, 0].sum(1))  # (N, 1), (N, 1, D) -> (N,)
        bounds = np.stack(terms, axis=1)  # (N, K)
        rows = label = bounds.argmin(1)
        if len(terms) > 1:
            best = bounds[np.arange(count), label]
            ratio = best - (bounds.sum(1) - best) / (len(terms) - 1)  # minus the mean over the other labels
    encoded = scorer.encode(image, rows)
    samples = scorer.sample(encoded, noise.repeat(count, axis=0))  # (1, S, Z) -> (N, S, Z)
    reconstruction = scorer.decode(encoded.mean, rows)
    return Measurement(
        squared_error=((image - reconstruction) ** 2).sum(axis=(1, 2, 3)),  # (N, C, H, W) -> (N,)
        local=np.abs(_blur(image - reconstruction)).mean(1).max(axis=(1, 2)),  # (N, C, H, W) -> (N,)
        bound=-log_mean_exp(-samples.distortion - samples.log_ratio),
        kl=samples.rate[:, 0].sum(1),
        ratio=ratio,
        label=label,
        code=encoded.mean,
        reconstruction=reconstruction,
    )


def _blur(images: np.ndarray) -> np.ndarray:
    """Blur images (N, C, H, W) with a Gaussian, one axis after the other."""
    sigma = BLUR * min(images.shape[2:])
    for axis in (2, 3):
        position = np.arange(images.shape[axis], dtype=np.float32)
        weight = np.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)  # (S, S)
        weight /= weight.sum(0)
        images = np.moveaxis(np.moveaxis(images, axis, -1) @ weight, -1, axis)
    return images


def individual_scores(
    measurement: Measurement,
    codes: np.ndarray,
    centre: tuple[float, ...] | None,
    scale: tuple[float, ...] | None,
    self_matches: int,
) -> dict[str, np.ndarray]:
    """Return all scores except `combined`, (N,) each.

    Args:
        measurement: measurements of N images.
        codes: latent codes of normal images, (M, Z).
        centre: mean of `Measurement.ratio` over normal images, for each label.
        scale: standard deviation of `Measurement.ratio` over normal images, for each label.
        self_matches: 1 if the images are the normal images themselves, so that each code is its own nearest neighbour;
            otherwise 0.
    """
    scores = {
        "reconstruction": measurement.squared_error,
        "local": measurement.local,
        "bound": measurement.bound,
        "kl": measurement.kl,
        "neighbours": _neighbour_distance(measurement.code, codes, self_matches),
    }
    if (label := measurement.label) is not None and measurement.ratio is not None:
        scores["ratio"] = (measurement.ratio - np.array(centre)[label]) / np.array(scale)[label]
    return scores


def _neighbour_distance(code: np.ndarray, codes: np.ndarray, self_matches: int) -> np.ndarray:
    """Return the mean distance from each code (N, Z) to the nearest `NEIGHBOURS` of `codes` (M, Z).

    The nearest `self_matches` of `codes` are left out.
    """
    squares, last = (codes**2).sum(1), self_matches + NEIGHBOURS
    distances = []
    for chunk in np.array_split(code, -(-len(code) // 500)):
        squared = (chunk**2).sum(1)[:, None] + squares - 2 * chunk @ codes.T  # (n, Z), (M, Z) -> (n, M)
        nearest = np.sort(np.partition(squared, last - 1, axis=1)[:, :last], axis=1)[:, self_matches:]
        distances.append(np.sqrt(nearest.clip(min=0)).mean(1))
    return np.concatenate(distances)
