"""Bounds on the negative log-likelihood, from samples of the posterior: torch or onnxruntime, the arithmetic is here.

In nats per image, lower is better. Torch-free.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from cvae.data import DiskImages
from cvae.errors import UsageError

BATCH, ROWS, NUMBERS = 64, 512, 512 * 28 * 28
"""Images that are encoded together, and samples that are decoded together: fewer where these are more numbers. The
noise is drawn in these portions, which depend on the image shape alone, so that a seed gives the same figures however
much memory or however many cores there are."""

ACTIVE = 0.01
"""Share of a latent dimension's variance that must tell images apart for the dimension to count as active."""


class Samples(NamedTuple):
    """K samples of the posterior for each of B images.

    `distortion` (B, K) is -log p(x | z), `log_ratio` (B, K) log q(z | x) - log p(z), `rate` (B, K, D) the KL divergence
    in groups; all in nats.
    """

    distortion: np.ndarray
    log_ratio: np.ndarray
    rate: np.ndarray
    mean: np.ndarray  # (B, K, Z), of q(z | x)
    var: np.ndarray  # (B, K, Z)


class Scorer(Protocol):
    """A model that can be evaluated; labels (B,) int64, or None for a model without."""

    name: str
    backend: str
    """What the samples are drawn from, for the report."""
    image_shape: tuple[int, int, int]
    latent_dim: int
    groups: tuple[int, ...]
    """How the latent dimensions are divided, the first drawn first; all in one for most models."""
    classes: tuple[str, ...] | None
    likelihood: str
    discrete: bool
    """Whether p(x | z) is of a pixel's 256 values, so that bits per dimension have meaning."""

    def decode(self, noise: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """Standard normal noise (B, Z) -> images (B, C, H, W) float32 in [0, 1]."""
        ...

    def reconstruct(self, images: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """Images at the mean of their codes, (B, C, H, W)."""
        ...

    def encode(self, images: np.ndarray, labels: np.ndarray | None) -> Any:
        """Images (B, C, H, W) float32 in [0, 1], labels (B,) -> what `sample` wants; the encoder runs once."""
        ...

    def sample(self, encoded: Any, noise: np.ndarray) -> Samples:
        """Samples chosen by standard normal noise (B, K, Z)."""
        ...


class Bounds(NamedTuple):
    """Of each image, in nats: the two terms of the bound, and the importance-weighted bound of K samples (N,) each."""

    distortion: np.ndarray
    rate: np.ndarray  # (N, D)
    importance_weighted: np.ndarray
    active_units: int

    @property
    def bound(self) -> np.ndarray:
        """The beta = 1 bound of each image (N,)."""
        return self.distortion + self.rate.sum(1)


def bounds(
    scorer: Scorer,
    images: np.ndarray | DiskImages,
    labels: np.ndarray | None,
    *,
    samples: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Bounds:
    """The negative evidence lower bound of each image, averaged over `samples`, and the importance-weighted one.

    Burda, Grosse & Salakhutdinov 2015, eq. 8, https://arxiv.org/abs/1509.00519; active units as in their appendix C,
    with the variance of a dimension's posterior means as a share of the dimension's whole variance, so that the scale
    of the latent space does not matter (in a hierarchy along the sample: what lower groups do with upper ones counts
    too). Images (N, C, H, W) uint8, or float32 in [0, 1].
    """
    if samples < 1:
        raise UsageError(f"samples is {samples}: at least one")
    rows = min(ROWS, max(1, NUMBERS // math.prod(scorer.image_shape)))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    means: list[np.ndarray] = []
    variances: list[np.ndarray] = []
    for start, image, label in batches(images, labels):
        encoded = scorer.encode(image, label)
        random = np.random.default_rng([seed, start])
        distortion, rate, log_weights = np.zeros(len(image)), None, []
        for count in _portions(samples, max(1, rows // len(image))):
            noise = random.standard_normal((len(image), count, scorer.latent_dim), dtype=np.float32)
            drawn = scorer.sample(encoded, noise)
            distortion += drawn.distortion.sum(1, dtype=np.float64)
            total = drawn.rate.sum(1, dtype=np.float64)  # (B, K, D) -> (B, D)
            rate = total if rate is None else rate + total
            log_weights.append(-drawn.distortion.astype(np.float64) - drawn.log_ratio)
            if len(log_weights) == 1:  # the first portion of each batch is enough
                means.append(drawn.mean[:, 0])
                variances.append(drawn.var[:, 0])
        assert rate is not None
        parts.append((distortion / samples, rate / samples, -log_mean_exp(np.concatenate(log_weights, axis=1))))
        if progress is not None:
            progress(start + len(image), len(images))
    distortion, rate, weighted = (np.concatenate(part) for part in zip(*parts, strict=True))
    between = np.concatenate(means).var(0)  # (N, Z) -> (Z,)
    within = np.concatenate(variances).mean(0)
    return Bounds(distortion, rate, weighted, int((between > ACTIVE * (between + within)).sum()))


def log_mean_exp(log_weights: np.ndarray) -> np.ndarray:
    """log of the mean of exp over the last axis, without overflow."""
    largest = log_weights.max(-1, keepdims=True)
    return (largest + np.log(np.exp(log_weights - largest).mean(-1, keepdims=True)))[..., 0]


def bound_by_label(
    scorer: Scorer,
    images: np.ndarray | DiskImages,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The beta = 1 bound of each image under every label (N, K), with the same noise."""
    assert scorer.classes is not None
    columns = []
    for label in range(len(scorer.classes)):
        columns.append(bounds(scorer, images, np.full(len(images), label), seed=seed).bound)
        if progress is not None:
            progress(label + 1, len(scorer.classes))
    return np.stack(columns, axis=1)


def mean_and_error(values: np.ndarray) -> tuple[float, float | None]:
    """The mean of (N,), and its standard error, which one value has not."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def batches(
    images: np.ndarray | DiskImages, labels: np.ndarray | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """The number of the first image of each batch, the batch (B, C, H, W) in [0, 1], and its labels."""
    together = min(BATCH, max(1, NUMBERS // math.prod(images.shape[1:])))
    for start in range(0, len(images), together):
        rows = slice(start, start + together)
        yield start, as_float(images[rows]), None if labels is None else labels[rows]


def as_float(images: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]; what is float already stays."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def _portions(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)
