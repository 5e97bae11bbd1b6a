"""Images that are read from disk on demand, for data sets larger than memory."""

import hashlib
import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np

from cvae.errors import CvaeError, UsageError


class File(io.FileIO):
    """An open file that threads can share. It closes without a ResourceWarning when it is garbage-collected."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))
        self.position_lock = Lock()

    def __del__(self) -> None:
        self.close()

    def read_at(self, offset: int, view: memoryview) -> int:
        """Read bytes from `offset` into `view`, and return the number of bytes read."""
        if hasattr(os, "preadv"):
            return os.preadv(self.fileno(), [view], offset)
        with self.position_lock:  # without preadv, as on Windows, the threads share one file position
            self.seek(offset)
            return self.readinto(view)


@dataclass(frozen=True, kw_only=True, eq=False)
class DiskImages:
    """Images (N, C, H, W) uint8 in an .npy file, read from the file each time they are indexed.

    The file stays open, so it may be replaced or removed while it is in use. Threads can share an instance.

    The file is not memory-mapped, for three reasons. Mapped pages count towards the memory usage of the process. Random
    access to a mapped file took twice as long (15 times on a hard disk), because pages are fetched one after another.
    And if a mapped file is truncated, the process is killed (SIGBUS), whereas reading the file raises an error.

    Args:
        file: the open .npy file.
        start: offset of the first image, in bytes.
        image_shape: (C, H, W).
        index: index of each image in the file, (N,) int64.
        transform: function of an image (C, H, W) and its index in the file, applied to each image that is read.
        hashes: hash of each image in the file, as of `hash_image`, (M,) uint64; None if they are not known.
    """

    file: File
    start: int
    image_shape: tuple[int, ...]
    index: np.ndarray
    transform: Callable[[np.ndarray, int], np.ndarray] | None = None
    hashes: np.ndarray | None = None
    dtype: ClassVar = np.dtype(np.uint8)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an .npy file with a C-ordered uint8 array (N, C, H, W) or (N, H, W).

        Raises:
            UsageError: If the array has a different type, shape or order.
            CvaeError: If the file can't be read, or is damaged.
        """
        try:
            file = File(path)
            shape, fortran, dtype = _read_header(file)
            start, length = file.tell(), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
        except ValueError as error:
            raise CvaeError(f"{str(path)!r} is damaged or not an .npy file; write one with numpy.save") from error
        if dtype != np.uint8 or fortran or len(shape) not in (3, 4):
            order = " in Fortran order" if fortran else ""
            raise UsageError(
                f"{str(path)!r} holds {dtype} {shape}{order}, not uint8 (N, C, H, W) or (N, H, W) in C order"
            )
        if shape[0] < 0 or min(shape[1:]) < 1:
            raise CvaeError(f"{str(path)!r} is damaged: images of shape {shape[1:]} have no pixels")
        if length != start + math.prod(shape):
            raise CvaeError(f"{str(path)!r} is damaged: it has {length:,} bytes, not {start + math.prod(shape):,}")
        image_shape = shape[1:] if len(shape) == 4 else (1, *shape[1:])  # (N, H, W) -> (N, 1, H, W)
        return cls(file=file, start=start, image_shape=image_shape, index=np.arange(shape[0]))

    @property
    def shape(self) -> tuple[Any, ...]:  # declared with the type of `ndarray.shape`
        """Shape (N, C, H, W) of the images."""
        return len(self.index), *self.image_shape

    @property
    def nbytes(self) -> int:
        """Size of all images in bytes."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def select(self, indices: slice | np.ndarray) -> Self:
        """Select images by a slice, or by an array of integers or booleans. No image is read."""
        return replace(self, index=self.index[indices])

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """Read the images (N, C, H, W) uint8 that a slice, or an array of integers or booleans, selects.

        Raises:
            CvaeError: If the file can no longer be read, or has been truncated.
        """
        indices = self.index[key]
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        size = math.prod(self.image_shape)
        # Read each sequence of adjacent images with one call. A new sequence starts where an index is not the
        # previous index plus one.
        starts = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        ranges = [
            (images[first:last].reshape(-1).data, self.start + int(indices[first]) * size)
            for first, last in pairwise(starts)
            if first < last
        ]
        try:
            if hasattr(os, "posix_fadvise"):  # request all ranges first, so that the disk can serve them in parallel
                for view, offset in ranges:
                    os.posix_fadvise(self.file.fileno(), offset, len(view), os.POSIX_FADV_WILLNEED)
            for view, offset in ranges:
                while view:
                    count = self.file.read_at(offset, view)
                    if not count:
                        raise CvaeError(f"{self.file.name!r} was truncated while it was being read; start over")
                    view, offset = view[count:], offset + count
        except OSError as error:
            raise CvaeError(f"can't read {self.file.name!r}: {error.strerror}") from error
        if self.transform is not None:
            for index, image in zip(indices.tolist(), images, strict=True):
                image[:] = self.transform(image, index)
        return images


def hash_image(image: np.ndarray) -> int:
    """Return a 64-bit hash of an image (C, H, W). A grey image has the same hash with one and with three channels."""
    is_grey = len(image) > 1 and bool((image == image[:1]).all())
    pixels = np.ascontiguousarray(image[:1] if is_grey else image)
    return hash_bytes(pixels.data)


def hash_images(images: np.ndarray) -> np.ndarray:
    """Return `hash_image` of each image (N, C, H, W) in up to a third less time, (N,) uint64."""
    images = np.ascontiguousarray(images)
    is_grey = (images == images[:, :1]).all(axis=(1, 2, 3))
    size, grey_size, data = math.prod(images.shape[1:]), math.prod(images.shape[2:]), images.data.cast("B")
    ends = np.arange(len(images)) * size + np.where(is_grey, grey_size, size)
    parts = zip(range(0, len(data), size), ends.tolist(), strict=True)
    return np.frombuffer(b"".join(hashlib.blake2b(data[i:j], digest_size=8).digest() for i, j in parts), "<u8")


def hash_bytes(data: bytes | memoryview) -> int:
    """Return a 64-bit hash of bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _read_header(file: io.FileIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the array's shape, whether it is in Fortran order, and its type. Leave the file at the first image."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
