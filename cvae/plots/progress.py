"""Reconstructions over the course of training, from the sample images that a run saved."""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cvae.errors import CvaeError, UsageError
from cvae.imaging.formats import check_size, explain, open_image
from cvae.imaging.grids import grid_gap
from cvae.plots.image_grid import image_grid
from cvae.run import sample_images

MAX_ROWS = 8
"""Maximum number of epochs to draw by default."""


def find_samples(run: Path) -> dict[int, Path]:
    """Return the paths of the reconstruction images in a run's samples/, by epoch.

    Raises:
        CvaeError: If the run has no reconstructions.
    """
    paths = sample_images(run, "reconstructions")
    if not paths:
        raise CvaeError(
            f"{str(run)!r} has no reconstructions in samples/; cvae train saves them only for grey or colour images"
        )
    return paths


def choose_epochs(available: list[int], text: str | None) -> list[int]:
    """Parse epochs like "0,20,40"; if `text` is None, choose at most `MAX_ROWS` of the available epochs, evenly spaced.

    Raises:
        UsageError: If the text is not a list of numbers, or an epoch was not saved.
    """
    if text is None:
        indices = np.linspace(0, len(available) - 1, min(MAX_ROWS, len(available)))
        return [available[i] for i in indices.round().astype(int)]
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise UsageError(f"--epochs {text!r} is not a list of numbers like {','.join(map(str, available[:3]))}")
    epochs = [int(number) for number in text.split(",")]
    for epoch in epochs:
        if epoch not in available:
            raise UsageError(f"--epochs {text!r}: {epoch} was not saved; available: {', '.join(map(str, available))}")
    return epochs


def split_sample(path: Path, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut a sample image into its originals and the reconstructions below them, (N, C, H, W) uint8 each.

    Raises:
        CvaeError: If the file can't be read, or the images in it do not have this shape.
    """
    channels, height, width = image_shape
    gap = grid_gap(height)
    try:
        with open_image(path) as file:
            check_size(file)
            image = file.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow raises anything from OSError to SyntaxError for a damaged file
        raise CvaeError(f"can't read {str(path)!r} as an image: {explain(error)}") from error
    count, rest = divmod(image.width + gap, width + gap)
    if count < 1 or rest or image.height != 2 * height + gap:
        raise CvaeError(f"{str(path)!r} has {image.width}x{image.height} pixels, not two rows of {width}x{height}")
    crops = [
        np.asarray(image.crop((x, y, x + width, y + height))).reshape(height, width, channels)
        for y in (0, height + gap)
        for x in range(0, image.width, width + gap)
    ]
    images = np.stack(crops).transpose(0, 3, 1, 2)  # (2N, H, W, C) -> (2N, C, H, W)
    return images[:count], images[count:]


def draw(samples: dict[int, Path], image_shape: tuple[int, int, int], title: str) -> Figure:
    """Draw a row of originals, and below it a row of reconstructions for each epoch.

    Raises:
        CvaeError: If a sample image can't be read, or the images in it do not have this shape.
    """
    halves = {epoch: split_sample(path, image_shape) for epoch, path in samples.items()}
    originals = next(iter(halves.values()))[0]
    images = np.concatenate([originals, *(below for _, below in halves.values())]) / np.float32(255)
    return image_grid(images, ["original", *(f"epoch {epoch}" for epoch in halves)], [""] * len(originals), title)
