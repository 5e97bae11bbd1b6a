"""Image grids, and enlargement of small images. Torch-free."""

import math

import numpy as np
from PIL import Image

from cvae.imaging.arrays import to_pil

MIN_LONG_SIDE, MIN_SHORT_SIDE, MAX_LONG_SIDE = 280, 96, 1280
"""Pixels. An image whose longer side is below the first is enlarged by a whole factor; so is a strip whose shorter side
is below the second, while its longer side does not exceed the third."""

RESAMPLING = Image.Resampling.LANCZOS
"""Filter of the enlargement. A digit of 8x8 pixels is easier to read when it is smooth than as 64 squares."""


def grid_gap(height: int) -> int:
    """Return the gap between the images of a grid, in pixels, for their height."""
    return max(1, height // 28)


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Arrange images (N, C, H, W) in a grid, row by row, with a thin gap between them.

    `columns` defaults to about as many as there are rows.
    """
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows, gap = math.ceil(count / columns), grid_gap(height)
    canvas = np.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 0.5, dtype=np.float32
    )  # (C, rows, columns)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, y : y + height, x : x + width] = image
    return to_pil(canvas)


def strip(images: np.ndarray) -> Image.Image:
    """Arrange images (N, C, H, W) in one row, with a thin gap between them."""
    return grid(images, columns=len(images))


def enlarge(image: Image.Image) -> Image.Image:
    """Enlarge a small image or a thin strip by a whole factor, so that details are visible; keep the size of others."""
    short, long = sorted(image.size)
    factor = max(math.ceil(MIN_LONG_SIDE / long), min(math.ceil(MIN_SHORT_SIDE / short), MAX_LONG_SIDE // long))
    return image.resize((image.width * factor, image.height * factor), RESAMPLING)
