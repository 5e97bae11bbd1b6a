"""Binarization of grey images: the grey value is the probability of white."""

import numpy as np

STATIC_SEED = 0
"""Seed of static binarization, so that the static version of a data set is always the same.

It differs from the static MNIST of the literature, which is distributed as files: load that with --data npz:PATH.
"""


def sample_pixels(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 images whose pixels are 255 with the probability grey / 255, and else 0."""
    # Exactly g of the 255 possible values 0 ... 254 are less than a grey value g, so the probability is g / 255.
    white = rng.integers(0, 255, images.shape, np.uint8) < images
    return white * np.uint8(255)


def sample_image(image: np.ndarray, index: int, stream: int) -> np.ndarray:
    """Sample one image like `sample_pixels`, with the seed of its index and of the split that `stream` stands for."""
    return sample_pixels(image, np.random.default_rng([STATIC_SEED, stream, index]))
