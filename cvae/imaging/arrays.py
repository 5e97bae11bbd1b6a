"""Conversion of arrays to images. Does not import torch."""

import numpy as np
from PIL import Image

from cvae.errors import UsageError


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Scale floats in [0, 1] to 0..255, and round them to uint8; NaN becomes 0. Return uint8 arrays unchanged."""
    if images.dtype == np.uint8:
        return images
    return np.rint(np.clip(np.nan_to_num(images, nan=0.0), 0, 1) * 255).astype(np.uint8)


def to_pil(image: np.ndarray) -> Image.Image:
    """Convert an array (C, H, W) with 1 or 3 channels, uint8 or float in [0, 1], to a Pillow image.

    Raises:
        UsageError: If the array has a different shape.
    """
    if np.ndim(image) != 3 or image.shape[0] not in (1, 3):
        raise UsageError(f"an array of shape {np.shape(image)} is not an image (C, H, W) with 1 or 3 channels")
    pixels = to_uint8(image)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))  # (C, H, W) -> (H, W[, C])


def error_maps(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Return heat maps (N, 3, H, W), with values in [0, 1], of the absolute errors of reconstructions (N, C, H, W).

    The colour scale goes from black through red and yellow to white.
    """
    error = np.abs(images - reconstructions).mean(axis=1, keepdims=True)  # (N, C, H, W) -> (N, 1, H, W)
    return (3 * error - np.arange(3).reshape(3, 1, 1)).clip(0, 1).astype(np.float32)
