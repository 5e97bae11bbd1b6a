"""Anomaly scores: measures of how much an image differs from normal ones. Torch-free."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cvae.data import DiskImages
from cvae.evaluation.bounds import batches, log_mean_exp
from cvae.evaluation.exported_scorer import ExportedScorer

SCORES = {
    "reconstruction": "squared error of the reconstruction, summed over pixels",
    "local": "largest error of the reconstruction in one place, after a blur of the difference",
    "bound": "importance-weighted bound on -log p(x) under the label that fits best, in nats",
    "kl": "KL divergence of the code from the prior, in nats",
    "neighbours": "mean distance of the code from the nearest codes of normal images",
    "ratio": "log-likelihood ratio of the other labels to the best one, in standard deviations of normal images",
    "combined": "how rarely normal images score as high in local, neighbours and ratio",
}
"""Scores; higher means less normal. Only models with several labels have `ratio`."""

BLUR = 0.05
"""Standard deviation of the blur of `local`, as a fraction of the shorter side."""

SAMPLES = 16
"""Number of samples of the importance-weighted bound."""

NEIGHBOURS = 5
"""Number of nearest codes of normal images that `neighbours` averages over."""


class Measurement(NamedTuple):
    """Measurements of N images, independent of normal ones, each under the label that fits best (if there are labels).

    `bound`, `kl` and `ratio` (N,) are in nats.
    """

    squared_error: np.ndarray  # (N,)
    local: np.ndarray
    bound: np.ndarray
    kl: np.ndarray
    ratio: np.ndarray | None
    label: np.ndarray | None  # (N,)
    code: np.ndarray  # (N, Z)
    reconstruction: np.ndarray | None  # (N, C, H, W), if requested


def measure(
    scorer: ExportedScorer,
    images: np.ndarray | DiskImages,
    *,
    seed: int = 0,
    reconstructions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure images with an exported model, under the label that fits each best.

    The noise is the same for every image, so that the result does not depend on the other images.

    Args:
        scorer: the exported model.
        images: (N, C, H, W), uint8 or float32 in [0, 1].
        seed: seed of the noise.
        reconstructions: keep the reconstructions in the result.
        progress: called with the number of images measured so far, and their total.
    """
    noise = np.random.default_rng(seed).standard_normal((1, SAMPLES, scorer.latent_dim), dtype=np.float32)
    parts = []
    for start, batch, _ in batches(images, None):
        with np.errstate(all="ignore"):  # overflow makes scores that are not finite, which are rejected
            part = _measure(scorer, batch, noise)
        parts.append(part if reconstructions else part._replace(reconstruction=None))
        if progress is not None:
            progress(start + len(batch), len(images))
    columns: list[Any] = [None if field[0] is None else np.concatenate(field) for field in zip(*parts, strict=True)]
    return Measurement(*columns)


def _measure(scorer: ExportedScorer, image: np.ndarray, noise: np.ndarray) -> Measurement:
    count = len(image)
    label = ratio = None
    if scorer.classes is not None:
        # The terms of the bound at the mean code, since samples would be too noisy to compare labels.
        zero_noise, terms = np.zeros((count, 1, scorer.latent_dim), np.float32), []
        for k in range(len(scorer.classes)):
            sample = scorer.sample(scorer.encode(image, np.full(count, k)), zero_noise)
            terms.append(sample.distortion[:, 0] + sample.rate[:, 0].sum(1))  # (N, 1), (N, 1, D) -> (N,)
        bounds = np.stack(terms, axis=1)  # (N, K)
        label = bounds.argmin(1)
        if len(terms) > 1:
            best = bounds[np.arange(count), label]
            ratio = best - (bounds.sum(1) - best) / (len(terms) - 1)  # best minus the mean of the others
    encoded = scorer.encode(image, label)
    samples = scorer.sample(encoded, noise.repeat(count, axis=0))  # (1, S, Z) -> (N, S, Z)
    reconstruction = scorer.decode(encoded.mean, label)
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
    """Blur images (N, C, H, W) with a Gaussian, along one axis after the other."""
    sigma = BLUR * min(images.shape[2:])
    for axis in (2, 3):
        position = np.arange(images.shape[axis], dtype=np.float32)
        weight = np.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)  # (S, S)
        weight /= weight.sum(0)
        images = np.moveaxis(np.moveaxis(images, axis, -1) @ weight, -1, axis)
    return images


def separate_scores(
    measured: Measurement,
    codes: np.ndarray,
    centre: tuple[float, ...] | None,
    scale: tuple[float, ...] | None,
    self_matches: int,
) -> dict[str, np.ndarray]:
    """Return each score except `combined`, (N,).

    Args:
        measured: the measurement of N images.
        codes: codes of normal images, (M, Z).
        centre: mean of the ratio of normal images per label.
        scale: its standard deviation per label.
        self_matches: 1 if `codes` are those of the measured images, so that each is its own nearest neighbour; else 0.
    """
    scores = {
        "reconstruction": measured.squared_error,
        "local": measured.local,
        "bound": measured.bound,
        "kl": measured.kl,
        "neighbours": _distance(measured.code, codes, self_matches),
    }
    if measured.ratio is not None and measured.label is not None:
        scores["ratio"] = (measured.ratio - np.array(centre)[measured.label]) / np.array(scale)[measured.label]
    return scores


def _distance(code: np.ndarray, codes: np.ndarray, self_matches: int) -> np.ndarray:
    """Return the mean distance of each code (N, Z) to its `NEIGHBOURS` nearest codes (M, Z), without self-matches."""
    squares, last = (codes**2).sum(1), self_matches + NEIGHBOURS
    distances = []
    for part in np.array_split(code, -(-len(code) // 500)):
        squared = (part**2).sum(1)[:, None] + squares - 2 * part @ codes.T  # (n, Z), (M, Z) -> (n, M)
        nearest = np.sort(np.partition(squared, last - 1, axis=1)[:, :last], axis=1)[:, self_matches:]
        distances.append(np.sqrt(nearest.clip(min=0)).mean(1))
    return np.concatenate(distances)
