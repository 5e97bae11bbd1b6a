"""Fidelity metrics that compare pairs of images, or the features of two sets of images. Does not import torch."""

import importlib.util
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cvae.errors import MissingExtraError

NEIGHBOURS = 5
"""Number k of nearest neighbours in density and coverage."""

MANIFOLD_NEIGHBOURS = 3
"""Number k of nearest neighbours in precision and recall."""

MEMORIZATION_PERCENTILE = 5
"""Percentage of the held-out images that would count as memorized."""

MAX_DISTANCES = 10**7
"""Maximum number of distances in memory (40 MB)."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in a grey image (ITU-R BT.601)."""


def mean_squared_error(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Return the mean squared difference (N,) of each pair of images (N, C, H, W)."""
    return ((images.astype(np.float64) - reconstructions) ** 2).mean(axis=(1, 2, 3))


def psnr(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio in decibels, (N,), of each pair of images (N, C, H, W) in [0, 1].

    The squared error is clipped at 1e-10 (100 dB), because equal images would have an infinite ratio.
    """
    return -10 * np.log10(mean_squared_error(images, reconstructions).clip(1e-10))


def require_ssim() -> None:
    """Check that scikit-image is installed.

    Raises:
        MissingExtraError: If scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise MissingExtraError("structural similarity", "evaluate")


def ssim(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Return the structural similarity (N,), at most 1, of each pair of images (N, C, H, W) in [0, 1].

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, as implemented in scikit-image, averaged over channels.
    The window is a Gaussian of 11 pixels with sigma 1.5; for images smaller than 11 pixels, it is the largest uniform
    window of odd size that fits.

    Raises:
        MissingExtraError: If scikit-image is not installed.
    """
    require_ssim()
    from skimage.metrics import structural_similarity

    side = min(images.shape[2:])
    window = {} if side >= 11 else {"win_size": side - 1 + side % 2}
    return np.array(
        [
            structural_similarity(
                a, b, data_range=1.0, channel_axis=0, gaussian_weights=not window, use_sample_covariance=False, **window
            )
            for a, b in zip(images, reconstructions, strict=True)
        ]
    )


def frechet_distance(features: np.ndarray, real: np.ndarray) -> float:
    """Return the Fréchet distance between normal distributions fitted to features (N, D) and to real features (M, D).

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)): Heusel et al. 2017, eq. 6, https://arxiv.org/abs/1706.08500. The distance
    depends on the extractor, and shrinks as N and M grow, so compare only values measured by the same protocol.
    """
    (mean, covariance), (mean2, covariance2) = _compute_moments(features), _compute_moments(real)
    root = _matrix_sqrt(covariance)
    # tr (C C')^(1/2) = tr (C^(1/2) C' C^(1/2))^(1/2), and C^(1/2) C' C^(1/2) is symmetric
    eigenvalues = np.linalg.eigvalsh(root @ covariance2 @ root).clip(min=0)
    squared_offset = ((mean - mean2) ** 2).sum()
    return float(squared_offset + np.trace(covariance) + np.trace(covariance2) - 2 * np.sqrt(eigenvalues).sum())


def _compute_moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = features.astype(np.float64)
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))  # (D,), (D, D)


