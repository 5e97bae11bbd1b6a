"""Data sets from a table of image files (CSV or TSV), whose other columns are conditions."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvae.atomic import expand_user
from cvae.data.dataset import Dataset, Split
from cvae.data.folder import DEFAULT_SIZE, decode_splits, show_path
from cvae.data.listing import join_names
from cvae.data.split_names import SPLITS, recognize_split
from cvae.errors import CvaeError, UsageError, count_of, suggest
from cvae.serialization import quote

PATH_COLUMNS = ("file_name", "file", "path", "image")
"""Names of the column of image paths. The first is that of Hugging Face image folders."""

SPLIT_COLUMN = "split"
"""Name of the column of splits."""

DELIMITERS = ",\t;"
"""Characters that may separate columns."""


class Table(NamedTuple):
    """Content of a table.

    Attributes:
        columns: values of each column, by name.
        lines: line number of each row, for error messages.
    """

    columns: dict[str, list[str]]
    lines: list[int]


def table(
    argument: str, data_dir: Path | None, size: tuple[int, int] | None, *, path_column: str | None = None
) -> Dataset:
    """Load the images that a table lists.

    The table is a CSV or TSV file in UTF-8, whose first row names the columns. The column `file_name` (or `file`,
    `path` or `image`) has the paths of the images, relative to the table. A column `split` has the split of each image:
    train, validation or test, or a word that names a split as a folder may. The other columns are conditions; blank
    cells are unknown values. Images are decoded and cached like those of a folder. Rows whose file is missing are
    skipped with a note.

    Args:
        argument: path of the table.
        data_dir: root of the cache; None for the default.
        size: height and width in pixels; None for 64x64.
        path_column: name of the column of paths; None for one of `PATH_COLUMNS`.

    Raises:
        UsageError: If there is no such table, it is not a table, or it has no column of paths.
        CvaeError: If the table or all images of a split can't be read, or the cache can't be written.
    """
    if not argument:
        raise UsageError("--data 'table' needs a file; use --data table:PATH")
    path = expand_user(argument)
    if not path.is_file():
        raise UsageError(f"--data 'table:{argument}': there is no such file")
    columns, lines = read_table(path)
    paths = [path.parent / name for name in columns.pop(_find_path_column(path, columns, path_column))]
    split_names = _read_splits(path, columns.pop(SPLIT_COLUMN, None), lines)
    exists = np.array([_is_file(image) for image in paths], bool)
    notes = []
    if not exists.all():
        missing = [show_path(paths[i], path.parent) for i in np.flatnonzero(~exists)]
        notes.append(
            f"skipped {len(missing):,} of {count_of(len(paths), 'row')} of {path.name!r}, whose file does not exist: "
            f"{join_names(missing)}"
        )
    rows = {split: np.flatnonzero(exists & (split_names == split)) for split in SPLITS if split in split_names}
    if "train" not in rows:
        raise UsageError(f"no row of {argument!r} has the split train; add one")
    for split, indices in rows.items():
        if not len(indices):
            raise CvaeError(f"none of the images of {split} in {argument!r} exist, such as {missing[0]!r}; fix them")
    decoded = decode_splits(
        path, {split: [paths[i] for i in indices] for split, indices in rows.items()}, size or DEFAULT_SIZE, data_dir
    )
    splits: dict[str, Any] = {}
    for split, (images, readable) in decoded.splits.items():
        indices = rows[split][readable]
        cells = {name: [values[i] for i in indices] for name, values in columns.items()}
        splits[split] = Split(images=images, columns=cells)
    return Dataset(
        name=path.stem,
        classes=None,
        data_license="images provided by the user",
        notes=notes + decoded.notes,
        **splits,
    )


def read_table(path: Path) -> Table:
    """Read a CSV or TSV file.

    Raises:
        UsageError: If it is not a table in UTF-8 with a header, or a row has another number of columns.
        CvaeError: If it can't be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not text in UTF-8; save it as CSV in UTF-8") from error
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
    first_line = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=lambda character: len(next(csv.reader([first_line], delimiter=character), [])))
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        rows, lines = [], []
        for row in reader:
            if not any(map(str.strip, row)):
                continue
            if len(row) != len(header):
                raise UsageError(
                    f"line {reader.line_num} of {str(path)!r} has {count_of(len(row), 'column')}, but the header has "
                    f"{len(header)}; quote values that contain {delimiter!r}"
                )
            rows.append([value.strip() for value in row])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {str(path)!r} is not valid CSV: {error}; fix it") from error
    if not rows:
        raise UsageError(f"{str(path)!r} has no rows below its header; list one image per row")
    if repeated := [name for name in header if name and header.count(name) > 1]:
        raise UsageError(f"{str(path)!r} has two columns named {repeated[0]!r}; rename one")
    values = {name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True) if name}
    return Table(values, lines)


def _find_path_column(path: Path, columns: dict[str, list[str]], name: str | None) -> str:
    if name is None:
        for candidate in PATH_COLUMNS:
            if candidate in columns:
                return candidate
        raise UsageError(
            f"{str(path)!r} has no column 'file_name' with the paths of the images; name it with --path-column "
            f"(the columns are {join_names([*columns])})"
        )
    if name not in columns:
        raise UsageError(f"--path-column {name!r}: {str(path)!r} has no such column; {suggest(name, columns)}")
    return name


def _read_splits(path: Path, values: Sequence[str] | None, lines: Sequence[int]) -> np.ndarray:
    """Return the name of the split of each row."""
    if values is None:
        return np.full(len(lines), "train", object)
    splits = {value: recognize_split(value) for value in set(values)}
    for value, line in zip(values, lines, strict=True):
        if not splits[value]:
            raise UsageError(
                f"line {line} of {str(path)!r} has the split {quote(value)}; use train, validation or test"
            )
    return np.array([splits[value] for value in values], object)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # for example, the path is too long or has a null byte
        return False
