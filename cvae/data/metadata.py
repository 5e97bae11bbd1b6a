"""Conditions of the images in a folder, from the files metadata.csv in it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cvae.data.csv_files import find_path_column, read_csv
from cvae.data.listing import METADATA, join_names
from cvae.data.split_names import SPLIT_COLUMN
from cvae.errors import UsageError, count_of

Columns = dict[str, list[str]]
"""Cells of each column by name."""


def read_metadata(root: Path, paths: Mapping[str, Sequence[Path]]) -> tuple[dict[str, Columns] | None, list[str]]:
    """Read the values that files metadata.csv have for the images of a folder.

    Args:
        root: the folder.
        paths: image files of each split.

    Returns:
        The columns of each split, with blank cells for images that no file lists, or None without such files; and
        messages for the user.

    Raises:
        UsageError: If a file is not a table of images, or an image is listed twice.
        CvaeError: If a file can't be read.
    """
    folders = {folder for split in paths.values() for path in split for folder in _parents(path, root)}
    tables = [folder / METADATA for folder in sorted(folders) if (folder / METADATA).is_file()]
    if not tables:
        return None, []
    rows: dict[str, dict[str, str]] = {}  # values of each image
    names: dict[str, None] = {}
    notes = []
    for table in tables:
        columns, _ = read_csv(table)
        files = columns.pop(find_path_column(table, columns, None))
        if columns.pop(SPLIT_COLUMN, None):
            notes.append(
                f"ignored the column {SPLIT_COLUMN!r} of {METADATA}: the splits of a folder are its subfolders"
            )
        names |= dict.fromkeys(columns)
        for i, file in enumerate(files):
            image = os.path.normpath(table.parent / file)
            if image in rows:
                raise UsageError(f"{str(table)!r} lists {file!r}, which is listed before; keep one row for each image")
            rows[image] = {name: values[i] for name, values in columns.items()}
    images = {split: [os.path.normpath(path) for path in split_paths] for split, split_paths in paths.items()}
    listed = {image for split_images in images.values() for image in split_images}
    if missing := [os.path.relpath(image, root) for image in rows if image not in listed]:
        notes.append(f"ignored {count_of(len(missing), 'row')} of {METADATA} without an image: {join_names(missing)}")
    if blank := [os.path.relpath(image, root) for image in sorted(listed - rows.keys())]:
        notes.append(f"{count_of(len(blank), 'image')} without a row in {METADATA}, so unknown: {join_names(blank)}")
    return {
        split: {name: [rows.get(image, {}).get(name, "") for image in split_images] for name in names}
        for split, split_images in images.items()
    }, notes


def _parents(path: Path, root: Path) -> list[Path]:
    """Return the folders from that of a file up to the root."""
    parents = [*path.parents]
    return parents[: parents.index(root) + 1] if root in parents else parents[:1]