def _matrix_sqrt(matrix: np.ndarray) -> np.ndarray:
    """Return the square root of a symmetric positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


class DensityCoverage(NamedTuple):
    """Density and coverage. Both are about 1 for two sets from the same distribution. Only density can exceed 1."""

    density: float
    coverage: float


def density_and_coverage(real: np.ndarray, generated: np.ndarray) -> DensityCoverage:
    """Return density and coverage of generated features (M, D) with respect to real features (N, D).

    Naeem et al. 2020, eq. 7 and 9, https://arxiv.org/abs/2002.09797, with k = 5 neighbours.
    """
    radius = _neighbour_distances(real, NEIGHBOURS)
    pairs, covered = 0, []
    radii = np.array_split(radius, _num_chunks(len(real), len(generated)))
    for chunk, chunk_radius in zip(_squared_distances(real, generated), radii, strict=True):
        pairs += int((chunk < chunk_radius[:, None]).sum())  # (n, M) -> number of neighbouring (real, generated) pairs
        covered.append(chunk.min(1) < chunk_radius)
    k = min(NEIGHBOURS, len(real) - 1)
    return DensityCoverage(pairs / (k * len(generated)), float(np.concatenate(covered).mean()))


class PrecisionRecall(NamedTuple):
    """Precision and recall, from 0 to 1."""

    precision: float
    recall: float


def precision_and_recall(real: np.ndarray, generated: np.ndarray) -> PrecisionRecall:
    """Return precision and recall of generated features (M, D) with respect to real features (N, D).

    Precision is the fraction of generated features that are within the distance of the k-th neighbour of a real one;
    recall is the same fraction with the two sets exchanged. Kynkäänniemi et al. 2019, eq. 1 to 3,
    https://arxiv.org/abs/1904.06991, with k = 3 neighbours.
    """
    return PrecisionRecall(_inside(generated, real), _inside(real, generated))


def _inside(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the fraction of points (M, D) within the distance of the third neighbour of a point of `reference`."""
    radius = _neighbour_distances(reference, MANIFOLD_NEIGHBOURS)
    return float(np.concatenate([(chunk <= radius).any(1) for chunk in _squared_distances(points, reference)]).mean())


class Neighbours(NamedTuple):
    """Indices (N, K) of the nearest neighbours of N features, nearest first, and their distances (N, K)."""

    indices: np.ndarray
    distances: np.ndarray


def nearest(features: np.ndarray, reference: np.ndarray, k: int = 1) -> Neighbours:
    """Return the `k` nearest neighbours of each feature (N, D) in `reference` (M, D). `k` is at most M."""
    indices, distances = [], []
    for chunk in _squared_distances(features, reference):
        order = np.argpartition(chunk, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(order, np.take_along_axis(chunk, order, 1).argsort(1), 1)
        indices.append(order)
        distances.append(np.sqrt(np.take_along_axis(chunk, order, 1)))
    return Neighbours(np.concatenate(indices), np.concatenate(distances))


def memorization(generated: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> float:
    """Return the fraction of generated features that are suspiciously close to a training image.

    Such a feature is nearer to its nearest training image than 95 % of the held-out images are to theirs. The fraction
    is about 0.05 for new images from the same distribution, and 1 for copies.

    Args:
        generated: features (L, D) of generated images.
        train: features (M, D) of training images.
        held_out: features (N, D) of real images that the model was not trained on.
    """
    threshold = np.percentile(nearest(held_out, train).distances, MEMORIZATION_PERCENTILE)
    return float((nearest(generated, train).distances < threshold).mean())


def sharpness(images: np.ndarray) -> np.ndarray:
    """Return the variance of the Laplacian, (N,), of each image (N, C, H, W) in [0, 1], after conversion to grey.

    Blur lowers it (Pech-Pacheco et al. 2000, https://doi.org/10.1109/ICPR.2000.903548). The Laplacian is the sum of the
    four neighbours of a pixel minus four times the pixel. Outside the image, pixels have the values of the edge.
    """
    grey = np.tensordot(LUMA, images, (0, 1)) if images.shape[1] == 3 else images.mean(1)  # (N, H, W)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    neighbours = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return (neighbours - 4 * grey).var(axis=(1, 2))


def relative_sharpness(values: np.ndarray, real: np.ndarray) -> float | None:
    """Return the mean of `values` divided by that of `real`, or None if the real images show no edges."""
    return float(values.mean() / real.mean()) if real.mean() > 0 else None


def _neighbour_distances(features: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance (N,) of each feature (N, D) from its k-th nearest neighbour."""
    k = min(k, len(features) - 1)
    return np.concatenate([np.partition(chunk, k, axis=1)[:, k] for chunk in _squared_distances(features, features)])


def _num_chunks(a: int, b: int) -> int:
    return -(-a * b // MAX_DISTANCES)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the squared distances between a (N, D) and b (M, D) in chunks (n, M)."""
    b = b.astype(np.float32)
    squares = (b**2).sum(1)
    for chunk in np.array_split(a.astype(np.float32), min(len(a), _num_chunks(len(a), len(b)))):
        yield ((chunk**2).sum(1)[:, None] + squares - 2 * chunk @ b.T).clip(min=0)
