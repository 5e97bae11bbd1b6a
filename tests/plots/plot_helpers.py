"""Helpers that read the contents of figures."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cvae import model_zoo

ZOO = model_zoo.DEFAULT


def read_pixels(path: str | Path) -> np.ndarray:
    """Return the pixels of an image file, after checking that it is not blank."""
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"))
    assert pixels.std() > 10
    return pixels


def cells(figure: Figure, rows: int, columns: int, side: int = 8) -> np.ndarray:
    """Return the images (rows, columns, side, side) of an image grid, with values in 0..255."""
    (axes,) = figure.axes
    (image,) = axes.images
    pixels = np.asarray(image.get_array())
    factor = pixels.shape[1] // (columns * side)
    large = factor * side
    gap = max(1, large // 28)
    assert factor > 1 and pixels.shape == (rows * (large + gap) - gap, columns * (large + gap) - gap)
    padded = np.pad(pixels, ((0, gap), (0, gap))).reshape(rows, large + gap, columns, large + gap).swapaxes(1, 2)
    images = padded[:, :, :large:factor, :large:factor]
    assert np.array_equal(padded[:, :, :large, :large], np.kron(images, np.ones((1, 1, factor, factor), int)))
    return images.astype(int)


def equal_rounded(panels: np.ndarray, images: np.ndarray) -> bool:
    """Return whether panels (R, K, H, W) in 0..255 equal images (R*K, 1, H, W) in [0, 1] after rounding."""
    return bool(np.abs(panels.reshape(images.shape) - images * 255).max() <= 0.51)


def names(figure: Figure) -> tuple[list[str], list[str]]:
    """Return the labels of the rows and the columns of an image grid."""
    (axes,) = figure.axes
    return [text.get_text() for text in axes.get_yticklabels()], [text.get_text() for text in axes.get_xticklabels()]


def legends(figure: Figure) -> list[Any]:
    return [legend for legend in (axes.get_legend() for axes in figure.axes) if legend is not None]
