"""Data sets from a table of image files (CSV or TSV), whose other columns are conditions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvae.atomic import expand_user
from cvae.data.csv_files import find_path_column, read_csv
from cvae.data.dataset import Dataset, Split
from cvae.data.folder import DEFAULT_SIZE, decode_splits, show_path
from cvae.data.listing import join_names
from cvae.data.split_names import SPLIT_COLUMN, SPLITS, recognize_split
from cvae.errors import CvaeError, UsageError, count_of
from cvae.serialization import quote


def table(
    argument: str,
    data_dir: Path | None,
    size: tuple[int, int] | None,
    *,
    path_column: str | None = None,
    ignore: Sequence[str] = (),
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
        ignore: names of columns that are left out later. If `split` is one of them, all images are training images.

    Raises:
        UsageError: If there is no such table, it is not a table, or it has no column of paths.
        CvaeError: If the table or all images of a split can't be read, or the cache can't be written.
    """
    if not argument:
        raise UsageError("--data 'table' needs a file; use --data table:PATH")
    path = expand_user(argument)
    if not path.is_file():
        raise UsageError(f"--data 'table:{argument}': there is no such file")
    columns, lines = read_csv(path)
    paths = [path.parent / name for name in columns.pop(find_path_column(path, columns, path_column))]
    words = None if SPLIT_COLUMN in ignore else columns.pop(SPLIT_COLUMN, None)
    split_names = _read_splits(path, words, lines)
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
