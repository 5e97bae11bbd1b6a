"""How reconstructions became better: the pictures that a run saved while it was trained."""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cvae.errors import CvaeError, UsageError
from cvae.imaging.grids import grid_gap
from cvae.plots.image_grid import image_grid
from cvae.run import sample_images

ROWS = 8
"""Epochs, at most, that are chosen when none are named."""


def saved(run: Path) -> dict[int, Path]:
    """The pictures of reconstructions in a run's samples/, by epoch.

    Raises:
        CvaeError: there is none.
    """
    found = sample_images(run, "reconstructions")
    if not found:
        raise CvaeError(f"{str(run)!r} has no pictures in samples/; cvae train saves them, of grey and colour images")
    return found


def choose(there: list[int], asked: str | None) -> list[int]:
    """The epochs asked for, as "0,20,40", or else at most `ROWS` of those that are there, evenly.

    Raises:
        UsageError: it is no list of numbers, or one of them was not saved.
    """
    if asked is None:
        places = np.linspace(0, len(there) - 1, min(ROWS, len(there)))
        return [there[i] for i in places.round().astype(int)]
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", asked):
        raise UsageError(f"--epochs {asked!r} is no list of numbers such as {','.join(map(str, there[:3]))}")
    epochs = [int(number) for number in asked.split(",")]
    for epoch in epochs:
        if epoch not in there:
            raise UsageError(f"--epochs {asked!r}: {epoch} was not saved; there are {', '.join(map(str, there))}")
    return epochs


def halves(path: Path, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut a picture into the originals and the reconstructions below, (N, C, H, W) uint8 each.

    Raises:
        CvaeError: the file can't be read, or is not of such images.
    """
    channels, height, width = image_shape
    gap = grid_gap(height)
    try:
        with Image.open(path, formats=("PNG",)) as file:
            picture = file.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        raise CvaeError(f"can't read {str(path)!r} as a picture: {error}") from error
    count, rest = divmod(picture.width + gap, width + gap)
    if count < 1 or rest or picture.height != 2 * height + gap:
        raise CvaeError(f"{str(path)!r} has {picture.width}x{picture.height} pixels, no two rows of {width}x{height}")
    cut = [
        np.asarray(picture.crop((x, y, x + width, y + height))).reshape(height, width, channels)
        for y in (0, height + gap)
        for x in range(0, picture.width, width + gap)
    ]
    images = np.stack(cut).transpose(0, 3, 1, 2)  # (2N, H, W, C) -> (2N, C, H, W)
    return images[:count], images[count:]


def draw(pictures: dict[int, Path], image_shape: tuple[int, int, int], title: str) -> Figure:
    """The originals, and below them a row for each epoch's picture.

    Raises:
        CvaeError: a picture can't be read, or is not of such images.
    """
    cut = {epoch: halves(path, image_shape) for epoch, path in pictures.items()}
    originals = next(iter(cut.values()))[0]
    images = np.concatenate([originals, *(below for _, below in cut.values())]) / np.float32(255)
    return image_grid(images, ["original", *(f"epoch {epoch}" for epoch in cut)], [""] * len(originals), title)
