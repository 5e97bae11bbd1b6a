"""Fidelity metrics that compare pairs of images, or the features of two sets of images. Does not import torch."""

import importlib.util
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cvae.errors import MissingExtraError

NEIGHBOURS = 5
"""Number k of nearest neighbours in density and coverage."""


def psnr(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio in decibels, (N,), of each pair of images (N, C, H, W) in [0, 1].

    The squared error is clipped at 1e-10 (100 dB), because equal images would have an infinite ratio.
    """
    mse = ((images.astype(np.float64) - reconstructions) ** 2).mean(axis=(1, 2, 3))  # (N, C, H, W) -> (N,)
    return -10 * np.log10(mse.clip(1e-10))


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
    k = min(NEIGHBOURS, len(real) - 1)
    radius = np.concatenate([np.partition(chunk, k, axis=1)[:, k] for chunk in _squared_distances(real, real)])  # (N,)
    pairs, covered = 0, []
    radii = np.array_split(radius, _num_chunks(len(real)))
    for chunk, chunk_radius in zip(_squared_distances(real, generated), radii, strict=True):
        pairs += int((chunk < chunk_radius[:, None]).sum())  # (n, M) -> number of neighbouring (real, generated) pairs
        covered.append(chunk.min(1) < chunk_radius)
    return DensityCoverage(pairs / (k * len(generated)), float(np.concatenate(covered).mean()))


def _num_chunks(count: int) -> int:
    return -(-count // 1000)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the squared distances between a (N, D) and b (M, D) in chunks (n, M) of about 1000 rows."""
    b = b.astype(np.float32)
    squares = (b**2).sum(1)
    for chunk in np.array_split(a.astype(np.float32), _num_chunks(len(a))):
        yield ((chunk**2).sum(1)[:, None] + squares - 2 * chunk @ b.T).clip(min=0)
