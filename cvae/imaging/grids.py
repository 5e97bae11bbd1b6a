"""Image grids, and enlargement of small images. Does not import torch."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cvae.errors import UsageError, one_line
from cvae.imaging.arrays import to_pil

MIN_LONG_SIDE = 280
"""Minimum length of the longer side of an enlarged image, in pixels."""

MIN_SHORT_SIDE = 96
"""Minimum length of the shorter side of an enlarged strip, in pixels, unless `MAX_LONG_SIDE` would be exceeded."""

MAX_LONG_SIDE = 1280
"""Maximum length of the longer side of a strip that is enlarged to reach `MIN_SHORT_SIDE`, in pixels."""

BACKGROUND = 0.5
"""Grey value of the gaps between the images of a grid, and of its empty cells."""

BLOCK_GAP = 4
"""Gap between two blocks of rows, as a multiple of the gap between two images."""

MAX_SIDE = 2**14
"""Maximum side of an image after enlargement by a given factor, in pixels."""

MAX_COLUMNS, ASPECT = 10, 1.5
"""Maximum number of columns of a stack with one block of rows, and width/height to aim at with several blocks."""

MAX_MAGNIFIED_SIDE, MAX_MAGNIFICATION = 1000, 8
"""Limits of `magnify`: length of the longer side of the result, in pixels, and factor."""

RESAMPLING = Image.Resampling.LANCZOS
"""Filter for enlargement. A smooth digit of 8x8 pixels is easier to read than 64 squares."""


def grid_gap(height: int) -> int:
    """Return the gap between images of a given height in a grid, in pixels."""
    return max(1, height // 28)


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Arrange images (N, C, H, W) in a grid, row by row, with a thin gap between them.

    Args:
        images: the images.
        columns: number of columns; by default, the grid has about as many columns as rows.
    """
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows, gap = math.ceil(count / columns), grid_gap(height)
    canvas = np.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), BACKGROUND, dtype=np.float32
    )  # (C, rows, columns)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, y : y + height, x : x + width] = image
    return to_pil(canvas)


def strip(images: np.ndarray) -> Image.Image:
    """Arrange images (N, C, H, W) in one row, with a thin gap between them."""
    return grid(images, columns=len(images))


def stack(rows: Sequence[np.ndarray]) -> Image.Image:
    """Arrange images in rows. The images of a column belong together, for example an image and its reconstruction.

    More than `MAX_COLUMNS` images are arranged in several blocks of rows, one below the other.

    Args:
        rows: images (N, C, H, W) of each row.
    """
    count, _, height, width = rows[0].shape
    columns = _choose_columns(count, len(rows) * height, width)
    blocks = []
    for start in range(0, count, columns):
        cells = [row[start : start + columns] for row in rows]
        padding = ((0, columns - len(cells[0])), (0, 0), (0, 0), (0, 0))
        padded = [np.pad(row, padding, constant_values=BACKGROUND) for row in cells]
        blocks.append(grid(np.concatenate(padded), columns))
    gap, (block_width, block_height) = BLOCK_GAP * grid_gap(height), blocks[0].size
    size = block_width, len(blocks) * (block_height + gap) - gap
    canvas = Image.new(blocks[0].mode, size, "#808080")
    for i, block in enumerate(blocks):
        canvas.paste(block, (0, i * (block_height + gap)))
    return canvas


def _choose_columns(count: int, block_height: int, width: int) -> int:
    """Return the number of columns of `stack` for `count` images of a given width in blocks of a given height."""
    if count <= MAX_COLUMNS:
        return count

    def distance(blocks: int) -> float:
        return abs(math.log(math.ceil(count / blocks) * width / (blocks * block_height * ASPECT)))

    return math.ceil(count / min(range(1, count + 1), key=distance))


def enlarge(image: Image.Image, factor: int | None = None) -> Image.Image:
    """Enlarge an image by an integer factor.

    Args:
        image: the image.
        factor: the factor. By default, a small image or a thin strip is enlarged so that details are visible, and other
            images keep their size.

    Raises:
        UsageError: If the factor is not a positive integer, or the result would have a side of more than `MAX_SIDE`.
    """
    if factor is None:
        short, long = sorted(image.size)
        factor = max(math.ceil(MIN_LONG_SIDE / long), min(math.ceil(MIN_SHORT_SIDE / short), MAX_LONG_SIDE // long))
    elif isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise UsageError(f"scale is {one_line(repr(factor), 40)}: it must be an integer, at least 1")
    elif factor * max(image.size) > MAX_SIDE:
        raise UsageError(
            f"scale is {one_line(factor, 40)}: an image of {image.width}x{image.height} pixels would have more than "
            f"{MAX_SIDE:,} pixels along a side"
        )
    return image.resize((image.width * factor, image.height * factor), RESAMPLING)


def magnify(image: Image.Image) -> Image.Image:
    """Enlarge an image without smoothing, by an integer factor of at most 8, to sides of at most 1,000 pixels."""
    factor = min(MAX_MAGNIFICATION, max(1, MAX_MAGNIFIED_SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
