"""A grid of images with labels for its rows and columns."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cvae.imaging import grids
from cvae.plots.style import DPI, Figure, escape_math

CHARACTER_WIDTH = 0.6
"""Mean width of a character, relative to the font size."""


def image_grid(images: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Draw images in a grid.

    Args:
        images: images (R*K, C, H, W) in [0, 1], row by row.
        rows: R labels to the left of the rows; "" for no label.
        columns: K labels above the columns; "" for no label.
        title: title of the figure.
    """
    height, width = images.shape[2:]
    count = max(len(rows), len(columns))
    cell = min(0.65, max(0.2, 9 / count), 400 / count)  # inches; matplotlib draws at most 65,536 pixels per side
    cell_height, cell_width = cell * height / max(height, width), cell * width / max(height, width)
    font = min(10.0, 50 * cell)
    figure = Figure(figsize=(cell_width * len(columns), cell_height * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1))  # `cvae.plots.style.save` makes room for the labels around the axes
    enlarged = _enlarge(images, max(1, round(cell * DPI / max(height, width))))
    pixels = np.asarray(grids.grid(enlarged, len(columns)))
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    row_ticks = _tick_positions(len(rows), enlarged.shape[2], pixels.shape[0])
    column_ticks = _tick_positions(len(columns), enlarged.shape[3], pixels.shape[1])
    axes.set_yticks(row_ticks, list(map(escape_math, rows)), fontsize=font)
    widest = max(map(len, columns)) * CHARACTER_WIDTH * font / 72  # inches
    rotation = 90 if widest > cell_width else 0
    axes.set_xticks(column_ticks, list(map(escape_math, columns)), fontsize=font, rotation=rotation)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(escape_math(title), fontsize=11)
    return figure


def _enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge images (N, C, H, W) smoothly by an integer factor.

    Each image is resized separately, before the grid is made, so that its edges don't blend with the gap around it.
    """
    count, channels, height, width = images.shape
    flat = images.astype(np.float32).reshape(-1, height, width)  # (N, C, H, W) -> (N*C, H, W)
    size = (width * factor, height * factor)
    enlarged = np.stack([np.asarray(Image.fromarray(channel).resize(size, grids.RESAMPLING)) for channel in flat])
    return enlarged.reshape(count, channels, *enlarged.shape[1:])  # (N*C, H*factor, W*factor) -> (N, C, ...)


def _tick_positions(count: int, side: int, total: int) -> np.ndarray:
    """Return the centres of `count` images along one axis of a grid, in pixels.

    Args:
        count: number of images.
        side: length of an image.
        total: length of the grid, including the gaps.
    """
    return np.arange(count) * (total - side) / max(1, count - 1) + (side - 1) / 2
