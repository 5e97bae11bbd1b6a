"""Sets of image files, read as arrays, chunk by chunk and with a common bit depth. Does not import torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from cvae.errors import count_of
from cvae.imaging.pool import DecoderPool, Job, ReadFailure, decode_here
from cvae.imaging.reader import (
    DecodedImage,
    ReadError,
    check_match,
    common_bit_depth,
    describe_ranges,
    ignore_warnings,
    to_float,
)

CHUNK = 64
"""Number of images that `read_set` holds in addition to its result."""


class ImageStream:
    """A set of image files that is read in chunks, so that it need not fit in memory.

    Iterating yields the indices (B,) of the images in a chunk, and the images (B, C, H, W) float32 in [0, 1], converted
    in the same way as by `cvae.imaging.read`. Grey values of more than 8 bits are read with a common bit depth. If a
    later image increases it, the images that were read with fewer bits are yielded again at the end, with the same
    indices.

    Args:
        paths: the image files.
        image_shape: (C, H, W), with C 1 or 3.
        exact: whether to raise an error instead of scaling, cropping or converting to grey.
        chunk: maximum number of images in a chunk.
        skip: whether to skip files that can't be read instead of raising an error.

    Attributes:
        unreadable: the reason for each image that can't be read, keyed by its index.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        image_shape: tuple[int, int, int],
        *,
        exact: bool = False,
        chunk: int = CHUNK,
        skip: bool = False,
    ) -> None:
        self.paths, self.image_shape, self.exact, self.chunk, self.skip = paths, image_shape, exact, chunk, skip
        self.unreadable: dict[int, str] = {}
        self._ranges: dict[int, tuple[int | None, int]] = {}  # bits and peak of images of more than 8 bits
        self._depth = 0  # common bit depth so far
        self._first_mismatch, self._num_mismatches = "", 0

    def __iter__(self) -> Iterator[tuple[list[int], np.ndarray]]:
        with self._open_pool() as pool:
            yield from self._read(pool, range(len(self.paths)), self._count_mismatch)
            yield from self._read(pool, common_bit_depth(self._ranges)[1])

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Read some of the images (N, C, H, W) again, after the stream has been read.

        Raises:
            ReadError: If a file can't be read any longer.
        """
        with self._open_pool() as pool:
            return np.stack([self._convert(i, image) for i, image in self._decode(pool, indices)])

    def _open_pool(self) -> AbstractContextManager[DecoderPool | None]:
        """Return a pool of processes if a file that can't be decoded is one of many, which need not fail with it."""
        is_set = self.skip and len(self.paths) > 1
        return DecoderPool() if is_set and DecoderPool.can_start_processes() else nullcontext()

    def _read(
        self, pool: DecoderPool | None, indices: Sequence[int], note: Callable[[str], None] | None = None
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        for start in range(0, len(indices), self.chunk):
            images = {}
            for i, image in self._decode(pool, indices[start : start + self.chunk]):
                if isinstance(image, ReadFailure) and self.skip:
                    self.unreadable[i] = image.reason
                else:
                    images[i] = self._convert(i, image, note)
            if images:
                yield list(images), np.stack(list(images.values()))

    def _decode(
        self, pool: DecoderPool | None, indices: Sequence[int]
    ) -> Iterator[tuple[int, DecodedImage | ReadFailure]]:
        if pool is not None:
            job = Job(self.image_shape, min_bits=self._depth)
            yield from zip(indices, pool.decode([self.paths[i] for i in indices], job), strict=True)
            return
        for i in indices:
            with ignore_warnings():
                image = decode_here(self.paths[i], Job(self.image_shape, min_bits=self._depth))
            yield i, image

    def _convert(
        self, i: int, image: DecodedImage | ReadFailure, note: Callable[[str], None] | None = None
    ) -> np.ndarray:
        """Convert a decoded image to floats, and store its range of values."""
        if isinstance(image, ReadFailure):
            raise ReadError(self.paths[i], image.reason, image.transient)
        check_match(self.paths[i], image, self.exact, note)
        if image.peak is not None:
            self._ranges[i] = image.bits, image.peak
            self._depth = max(self._depth, image.bits or 0)
        return to_float(image.pixels)

    @property
    def mismatch(self) -> str | None:
        """Message about the images read so far that have a different size, or are in colour although C is 1."""
        if self._num_mismatches < 2:
            return self._first_mismatch or None
        return f"{self._first_mismatch} (and {count_of(self._num_mismatches - 1, 'other image')})"

    def _count_mismatch(self, message: str) -> None:
        self._first_mismatch = self._first_mismatch or message
        self._num_mismatches += 1

    @property
    def ranges(self) -> str | None:
        """Message about how values of more than 8 bits were read, unless they use the full 16-bit range."""
        return describe_ranges(self._ranges.values())


def read_set(
    paths: Sequence[str | Path],
    image_shape: tuple[int, int, int],
    *,
    exact: bool = False,
    note: Callable[[str], None] | None = None,
) -> tuple[np.ndarray, str | None]:
    """Read image files like `read`, but with a common bit depth for all grey values of more than 8 bits.

    Args:
        paths: the image files.
        image_shape: (C, H, W), with C 1 or 3.
        exact: whether to raise an error instead of scaling, cropping or converting to grey.
        note: called at most once, with a message about the images that have a different size, or are in colour
            although C is 1.

    Returns:
        The images (N, C, H, W), and a message about how values of more than 8 bits were read, or None if there are no
        such values or they use the full 16-bit range.

    Raises:
        UsageError: If `exact` is set and an image has a different size, or is in colour although C is 1.
        ReadError: If a file can't be read, is not an image, or is too large.
    """
    stream = ImageStream(paths, image_shape, exact=exact)
    images = np.empty((len(paths), *image_shape), np.float32)
    for indices, chunk in stream:
        images[indices] = chunk
    if note is not None and stream.mismatch is not None:
        note(stream.mismatch)
    return images, stream.ranges
