"""Image files and arrays of images, to arrays of one size."""

import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image

from cvae.imaging.reader import bytes_per_pixel, check_size, cover, explain, open_image, to_rgb

AHEAD = 2**26
"""Bytes of decoded images, at most, that wait for their turn."""

LARGE, ONE_LARGE = 2**26, Lock()
"""Images that take more bytes are decoded one at a time, since threads would each take as much memory."""


def resize(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Images (N, C, H, W) uint8 -> (N, C, *size) uint8; as they are when `size` is None or theirs already."""
    if size is None or images.shape[2:] == size:
        return images
    planes = images.reshape(-1, *images.shape[2:])  # (N, C, H, W) -> (N*C, H, W)
    fitted = np.empty((len(planes), *size), np.uint8)
    for plane, target in zip(planes, fitted, strict=True):
        target[:] = np.asarray(cover(Image.fromarray(plane), size[::-1]))  # (H, W) -> size; Pillow has the width first
    return fitted.reshape(*images.shape[:2], *size)  # (N*C, *size) -> (N, C, *size)


class ReadFailure(NamedTuple):
    """Why an image can't be read. `transient` if another try may succeed: the drive failed, or the memory."""

    reason: str
    transient: bool


class DecodedImage(NamedTuple):
    """Pixels (3, H, W) uint8, and the `bits` and `peak` of `cvae.imaging.reader.RGBImage`."""

    pixels: np.ndarray
    bits: int | None
    peak: int | None


def decode(paths: Sequence[Path], size: tuple[int, int], min_bits: int = 0) -> Iterator[DecodedImage | ReadFailure]:
    """Read image files, in threads: each one, in order, as (3, *size), or why it can't be read.

    Threads, for Pillow decodes without the interpreter's lock, and processes would import the caller's program anew.
    """
    count = max(16, AHEAD // (3 * math.prod(size)))
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Pillow's remarks on files that it reads are no use here; the one on huge files comes before it decodes them.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for first in range(0, len(paths), count):
            yield from pool.map(partial(_decode_one, size=size, min_bits=min_bits), paths[first : first + count])


def _decode_one(path: Path, size: tuple[int, int], min_bits: int) -> DecodedImage | ReadFailure:
    height, width = size
    try:
        with open_image(path) as image:
            check_size(image, max_bytes=None)  # the user's own images may take what they need, one at a time
            large = image.width * image.height * bytes_per_pixel(image) > LARGE
            with ONE_LARGE if large else nullcontext():
                # JPEG: decode at a half, quarter or eighth, if that is enough.
                image.draft(None, (2 * width, 2 * height))
                rgb, _, bits, peak = to_rgb(image, min_bits)
            pixels = np.asarray(cover(rgb, (width, height))).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        transient = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        return ReadFailure(explain(error), transient)
    return DecodedImage(pixels, bits, peak)
