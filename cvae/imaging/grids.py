"""Image grids, and enlargement of small images. Does not import torch."""

import math

import numpy as np
from PIL import Image

from cvae.imaging.arrays import to_pil

MIN_LONG_SIDE = 280
"""Minimum length of the longer side of an enlarged image, in pixels."""

MIN_SHORT_SIDE = 96
"""Minimum length of the shorter side of an enlarged strip, in pixels, as far as `MAX_LONG_SIDE` allows."""

MAX_LONG_SIDE = 1280
"""Maximum length of the longer side of a strip that is enlarged to reach `MIN_SHORT_SIDE`, in pixels."""

MAX_MAGNIFIED_SIDE, MAX_MAGNIFICATION = 1000, 8
"""Maximum length of the longer side of an image that `magnify` enlarges, in pixels, and maximum factor."""

RESAMPLING = Image.Resampling.LANCZOS
"""Filter for enlargement. A digit of 8x8 pixels is easier to read when it is smooth than as 64 squares."""


def grid_gap(height: int) -> int:
    """Return the gap between images of a given height in a grid, in pixels."""
    return max(1, height // 28)


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Arrange images (N, C, H, W) in a grid, row by row, with a thin gap between them.

    Args:
        images: the images.
        columns: number of columns; by default about the number of rows.
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
    """Enlarge a small image or a thin strip by an integer factor, so that details are visible.

    Other images keep their size.
    """
    short, long = sorted(image.size)
    factor = max(math.ceil(MIN_LONG_SIDE / long), min(math.ceil(MIN_SHORT_SIDE / short), MAX_LONG_SIDE // long))
    return image.resize((image.width * factor, image.height * factor), RESAMPLING)


def magnify(image: Image.Image) -> Image.Image:
    """Enlarge an image without smoothing, by an integer factor of at most 8, to sides of at most 1,000 pixels."""
    factor = min(MAX_MAGNIFICATION, max(1, MAX_MAGNIFIED_SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
