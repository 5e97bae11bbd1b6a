"""Grids of generated images: a row for each class or value, or the manifold of a two-dimensional latent space."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.figure import Figure

from cvae.plots.image_grid import image_grid
from cvae.runtime import Model


def condition_grid(
    model: Model,
    noise: np.ndarray,
    rows: np.ndarray | None,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
) -> Figure:
    """Draw a grid of images under different conditions, with the same noise in each row of the grid.

    Args:
        model: the exported model.
        noise: noise of each column, (K, Z), or of all columns, (1, Z).
        rows: rows of the conditions (see `cvae.condition_rows`) of all R*K images, row by row.
        row_names: R labels to the left of the rows.
        column_names: K labels above the columns.
        title: title of the figure.
    """
    count = len(row_names) * len(column_names)
    images = model.decode_rows(np.tile(noise, (count // len(noise), 1)), rows)  # (K, Z) -> (R*K, Z)
    return image_grid(images, row_names, column_names, title)


def normal_quantiles(count: int) -> np.ndarray:
    """Return the medians of `count` equally probable intervals of the standard normal distribution, smallest first."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)], np.float32)


def manifold(model: Model, row: np.ndarray | None, columns: int, title: str) -> Figure:
    """Draw a grid of images that are decoded from the quantiles of a two-dimensional prior.

    Kingma & Welling 2013, figure 4, https://arxiv.org/abs/1312.6114
    """
    values = normal_quantiles(columns)
    x, y = np.meshgrid(values, values)  # (K, K) each
    codes = np.stack([x, y], axis=-1).reshape(-1, 2)
    images = model.decode_rows(codes, None if row is None else row.repeat(len(codes), axis=0))
    tick_step = -(-columns // 20)  # more tick labels would overlap
    ticks = [f"{value:+.1f}" if i % tick_step == 0 else "" for i, value in enumerate(values)]
    return image_grid(images, ticks, ticks, title)
