"""Images beside each other, and in a size to look at. Torch-free."""

import math

import numpy as np
from PIL import Image

from cvae.imaging.arrays import to_pil

LEGIBLE, NARROW, WIDE = 280, 96, 1280
"""Pictures smaller than the first are enlarged by a whole factor when they are saved for a person to look at; so are
strips narrower than the second, as long as they are not wider than the third then."""

ENLARGE = Image.Resampling.LANCZOS
"""How: smoothly, since an eye reads a digit of 8x8 pixels more easily so than as 64 squares."""


def grid_gap(height: int) -> int:
    """Return the pixels between the images of a grid, by their height."""
    return max(1, height // 28)


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Images (N, C, H, W) row by row on one picture, with a thin gap; by default about as many columns as rows."""
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
    """Images (N, C, H, W) side by side, with a thin gap."""
    return grid(images, columns=len(images))


def legible(picture: Image.Image) -> Image.Image:
    """A small picture, or a thin strip, enlarged by a whole factor; a large one as it is."""
    thin, long = sorted(picture.size)
    factor = max(math.ceil(LEGIBLE / long), min(math.ceil(NARROW / thin), WIDE // long))
    return picture.resize((picture.width * factor, picture.height * factor), ENLARGE)
