"""The one resize that all data sets share."""

import numpy as np
from PIL import Image, ImageOps


def fit(image: Image.Image, size: int) -> Image.Image:
    """The shorter side to `size` pixels (bicubic, antialiased) and the centre of the longer one: a square."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """Images (N, C, H, W) uint8 -> (N, C, size, size) uint8 by `fit`; as they are for a `size` of None or their own."""
    if size is None or images.shape[2:] == (size, size):
        return images
    planes = images.reshape(-1, *images.shape[2:])  # (N, C, H, W) -> (N*C, H, W)
    fitted = np.empty((len(planes), size, size), np.uint8)
    for plane, target in zip(planes, fitted, strict=True):
        target[:] = np.asarray(fit(Image.fromarray(plane), size))  # (H, W) -> (size, size)
    return fitted.reshape(*images.shape[:2], size, size)  # (N*C, size, size) -> (N, C, size, size)
