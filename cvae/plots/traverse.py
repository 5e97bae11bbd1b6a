"""What each dimension of the code does: it alone varies, the others stay."""

import numpy as np
from matplotlib.figure import Figure

from cvae.plots.image_grid import image_grid
from cvae.runtime import Model


def strongest(kl: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` dimensions with the largest KL (Z,), the largest first."""
    return np.argsort(-kl, kind="stable")[:count]


def varied(code: np.ndarray, dimensions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The code (Z,) with each of the D dimensions set to each of the S values in turn: (D*S, Z)."""
    codes = np.tile(code, (len(dimensions), len(values), 1))  # (Z,) -> (D, S, Z)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = values
    return codes.reshape(-1, len(code))  # (D, S, Z) -> (D*S, Z)


def draw(
    model: Model, code: np.ndarray, index: int | None, kl: np.ndarray, values: np.ndarray, dimensions: int, title: str
) -> Figure:
    """A row for each of the dimensions with the largest KL (Z,), around the code (Z,)."""
    chosen = strongest(kl, dimensions)
    images = model.decode(varied(code, chosen, values), label_index=index)
    return image_grid(
        images, [f"z{d}  {kl[d]:.2f} nats" for d in chosen], [_signed(float(value)) for value in values], title
    )


def _signed(value: float) -> str:
    value = round(value, 2)
    return f"{value:+g}" if value else "0"
