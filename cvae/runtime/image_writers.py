"""Writers that write many images, block by block, to an array, to shards, or to a folder of PNG files.

In the .npz format, each block is a shard.
"""

import csv
import io
import os
import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from cvae import imaging
from cvae.atomic import atomic_write, write_file
from cvae.errors import CvaeError
from cvae.runtime.conditions import to_arrays
from cvae.runtime.model import Model
from cvae.text import csv_cell

UNKNOWN_FOLDER = "unknown"
"""Folder of images whose class is unknown."""

METADATA = "metadata.csv"
"""Table with the conditions of the images in a folder."""

FOLDER_DIGITS = 8
"""Number of digits in the file names in a folder. It is fixed, because more images can be added later."""


class Writer(ABC):
    """Writer of blocks of images in one format.

    Args:
        out: path of the output.
        model: model that generates the images.
        n: number of images.
        block_size: number of images in each block except the last one.
        rows: rows of conditions through which the images cycle (see `cvae.condition_rows`); None for a model without
            conditions.
    """

    def __init__(self, out: Path, model: Model, n: int, block_size: int, rows: np.ndarray | None) -> None:
        self.out, self.spec, self.n, self.block_size, self.rows = out, model.spec, n, block_size, rows

    def block_rows(self, start: int, count: int) -> np.ndarray | None:
        """Return the rows of a block."""
        return None if self.rows is None else self.rows[np.arange(start, start + count) % len(self.rows)]

    @abstractmethod
    def write(self, start: int, images: np.ndarray) -> None:
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
    """Writer of an array of images, and further arrays of class indices or of the values of each condition."""

    def __init__(self, out: Path, model: Model, n: int, block_size: int, rows: np.ndarray | None) -> None:
        super().__init__(out, model, n, block_size, rows)
        self.arrays: list[tuple[Path, np.dtype, tuple[int, ...]]] = [(out, np.dtype(np.uint8), model.spec.image_shape)]
        for name, array in self._values(0, 1).items():
            self.arrays.append((out.with_name(f"{out.stem}-{name}.npy"), array.dtype, array.shape[1:]))

    def _values(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Return the class indices or the values of the conditions of a block by name."""
        rows = self.block_rows(start, count)
        if rows is None:
            return {}
        return {"labels": rows} if self.spec.classes is not None else to_arrays(self.spec.conditions, rows)

    @staticmethod
    def _temporary_path(path: Path) -> Path:
        return path.with_name(f".{path.name}.part")

    def write(self, start: int, images: np.ndarray) -> None:
        arrays = [images, *self._values(start, len(images)).values()]
        for (path, dtype, shape), values in zip(self.arrays, arrays, strict=True):
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

    def __init__(self, out: Path, model: Model, n: int, block_size: int, rows: np.ndarray | None) -> None:
        super().__init__(out, model, n, block_size, rows)
        self.files = self._list_files(n)

    def _list_files(self, n: int) -> list[Path]:
        num_shards = -(-n // self.block_size)
        if num_shards == 1:
            return [self.out]
        return [self.out.with_name(f"{self.out.stem}-{i:05}.npz") for i in range(num_shards)]

    def write(self, start: int, images: np.ndarray) -> None:
        arrays: dict[str, np.ndarray] = {}
        if (rows := self.block_rows(start, len(images))) is not None:
            classes = self.spec.classes
            arrays = (
                {"labels": rows, "classes": np.array(classes)} if classes else to_arrays(self.spec.conditions, rows)
            )
        with (
            atomic_write(self.files[start // self.block_size]) as temporary_path,
            temporary_path.open("wb") as file,  # numpy would append .npz to the path
        ):
            np.savez(file, images=images, **arrays)  # type: ignore[arg-type]

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
    """Writer of a PNG file for each image, in a folder for each class.

    For a model with other conditions, metadata.csv holds their values, in the form in which `--data folder:` reads
    them.
    """

    def __init__(self, out: Path, model: Model, n: int, block_size: int, rows: np.ndarray | None) -> None:
        super().__init__(out, model, n, block_size, rows)
        classes = model.spec.classes
        if classes is not None and not all(re.fullmatch(r"-?\w([\w .+-]*[\w+-])?", name) for name in classes):
            classes = tuple(str(i) for i in range(len(classes)))  # an untrusted file may have a class named ".."
        self.folders = [out] if classes is None else [out / name for name in (*classes, UNKNOWN_FOLDER)]

    def write(self, start: int, images: np.ndarray) -> None:
        rows = self.block_rows(start, len(images))
        for i, image in enumerate(images):
            folder = self.folders[0 if rows is None or self.spec.classes is None else rows[i]]
            with atomic_write(folder / self._file_name(start + i), sync=False) as temporary_path:
                imaging.to_pil(image).save(temporary_path, "PNG")

    @staticmethod
    def _file_name(index: int) -> str:
        return f"{index:0{FOLDER_DIGITS}}.png"

    def find_other_images(self) -> Path | None:
        return self.out if next(self.out.rglob("*.png"), None) else None

    def is_complete(self, n: int) -> bool:
        return sum(1 for _ in self.out.rglob("*.png")) == n

    def reopen(self, n: int) -> None:
        """Do nothing, because each image has its own file."""

    def close(self) -> list[Path]:
        if self.rows is not None and self.spec.classes is None:
            write_file(self.out / METADATA, self._format_metadata(self.rows))
        return [self.out]

    def _format_metadata(self, rows: np.ndarray) -> str:
        """Return a table with the values of each image; a condition with several attributes has several columns."""
        columns: dict[str, list[str]] = {}
        arrays = to_arrays(self.spec.conditions, rows)
        for condition in self.spec.conditions:
            array = arrays[condition.name]
            names = condition.values if array.ndim == 2 else (condition.name,)
            for name, values in zip(names, array.reshape(len(rows), -1).T, strict=True):
                columns[name] = [_format_cell(value) for value in values]
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["file_name", *map(csv_cell, columns)])
        cells = list(zip(*columns.values(), strict=True))
        table.writerows([self._file_name(i), *cells[i % len(cells)]] for i in range(self.n))
        return text.getvalue()


def _format_cell(value: Any) -> str:
    """Return a name or a number as the cell of a table; an unknown value is blank."""
    if isinstance(value, str):
        return str(csv_cell(value))
    return "" if np.isnan(value) else f"{value:.9g}"


WRITERS: dict[str, type[Writer]] = {
    ".npy": ArrayWriter,
    ".npz": ShardWriter,
    "": FolderWriter,
}
"""Writers of an array, of shards, and of a folder of images, keyed by the suffix of the path."""
