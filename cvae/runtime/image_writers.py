"""Writers that write many images, block by block, to an array, to shards, or to a folder of PNG files.

In the .npz format, each block is a shard.
"""

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cvae import imaging
from cvae.atomic import atomic_write
from cvae.errors import CvaeError
from cvae.runtime.model import Model

FOLDER_DIGITS = 8
"""Number of digits in the file names in a folder. It is fixed, because more images can be added later."""


class Writer(ABC):
    """Writer of blocks of images in one format."""

    @abstractmethod
    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        """Write a block of images (b, C, H, W) that begins at the index `start`. It may have been written before."""

    def find_other_images(self) -> Path | None:
        """Return the path of existing images that the new ones would be mixed with, or None."""
        return None

    @abstractmethod
    def is_complete(self, n: int) -> bool:
        """Return whether all files of a complete output with n images exist."""

    @abstractmethod
    def reopen(self, n: int) -> None:
        """Prepare the files of a complete output with n images, so that more images can be written."""

    @abstractmethod
    def close(self) -> list[Path]:
        """Give the files their final names after the last block, and return their paths."""


class ArrayWriter(Writer):
    """Writer of an array of images and, for a model with labels, another array of class indices."""

    def __init__(self, out: Path, model: Model, n: int, block_size: int) -> None:
        self.n = n
        self.arrays: list[tuple[Path, np.dtype, tuple[int, ...]]] = [(out, np.dtype(np.uint8), model.spec.image_shape)]
        if model.spec.classes is not None:
            self.arrays.append((out.with_name(f"{out.stem}-labels.npy"), np.dtype(np.int64), ()))

    @staticmethod
    def _temporary_path(path: Path) -> Path:
        return path.with_name(f".{path.name}.part")

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        for (path, dtype, shape), values in zip(self.arrays, (images, labels), strict=False):
            temporary_path = self._temporary_path(path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary_path.open("r+b" if start else "w+b") as file:
                    header = {"descr": dtype.str, "fortran_order": False, "shape": (self.n, *shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.seek(start * dtype.itemsize * int(np.prod(shape, dtype=int)), os.SEEK_CUR)
                    file.write(np.ascontiguousarray(values, dtype).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise CvaeError(f"can't write {str(temporary_path)!r}: {error.strerror}") from error

    def is_complete(self, n: int) -> bool:
        return all(
            self._has_shape(path, (n, *shape)) or self._has_shape(self._temporary_path(path), (n, *shape))
            for path, _, shape in self.arrays
        )

    @staticmethod
    def _has_shape(path: Path, shape: tuple[int, ...]) -> bool:
        try:
            return bool(np.load(path, mmap_mode="r").shape == shape)
        except (OSError, ValueError):
            return False

    def reopen(self, n: int) -> None:
        for path, _, shape in self.arrays:
            if self._has_shape(path, (n, *shape)):
                with atomic_write(self._temporary_path(path), sync=False) as copy:
                    shutil.copyfile(path, copy)

    def close(self) -> list[Path]:
        for path, _, _ in reversed(self.arrays):
            try:
                self._temporary_path(path).replace(path)
            except FileNotFoundError:  # an interrupted call has already renamed the file
                pass
            except OSError as error:
                raise CvaeError(f"can't write {str(path)!r}: {error.strerror}") from error
        return [path for path, _, _ in self.arrays]


class ShardWriter(Writer):
    """Writer of a shard for each block."""

    def __init__(self, out: Path, model: Model, n: int, block_size: int) -> None:
        self.out, self.classes, self.block_size = out, model.spec.classes, block_size
        self.files = self._list_files(n)

    def _list_files(self, n: int) -> list[Path]:
        num_shards = -(-n // self.block_size)
        if num_shards == 1:
            return [self.out]
        return [self.out.with_name(f"{self.out.stem}-{i:05}.npz") for i in range(num_shards)]

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        label_arrays = {} if labels is None else {"labels": labels, "classes": np.array(self.classes)}
        with (
            atomic_write(self.files[start // self.block_size]) as temporary_path,
            temporary_path.open("wb") as file,  # numpy would append .npz to the path
        ):
            np.savez(file, images=images, **label_arrays)  # type: ignore[arg-type]

    def find_other_images(self) -> Path | None:
        pattern = re.compile(re.escape(self.out.stem) + r"-\d{5,}\.npz", re.IGNORECASE)
        paths = [path for path in self.out.parent.iterdir() if pattern.fullmatch(path.name)]
        if self.files != [self.out] and self.out.exists():
            paths.append(self.out)
        return min(paths, default=None)

    def is_complete(self, n: int) -> bool:
        return all(path.exists() for path in self._list_files(n))

    def reopen(self, n: int) -> None:
        if self._list_files(n) == [self.out] != self.files:
            with atomic_write(self.files[0]) as copy:
                shutil.copyfile(self.out, copy)

    def close(self) -> list[Path]:
        if self.files != [self.out]:
            self.out.unlink(missing_ok=True)  # its images are in the first shard now
        return self.files


class FolderWriter(Writer):
    """Writer of a PNG file for each image."""

    def __init__(self, out: Path, model: Model, n: int, block_size: int) -> None:
        self.out = out
        classes = model.spec.classes
        if classes is not None and not all(re.fullmatch(r"-?\w([\w .+-]*[\w+-])?", name) for name in classes):
            classes = tuple(str(i) for i in range(len(classes)))  # an untrusted file may have a class named ".."
        self.folders = [out] if classes is None else [out / name for name in classes]

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        for i, image in enumerate(images):
            folder = self.folders[0 if labels is None else labels[i]]
            with atomic_write(folder / f"{start + i:0{FOLDER_DIGITS}}.png", sync=False) as temporary_path:
                imaging.to_pil(image).save(temporary_path, "PNG")

    def find_other_images(self) -> Path | None:
        return self.out if next(self.out.rglob("*.png"), None) else None

    def is_complete(self, n: int) -> bool:
        return sum(1 for _ in self.out.rglob("*.png")) == n

    def reopen(self, n: int) -> None:
        """Do nothing, because each image has its own file."""

    def close(self) -> list[Path]:
        return [self.out]


WRITERS: dict[str, Callable[[Path, Model, int, int], Writer]] = {
    ".npy": ArrayWriter,
    ".npz": ShardWriter,
    "": FolderWriter,
}
"""Writers of an array, of shards, and of a folder of images, keyed by the suffix of the path."""
