"""How near two sets of images are, pixel by pixel or as distributions of features. Torch-free."""

import importlib.util
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cvae.errors import MissingExtraError

NEIGHBOURS = 5
"""k of density and coverage."""


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each pair of images (N, C, H, W) in [0, 1], in decibels (N,).

    Equal images would have an infinite one; the squared error is taken as at least 1e-10 (100 dB).
    """
    mse = ((images.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3))  # (N, C, H, W) -> (N,)
    return -10 * np.log10(mse.clip(1e-10))


def require_ssim() -> None:
    """Raises:
    MissingExtraError: scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise MissingExtraError("structural similarity", "evaluate")


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair of images (N, C, H, W) in [0, 1]: (N,), at most 1.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, with its Gaussian window of sigma 1.5 and 11 pixels (for
    images under 11 pixels a uniform one that fits) and the mean over channels, by scikit-image.

    Raises:
        MissingExtraError: scikit-image is not installed.
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
            for a, b in zip(images, others, strict=True)
        ]
    )


def frechet(features: np.ndarray, others: np.ndarray) -> float:
    """The Fréchet distance of two sets of features (N, D), (M, D), each taken as normal.

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)): Heusel et al. 2017, eq. 6, https://arxiv.org/abs/1706.08500. It depends on
    the features, and shrinks as N and M grow: compare figures of one protocol only.
    """
    (mean, covariance), (mean2, covariance2) = _moments(features), _moments(others)
    root = _root(covariance)
    # tr (C C')^(1/2) = tr (C^(1/2) C' C^(1/2))^(1/2), whose argument is symmetric
    middle = np.linalg.eigvalsh(root @ covariance2 @ root).clip(min=0)
    return float(((mean - mean2) ** 2).sum() + np.trace(covariance) + np.trace(covariance2) - 2 * np.sqrt(middle).sum())


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = features.astype(np.float64)
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))  # (D,), (D, D)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


class DensityCoverage(NamedTuple):
    """Both are about 1 for two samples of one distribution; density may exceed it, coverage may not."""

    density: float
    coverage: float


def density_and_coverage(real: np.ndarray, generated: np.ndarray) -> DensityCoverage:
    """How densely generated features (M, D) lie among real ones (N, D), and which share of the real ones they cover.

    Naeem et al. 2020, eq. 7 and 9, https://arxiv.org/abs/2002.09797, with k = 5 neighbours.
    """
    k = min(NEIGHBOURS, len(real) - 1)
    radius = np.concatenate([np.partition(part, k, axis=1)[:, k] for part in _squared_distances(real, real)])  # (N,)
    within, nearest = 0, []
    for part, radii in zip(_squared_distances(real, generated), np.array_split(radius, _parts(len(real))), strict=True):
        within += int((part < radii[:, None]).sum())  # (n, M) -> pairs of a generated and a real one near it
        nearest.append(part.min(1) < radii)
    return DensityCoverage(within / (k * len(generated)), float(np.concatenate(nearest).mean()))


def _parts(count: int) -> int:
    return -(-count // 1000)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """(N, D), (M, D) -> (n, M) for each thousand of the N."""
    b = b.astype(np.float32)
    squares = (b**2).sum(1)
    for part in np.array_split(a.astype(np.float32), _parts(len(a))):
        yield ((part**2).sum(1)[:, None] + squares - 2 * part @ b.T).clip(min=0)
