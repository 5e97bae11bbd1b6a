"""Log densities of images, and KL divergences of codes, in nats."""

import math

import numpy as np

from cvae.spec import Spec

MIN_PROBABILITY = np.float32(2**-24)
"""Smallest probability p for which 1 - p is not rounded to 1: the spacing of float32 numbers just below 1."""


def log_prob(spec: Spec, images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return log p(x | z) in nats for each value of the images.

    For a likelihood that the mean does not determine, such as a logistic mixture, this is the negative cross-entropy.

    Args:
        spec: Spec of the model.
        images: Images x in [0, 1].
        mean: Mean of p(x | z), of the same shape as `images`.
    """
    if spec.sigma is not None:
        return -0.5 * (((images - mean) / spec.sigma) ** 2 + math.log(2 * math.pi)) - math.log(spec.sigma)
    mean = np.clip(mean, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return images * np.log(mean) + (1 - images) * np.log1p(-mean)


def gaussian_kl(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return KL(N(mean, std^2) || N(0, 1)) in nats, elementwise."""
    return 0.5 * (mean**2 + std**2 - 1) - np.log(std)
