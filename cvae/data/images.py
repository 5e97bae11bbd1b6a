"""Conversion of image files and arrays of images to arrays of one size."""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from cvae.imaging.pool import DecodedImage, DecoderPool, Job, ReadFailure, Source
from cvae.imaging.reader import cover, ignore_warnings


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


def decode(sources: Iterable[Source], size: tuple[int, int], min_bits: int = 0) -> Iterator[DecodedImage | ReadFailure]:
    """Decode image files or PIL images on all CPUs, and yield images (3, *size) or failures in the same order."""
    with ignore_warnings(), DecoderPool() as pool:
        yield from pool.decode(sources, Job((3, *size), own=True, min_bits=min_bits))
