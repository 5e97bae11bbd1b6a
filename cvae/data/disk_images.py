"""Images that are read from disk on demand, for data sets larger than memory."""

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
        self.position = Lock()

    def __del__(self) -> None:
        self.close()

    def read_at(self, offset: int, view: memoryview) -> int:
        """Read bytes from `offset` on into `view`, and return how many were read."""
        if hasattr(os, "preadv"):
            return os.preadv(self.fileno(), [view], offset)
        with self.position:  # on Windows, threads share one file position
            self.seek(offset)
            return self.readinto(view)


@dataclass(frozen=True, kw_only=True, eq=False)
class DiskImages:
    """Images (N, C, H, W) uint8 in an .npy file, read when they are indexed and not cached.

    The file stays open, so it may be replaced or removed while it is in use. Threads can share an instance.

    The file is read rather than mapped for three reasons: mapped pages count as memory of the process; reading images
    in random order through a map took 2 times as long, and from a hard disk 15 times, since pages are fetched one after
    another; and if a mapped file is truncated, the process is killed (SIGBUS), where a read raises an error.

    Args:
        file: the open .npy file.
        start: offset of the first image, in bytes.
        image_shape: (C, H, W).
        index: indices of these images in the file, in order, (N,) int64.
        transform: called with each image that is read (C, H, W), and its index in the file; returns its replacement.
    """

    file: File
    start: int
    image_shape: tuple[int, ...]
    index: np.ndarray
    transform: Callable[[np.ndarray, int], np.ndarray] | None = None
    dtype: ClassVar = np.dtype(np.uint8)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an .npy file of a C-ordered uint8 array, (N, C, H, W) or (N, H, W), as `numpy.save` writes it.

        Raises:
            UsageError: the array has another type, shape or order.
            CvaeError: the file can't be read, or is damaged.
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
            raise UsageError(f"{str(path)!r} holds {dtype} {shape}{order}, not uint8 (N, C, H, W) or (N, H, W)")
        if length != start + math.prod(shape):
            raise CvaeError(f"{str(path)!r} is damaged: {length:,} bytes, not {start + math.prod(shape):,}")
        image_shape = shape[1:] if len(shape) == 4 else (1, *shape[1:])  # (N, H, W) -> (N, 1, H, W)
        return cls(file=file, start=start, image_shape=image_shape, index=np.arange(shape[0]))

    @property
    def shape(self) -> tuple[Any, ...]:  # the type that numpy declares
        """(N, C, H, W)"""
        return len(self.index), *self.image_shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def select(self, indices: slice | np.ndarray) -> Self:
        """Return some of the images, by a slice or an array of integers or booleans, without reading them."""
        return replace(self, index=self.index[indices])

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """Read images selected like in `select`, as (N, C, H, W) uint8.

        Raises:
            CvaeError: the file can't be read any more, or has been truncated.
        """
        indices = self.index[key]
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        size = math.prod(self.image_shape)
        # Adjacent images are read at once: cut wherever the next index does not follow.
        cuts = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        parts = [
            (images[first:last].reshape(-1).data, self.start + int(indices[first]) * size)
            for first, last in pairwise(cuts)
            if first < last
        ]
        try:
            if hasattr(os, "posix_fadvise"):  # request all parts first, so that the disk works in parallel
                for view, offset in parts:
                    os.posix_fadvise(self.file.fileno(), offset, len(view), os.POSIX_FADV_WILLNEED)
            for view, offset in parts:
                while view:
                    count = self.file.read_at(offset, view)
                    if not count:
                        raise CvaeError(f"{self.file.name!r} was truncated while it was read; start again")
                    view, offset = view[count:], offset + count
        except OSError as error:
            raise CvaeError(f"can't read {self.file.name!r}: {error.strerror}") from error
        if self.transform is not None:
            for index, image in zip(indices.tolist(), images, strict=True):
                image[:] = self.transform(image, index)
        return images


def _read_header(file: io.FileIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, Fortran order and type, and leave the file at the first byte of the array."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
