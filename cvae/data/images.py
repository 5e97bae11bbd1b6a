"""Conversion of image files and arrays of images to arrays of one size."""

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

from cvae.imaging.formats import MissingDecoder, bytes_per_pixel, check_size, explain, open_image
from cvae.imaging.reader import cover, to_rgb

MAX_WAITING_BYTES = 2**26
"""Maximum total size, in bytes, of the decoded images that wait to be consumed."""

LARGE_BYTES = 2**26
"""Decoded size, in bytes, above which images are decoded one at a time, to bound the memory of all threads."""

LARGE_IMAGE_LOCK = Lock()
"""Lock that a thread holds while it decodes a large image."""

PIL_LOCK = Lock()
"""Lock for copying a PIL image: a list may contain the same image twice, and copying may load its file."""


def resize(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Resize images (N, C, H, W) uint8 to (N, C, *size), or return them unchanged if `size` is None."""
    if size is None or images.shape[2:] == size:
        return images
    channels = images.reshape(-1, *images.shape[2:])  # (N, C, H, W) -> (N*C, H, W)
    resized = np.empty((len(channels), *size), np.uint8)
    for channel, target in zip(channels, resized, strict=True):
        # (H, W) -> size; Pillow takes sizes as (width, height)
        target[:] = np.asarray(cover(Image.fromarray(channel), size[::-1]))
    return resized.reshape(*images.shape[:2], *size)  # (N*C, *size) -> (N, C, *size)


class ReadFailure(NamedTuple):
    """Failure to read an image.

    Attributes:
        reason: why the image can't be read.
        transient: whether another attempt may succeed, for example after an I/O or memory error, or once a missing
            package is installed.
    """

    reason: str
    transient: bool


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: (3, H, W) uint8.
        bits: see `cvae.imaging.reader.RGBImage`.
        peak: see `cvae.imaging.reader.RGBImage`.
    """

    pixels: np.ndarray
    bits: int | None
    peak: int | None


def decode(
    sources: Sequence[str | Path | Image.Image], size: tuple[int, int], min_bits: int = 0
) -> Iterator[DecodedImage | ReadFailure]:
    """Decode image files or PIL images in threads, and yield images (3, *size) or failures in the order of `sources`.

    Threads suffice because Pillow releases the GIL while decoding. Processes would import the caller's program again.
    """
    count = max(16, MAX_WAITING_BYTES // (3 * math.prod(size)))
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Ignore warnings about files that Pillow can read, except for the warning about huge files.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for first in range(0, len(sources), count):
            yield from pool.map(partial(_decode_one, size=size, min_bits=min_bits), sources[first : first + count])


def _open(source: str | Path | Image.Image) -> Image.Image:
    if not isinstance(source, Image.Image):
        return open_image(source)
    with PIL_LOCK:
        return source.copy()


def _decode_one(source: str | Path | Image.Image, size: tuple[int, int], min_bits: int) -> DecodedImage | ReadFailure:
    height, width = size
    try:
        with _open(source) as image:
            check_size(image, max_bytes=None)  # the user's own images may take a lot of memory
            is_large = image.width * image.height * bytes_per_pixel(image) > LARGE_BYTES
            with LARGE_IMAGE_LOCK if is_large else nullcontext():
                # A JPEG file is decoded at a half, quarter or eighth of its size if that is large enough.
                image.draft(None, (2 * width, 2 * height))
                rgb, _, bits, peak = to_rgb(image, min_bits)
            pixels = np.asarray(cover(rgb, (width, height))).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        transient = isinstance(error, MemoryError | MissingDecoder)
        transient = transient or (isinstance(error, OSError) and error.errno is not None)
        return ReadFailure(explain(error), transient)
    return DecodedImage(pixels, bits, peak)
