"""Rows of images with their names, which several kinds of figure are."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cvae.imaging import grids
from cvae.plots.style import DPI, plain


def image_grid(images: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Images (R*K, C, H, W), row by row, under a title; R names before the rows and K above the columns, or ""."""
    height, width = images.shape[2:]
    most = max(len(rows), len(columns))
    cell = min(0.65, max(0.2, 9 / most), 400 / most)  # inches; matplotlib draws no more than 65,536 pixels
    down, across = cell * height / max(height, width), cell * width / max(height, width)
    font = min(10.0, 50 * cell)
    figure = Figure(figsize=(across * len(columns), down * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1))  # the names lie outside, where `cvae.plots.style.save` makes room for them
    large = _enlarged(images, max(1, round(cell * DPI / max(height, width))))
    picture = np.asarray(grids.grid(large, len(columns)))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.set_yticks(_centres(len(rows), large.shape[2], picture.shape[0]), list(map(plain, rows)), fontsize=font)
    axes.set_xticks(_centres(len(columns), large.shape[3], picture.shape[1]), list(map(plain, columns)), fontsize=font)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(plain(title), fontsize=11)
    return figure


def _enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """Images (N, C, H, W) by a whole factor, smoothly, each by itself, so that none runs into the gap beside it."""
    count, channels, height, width = images.shape
    planes = images.astype(np.float32).reshape(-1, height, width)  # (N, C, H, W) -> (N*C, H, W)
    size = (width * factor, height * factor)
    large = np.stack([np.asarray(Image.fromarray(plane).resize(size, grids.RESAMPLING)) for plane in planes])
    return large.reshape(count, channels, *large.shape[1:])  # (N*C, H*factor, W*factor) -> (N, C, ...)


def _centres(count: int, side: int, total: int) -> np.ndarray:
    """The middle of each of `count` images of `side` pixels, which with the gaps between them take `total`."""
    return np.arange(count) * (total - side) / max(1, count - 1) + (side - 1) / 2
