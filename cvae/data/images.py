"""Arrays of images to another size."""

import numpy as np
from PIL import Image

from cvae.runtime.images import cover


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """Images (N, C, H, W) uint8 -> (N, C, size, size) uint8; as they are when `size` is None or theirs already."""
    if size is None or images.shape[2:] == (size, size):
        return images
    planes = images.reshape(-1, *images.shape[2:])  # (N, C, H, W) -> (N*C, H, W)
    fitted = np.empty((len(planes), size, size), np.uint8)
    for plane, target in zip(planes, fitted, strict=True):
        target[:] = np.asarray(cover(Image.fromarray(plane), (size, size)))  # (H, W) -> (size, size)
    return fitted.reshape(*images.shape[:2], size, size)  # (N*C, size, size) -> (N, C, size, size)
