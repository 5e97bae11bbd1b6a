"""Images that stay in their file, for sets that are larger than memory."""

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
    """An open file that threads share. It closes itself, without a ResourceWarning, when the last of them drops it."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))
        self.position = Lock()

    def __del__(self) -> None:
        self.close()

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill `view`, or its beginning, with the bytes from `offset` on; how many it was."""
        if hasattr(os, "preadv"):
            return os.preadv(self.fileno(), [view], offset)
        with self.position:  # Windows has one for all threads
            self.seek(offset)
            return self.readinto(view)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Images (N, C, H, W) uint8 in a .npy file: `rows[index]` reads those asked for, and keeps none.

    The file stays open, so that it may be replaced or removed under a run that reads it. Threads may share a `Rows`.

    It is read, not mapped, because: the pages of a map count as the process's own; to read rows at random through one
    took 2 times as long, and from a disk 15 times, since a page is fetched only when the one before has come; and when
    a mapped file becomes shorter the process is killed (SIGBUS), where a read can say so.

    Args:
        start: bytes before the first image.
        image_shape: (C, H, W).
        index: which images of the file these are, and in what order (N,) int64.
        draw: makes of an image, and of its number in the file, the image that is given out instead.
    """

    file: File
    start: int
    image_shape: tuple[int, ...]
    index: np.ndarray
    draw: Callable[[np.ndarray, int], np.ndarray] | None = None
    dtype: ClassVar = np.dtype(np.uint8)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """All images of a .npy file: uint8, (N, C, H, W) or (N, H, W), as `numpy.save` writes a C-ordered array.

        Raises:
            UsageError: it holds another type or shape of array.
            CvaeError: it can't be read, or is damaged.
        """
        try:
            file = File(path)
            shape, fortran, dtype = _header(file)
            start, length = file.tell(), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
        except ValueError as error:
            raise CvaeError(f"{str(path)!r} is damaged or no .npy file; write one with numpy.save") from error
        if dtype != np.uint8 or fortran or len(shape) not in (3, 4):
            order = " in Fortran order" if fortran else ""
            raise UsageError(f"{str(path)!r} holds {dtype} {shape}{order}, not uint8 (N, C, H, W) or (N, H, W)")
        if length != start + math.prod(shape):
            raise CvaeError(f"{str(path)!r} is damaged: {length:,} bytes, not {start + math.prod(shape):,}")
        image_shape = shape[1:] if len(shape) == 4 else (1, *shape[1:])  # (N, H, W) -> (N, 1, H, W)
        return cls(file=file, start=start, image_shape=image_shape, index=np.arange(shape[0]))

    @property
    def shape(self) -> tuple[Any, ...]:  # as numpy's is typed
        """(N, C, H, W)"""
        return len(self.index), *self.image_shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: slice | np.ndarray) -> Self:
        """Some of the images, by a slice or a row of numbers or booleans; none is read."""
        return replace(self, index=self.index[rows])

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """Read images, chosen as by `select`: (N, C, H, W) uint8.

        Raises:
            CvaeError: the file can't be read any more, or has become shorter.
        """
        rows = self.index[key]
        images = np.empty((len(rows), *self.image_shape), np.uint8)
        size = math.prod(self.image_shape)
        # Neighbours are read in one go: cut where the next row is not the one after.
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        parts = [
            (images[first:last].reshape(-1).data, self.start + int(rows[first]) * size)
            for first, last in pairwise(cuts)
            if first < last
        ]
        try:
            if hasattr(os, "posix_fadvise"):  # ask for all of them at once, so that the disk works in parallel
                for view, offset in parts:
                    os.posix_fadvise(self.file.fileno(), offset, len(view), os.POSIX_FADV_WILLNEED)
            for view, offset in parts:
                while view:
                    count = self.file.read_at(offset, view)
                    if not count:
                        raise CvaeError(f"{self.file.name!r} has become shorter while it was read; start again")
                    view, offset = view[count:], offset + count
        except OSError as error:
            raise CvaeError(f"can't read {self.file.name!r}: {error.strerror}") from error
        if self.draw is not None:
            for row, image in zip(rows.tolist(), images, strict=True):
                image[:] = self.draw(image, row)
        return images


def _header(file: io.FileIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, type; the file then stands at the first byte of the array."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
