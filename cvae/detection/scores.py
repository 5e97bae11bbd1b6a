"""Anomaly scores: how unlike normal images an image is. Torch-free."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cvae.data import Rows
from cvae.evaluation.bounds import batches, log_mean_exp
from cvae.evaluation.exported_scorer import ExportedScorer

SCORES = {
    "reconstruction": "squared error of the reconstruction, summed over pixels",
    "local": "largest error of the reconstruction in one place: of the difference, blurred",
    "bound": "importance-weighted bound on -log p(x), in nats, under the label that fits best",
    "kl": "KL divergence of the code from the prior, in nats",
    "neighbours": "distance of the code from those of the nearest normal images",
    "ratio": "log-likelihood ratio of the other labels to the best one, in deviations of normal images",
    "combined": "how rarely normal images score as high in local, neighbours and ratio",
}
"""The higher, the less normal. `ratio` is of models with several labels only."""

BLUR = 0.05
"""Standard deviation of the blur of `local`, as a share of the shorter side."""

SAMPLES = 16
"""Samples of the importance-weighted bound."""

NEIGHBOURS = 5


class Measurement(NamedTuple):
    """Of N images, without anything known of normal ones; all of it under the label that fits best, if there are any.

    `bound`, `kl` and `ratio` (N,) are in nats.
    """

    squared_error: np.ndarray  # (N,)
    local: np.ndarray
    bound: np.ndarray
    kl: np.ndarray
    ratio: np.ndarray | None
    label: np.ndarray | None  # (N,)
    code: np.ndarray  # (N, Z)
    reconstruction: np.ndarray | None  # (N, C, H, W), where it was asked for


def measure(
    scorer: ExportedScorer,
    images: np.ndarray | Rows,
    *,
    seed: int = 0,
    reconstructions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure images (N, C, H, W), uint8 or float32 in [0, 1]. No label is asked for: all are tried.

    The noise is the same for every image, so that its figures do not depend on those before it.
    """
    noise = np.random.default_rng(seed).standard_normal((1, SAMPLES, scorer.latent_dim), dtype=np.float32)
    parts = []
    for start, image, _ in batches(images, None):
        with np.errstate(all="ignore"):  # overflow makes scores that are not finite, which are rejected
            part = _measure(scorer, image, noise)
        parts.append(part if reconstructions else part._replace(reconstruction=None))
        if progress is not None:
            progress(start + len(image), len(images))
    joined: list[Any] = [None if each[0] is None else np.concatenate(each) for each in zip(*parts, strict=True)]
    return Measurement(*joined)


def _measure(scorer: ExportedScorer, image: np.ndarray, noise: np.ndarray) -> Measurement:
    count, rows = len(image), np.arange(len(image))
    label = ratio = None
    if scorer.classes is not None:
        # The terms of the bound at the mean code: samples would be too noisy to compare labels by.
        middle, terms = np.zeros((count, 1, scorer.latent_dim), np.float32), []
        for k in range(len(scorer.classes)):
            at = scorer.sample(scorer.encode(image, np.full(count, k)), middle)
            terms.append(at.distortion[:, 0] + at.rate[:, 0].sum(1))  # (N, 1), (N, 1, D) -> (N,)
        bounds = np.stack(terms, axis=1)  # (N, K)
        label = bounds.argmin(1)
        if len(terms) > 1:
            best = bounds[rows, label]
            ratio = best - (bounds.sum(1) - best) / (len(terms) - 1)  # from the mean of the other labels
    encoded = scorer.encode(image, label)
    drawn = scorer.sample(encoded, noise.repeat(count, axis=0))  # (1, S, Z) -> (N, S, Z)
    reconstruction = scorer.decode(encoded.mean, label)
    return Measurement(
        squared_error=((image - reconstruction) ** 2).sum(axis=(1, 2, 3)),  # (N, C, H, W) -> (N,)
        local=np.abs(_blur(image - reconstruction)).mean(1).max(axis=(1, 2)),  # (N, C, H, W) -> (N,)
        bound=-log_mean_exp(-drawn.distortion - drawn.log_ratio),
        kl=drawn.rate[:, 0].sum(1),
        ratio=ratio,
        label=label,
        code=encoded.mean,
        reconstruction=reconstruction,
    )


def _blur(images: np.ndarray) -> np.ndarray:
    """A Gaussian blur of (N, C, H, W), one side after the other."""
    sigma = BLUR * min(images.shape[2:])
    for axis in (2, 3):
        place = np.arange(images.shape[axis], dtype=np.float32)
        weight = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)  # (S, S)
        weight /= weight.sum(0)
        images = np.moveaxis(np.moveaxis(images, axis, -1) @ weight, -1, axis)
    return images


def separate_scores(
    measured: Measurement,
    codes: np.ndarray,
    centre: tuple[float, ...] | None,
    scale: tuple[float, ...] | None,
    itself: int,
) -> dict[str, np.ndarray]:
    """Each score alone, (N,). `itself` is 1 where `codes` (M, Z) are those of the images measured, so that each is its
    own nearest neighbour, else 0."""
    scores = {
        "reconstruction": measured.squared_error,
        "local": measured.local,
        "bound": measured.bound,
        "kl": measured.kl,
        "neighbours": _distance(measured.code, codes, itself),
    }
    if measured.ratio is not None and measured.label is not None:
        scores["ratio"] = (measured.ratio - np.array(centre)[measured.label]) / np.array(scale)[measured.label]
    return scores


def _distance(code: np.ndarray, codes: np.ndarray, itself: int) -> np.ndarray:
    """The mean distance of each code (N, Z) to the `NEIGHBOURS` nearest of codes (M, Z), after the first `itself`."""
    squares, last = (codes**2).sum(1), itself + NEIGHBOURS
    found = []
    for part in np.array_split(code, -(-len(code) // 500)):
        squared = (part**2).sum(1)[:, None] + squares - 2 * part @ codes.T  # (n, Z), (M, Z) -> (n, M)
        near = np.sort(np.partition(squared, last - 1, axis=1)[:, :last], axis=1)[:, itself:]
        found.append(np.sqrt(near.clip(min=0)).mean(1))
    return np.concatenate(found)
