"""Arrays to images. Torch-free."""

import numpy as np
from PIL import Image

from cvae.errors import UsageError


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float values in [0, 1] -> uint8 0..255, rounded; what is not a number becomes 0. uint8 stays as it is."""
    if images.dtype == np.uint8:
        return images
    return np.rint(np.clip(np.nan_to_num(images, nan=0.0), 0, 1) * 255).astype(np.uint8)


def to_pil(image: np.ndarray) -> Image.Image:
    """One image (C, H, W), float in [0, 1] or uint8, C 1 or 3 -> a Pillow image of the same size.

    Raises:
        UsageError: the array is of another shape.
    """
    if np.ndim(image) != 3 or image.shape[0] not in (1, 3):
        raise UsageError(f"an array of the shape {np.shape(image)} is no image (C, H, W) with 1 or 3 channels")
    pixels = to_uint8(image)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))  # (C, H, W) -> (H, W[, C])


def error_maps(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Where images (N, C, H, W) in [0, 1] differ: (N, 3, H, W), from black by red and yellow to white."""
    error = np.abs(images - others).mean(axis=1, keepdims=True)  # (N, C, H, W) -> (N, 1, H, W)
    return (3 * error - np.arange(3).reshape(3, 1, 1)).clip(0, 1).astype(np.float32)
