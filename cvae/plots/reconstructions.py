"""Plot of images from a data set and their reconstructions."""

import numpy as np
from matplotlib.figure import Figure

from cvae.plots.codes import Codes
from cvae.plots.image_grid import image_grid
from cvae.runtime import Model


def draw(model: Model, codes: Codes, columns: int, title: str) -> Figure:
    """Draw rows of images, each above a row of their reconstructions."""
    originals = codes.images.images[:].astype(np.float32) / 255
    reconstructed = model.decode_rows(codes.mean, codes.images.rows)
    rows, names = [], []
    for start in range(0, len(originals), columns):
        for name, images in ("image", originals), ("reconstruction", reconstructed):
            row = images[start : start + columns]
            blank = np.ones((columns - len(row), *row.shape[1:]), np.float32)  # the last row may be shorter
            rows.append(np.concatenate([row, blank]))
            names.append(name)
    return image_grid(np.concatenate(rows), names, [""] * columns, title)
