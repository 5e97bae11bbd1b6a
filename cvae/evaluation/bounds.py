"""Bounds on the negative log-likelihood, estimated from posterior samples.

All values are in nats per image; lower is better. The model behind a `Scorer` can run in torch or in onnxruntime; this
module imports neither.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from cvae.conditions import Condition
from cvae.data import DiskImages
from cvae.errors import UsageError

BATCH_SIZE = 64
"""Maximum number of images in a batch of the encoder."""

MAX_SAMPLES = 512
"""Maximum number of posterior samples in a batch of the decoder."""

MAX_VALUES = 512 * 28 * 28
"""Maximum number of pixel values in a batch; images larger than 28x28 get smaller batches.

The noise is drawn per batch, and the batch size depends on the image shape alone, so a seed gives the same metrics on
every machine, regardless of its memory and number of cores.
"""

ACTIVE_SHARE = 0.01
"""A latent dimension is active if the differences between images cause more than this share of its variance."""


class Samples(NamedTuple):
    """Terms of the bound for B images with K posterior samples each, in nats.

    Attributes:
        distortion: -log p(x | z), (B, K).
        log_ratio: log q(z | x) - log p(z), (B, K).
        rate: KL divergence per group of latents, (B, K, D). Groups that the prior transforms together count as one.
        mean: mean of q(z | x), (B, K, Z).
        var: variance of q(z | x), (B, K, Z).
    """

    distortion: np.ndarray
    log_ratio: np.ndarray
    rate: np.ndarray
    mean: np.ndarray
    var: np.ndarray


class Scorer(Protocol):
    """A model that can be evaluated.

    Rows hold the values of the conditions of B images (see `cvae.condition_rows`). They are None for a model without
    conditions. A model with labels takes their indices (B,) int64.
    """

    name: str
    backend: str
    """Runtime, and how the bounds are computed, for the report."""
    image_shape: tuple[int, int, int]
    latent_dim: int
    groups: tuple[int, ...]
    """Sizes of the groups of latent dimensions, in sampling order; most models have a single group."""
    conditions: tuple[Condition, ...]
    classes: tuple[str, ...] | None
    """Names of the classes if the only condition is a category, else None."""
    likelihood: str
    discrete: bool
    """Whether p(x | z) is a distribution over a pixel's 256 values, so that bits per dimension are meaningful."""

    def decode(self, noise: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Map standard normal noise (B, Z) to images (B, C, H, W) float32 in [0, 1]."""
        ...

    def reconstruct(self, images: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Return the reconstructions (B, C, H, W), decoded from the posterior mean of each image."""
        ...

    def encode(self, images: np.ndarray, rows: np.ndarray | None) -> Any:
        """Run the encoder on images (B, C, H, W) float32 in [0, 1], and return what `sample` takes as `encoded`."""
        ...

    def sample(self, encoded: Any, noise: np.ndarray) -> Samples:
        """Sample the posterior with standard normal noise (B, K, Z)."""
        ...


class Bounds(NamedTuple):
    """Bounds for N images, in nats.

    Attributes:
        distortion: reconstruction term of the bound, (N,).
        rate: KL term per group, (N, D).
        importance_weighted: importance-weighted bound with K samples, (N,).
        active_units: number of active latent dimensions.
    """

    distortion: np.ndarray
    rate: np.ndarray
    importance_weighted: np.ndarray
    active_units: int

    @property
    def bound(self) -> np.ndarray:
        """The beta = 1 bound of each image, (N,)."""
        return self.distortion + self.rate.sum(1)


def bounds(
    scorer: Scorer,
    images: np.ndarray | DiskImages,
    rows: np.ndarray | None,
    *,
    samples: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Bounds:
    """Estimate the negative evidence lower bound and the importance-weighted bound of each image.

    The importance-weighted bound is eq. 8 of Burda, Grosse & Salakhutdinov 2015, https://arxiv.org/abs/1509.00519.
    Active units are defined as in their appendix C, except that the variance of the posterior means is divided by the
    total variance, so the scale of the latent space does not matter. With hierarchical latents, the posterior mean of
    each group is conditioned on the sampled groups before it, so the mean includes the effect of those groups.

    Args:
        scorer: the model.
        images: (N, C, H, W) uint8, or float32 in [0, 1].
        rows: rows of the conditions of the images, or None for a model without conditions.
        samples: number of posterior samples per image.
        seed: seed of the noise.
        progress: function called with the number of finished images and the total.

    Raises:
        UsageError: If `samples` is less than 1.
    """
    if samples < 1:
        raise UsageError(f"samples is {samples}; it must be at least 1")
    max_samples = min(MAX_SAMPLES, max(1, MAX_VALUES // math.prod(scorer.image_shape)))
    per_batch: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    means: list[np.ndarray] = []
    variances: list[np.ndarray] = []
    for start, image, batch_rows in batches(images, rows):
        encoded = scorer.encode(image, batch_rows)
        random = np.random.default_rng([seed, start])
        distortion, rate, log_weights = np.zeros(len(image)), None, []
        for count in _chunk_sizes(samples, max(1, max_samples // len(image))):
            noise = random.standard_normal((len(image), count, scorer.latent_dim), dtype=np.float32)
            chunk = scorer.sample(encoded, noise)
            distortion += chunk.distortion.sum(1, dtype=np.float64)
            chunk_rate = chunk.rate.sum(1, dtype=np.float64)  # (B, K, D) -> (B, D)
            rate = chunk_rate if rate is None else rate + chunk_rate
            log_weights.append(-chunk.distortion.astype(np.float64) - chunk.log_ratio)
            if len(log_weights) == 1:  # one sample per image is enough to count the active units
                means.append(chunk.mean[:, 0])
                variances.append(chunk.var[:, 0])
        assert rate is not None
        per_batch.append((distortion / samples, rate / samples, -log_mean_exp(np.concatenate(log_weights, axis=1))))
        if progress is not None:
            progress(start + len(image), len(images))
    distortion, rate, importance_weighted = (np.concatenate(values) for values in zip(*per_batch, strict=True))
    between = np.concatenate(means).var(0)  # (N, Z) -> (Z,)
    within = np.concatenate(variances).mean(0)
    return Bounds(distortion, rate, importance_weighted, int((between > ACTIVE_SHARE * (between + within)).sum()))


def log_mean_exp(log_weights: np.ndarray) -> np.ndarray:
    """Return log(mean(exp(log_weights))) over the last axis, without overflow."""
    largest = log_weights.max(-1, keepdims=True)
    return (largest + np.log(np.exp(log_weights - largest).mean(-1, keepdims=True)))[..., 0]


def bounds_per_label(
    scorer: Scorer,
    images: np.ndarray | DiskImages,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the beta = 1 bound of each image given each of K labels, (N, K), with the same noise for all labels."""
    assert scorer.classes is not None
    columns = []
    for label in range(len(scorer.classes)):
        columns.append(bounds(scorer, images, np.full(len(images), label), seed=seed).bound)
        if progress is not None:
            progress(label + 1, len(scorer.classes))
    return np.stack(columns, axis=1)


def mean_and_standard_error(values: np.ndarray) -> tuple[float, float | None]:
    """Return the mean of values (N,) and its standard error, which is None for a single value."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def batches(
    images: np.ndarray | DiskImages, rows: np.ndarray | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """For each batch, yield the index of its first image, its images (B, C, H, W) in [0, 1], and its rows."""
    batch_size = min(BATCH_SIZE, max(1, MAX_VALUES // math.prod(images.shape[1:])))
    for start in range(0, len(images), batch_size):
        indices = slice(start, start + batch_size)
        yield start, as_float(images[indices]), None if rows is None else rows[indices]


def as_float(images: np.ndarray) -> np.ndarray:
    """Convert uint8 images to float32 in [0, 1]. Float images keep their values."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def _chunk_sizes(total: int, max_size: int) -> Iterator[int]:
    for start in range(0, total, max_size):
        yield min(max_size, total - start)
