"""Image files and arrays of images, to arrays of one size."""

import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from cvae.runtime.images import FORMATS, check_size, cover, to_rgb

AHEAD = 2**26
"""Bytes of decoded images, at most, that wait for their turn."""


def resize(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Images (N, C, H, W) uint8 -> (N, C, *size) uint8; as they are when `size` is None or theirs already."""
    if size is None or images.shape[2:] == size:
        return images
    planes = images.reshape(-1, *images.shape[2:])  # (N, C, H, W) -> (N*C, H, W)
    fitted = np.empty((len(planes), *size), np.uint8)
    for plane, target in zip(planes, fitted, strict=True):
        target[:] = np.asarray(cover(Image.fromarray(plane), size[::-1]))  # (H, W) -> size; Pillow has the width first
    return fitted.reshape(*images.shape[:2], *size)  # (N*C, *size) -> (N, C, *size)


def decode(paths: Sequence[Path], size: tuple[int, int]) -> Iterator[np.ndarray | None]:
    """Read image files, in threads: each one, in order, as (3, *size) uint8; None when it can't be read.

    Threads, for Pillow decodes without the interpreter's lock, and processes would import the caller's program anew.
    """
    count = max(16, AHEAD // (3 * math.prod(size)))
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Pillow's remarks on files that it reads are no use here; the one on huge files comes before it decodes them.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for first in range(0, len(paths), count):
            yield from pool.map(partial(_decode_one, size=size), paths[first : first + count])


def _decode_one(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    height, width = size
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(image)
            image.draft(None, (2 * width, 2 * height))  # JPEG: decode at a half, quarter or eighth, if that is enough
            fitted = cover(to_rgb(image), (width, height))
    except Exception:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        return None
    return np.asarray(fitted).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
