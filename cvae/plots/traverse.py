"""Latent traversals: images in which one dimension of the latent code varies at a time."""

import numpy as np
from matplotlib.figure import Figure

from cvae.plots.image_grid import image_grid
from cvae.runtime import Model


def top_dimensions(kl: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` dimensions with the largest values in `kl` (Z,), in descending order of KL."""
    return np.argsort(-kl, kind="stable")[:count]


def traversal_codes(code: np.ndarray, dimensions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return D*S copies (D*S, Z) of a code (Z,). In each, one of the D dimensions is set to one of the S values."""
    codes = np.tile(code, (len(dimensions), len(values), 1))  # (Z,) -> (D, S, Z)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = values
    return codes.reshape(-1, len(code))  # (D, S, Z) -> (D*S, Z)


def draw(
    model: Model,
    code: np.ndarray,
    row: np.ndarray | None,
    kl: np.ndarray,
    values: np.ndarray,
    dimensions: int,
    title: str,
) -> Figure:
    """Draw a latent traversal, with one row per dimension.

    Args:
        model: the exported model.
        code: latent code to start from, (Z,).
        row: conditions, as in `cvae.condition_rows`; None for a model without conditions.
        kl: KL of each dimension in nats, (Z,).
        values: values of the dimension that varies, one per column.
        dimensions: number of dimensions to draw, in descending order of KL.
        title: title of the figure.
    """
    indices = top_dimensions(kl, dimensions)
    codes = traversal_codes(code, indices, values)
    images = model.decode_rows(codes, None if row is None else row.repeat(len(codes), axis=0))
    return image_grid(
        images, [f"z{d}  {kl[d]:.2f} nats" for d in indices], [_format_signed(float(value)) for value in values], title
    )


def _format_signed(value: float) -> str:
    value = round(value, 2)
    return f"{value:+g}" if value else "0"
