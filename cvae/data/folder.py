"""Data sets from image folders, with images of any size and mode."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvae.atomic import expand_user
from cvae.data.cache import decode_folder
from cvae.data.dataset import Dataset, Split
from cvae.data.disk_images import DiskImages
from cvae.data.listing import group_by_reason, join_names
from cvae.data.metadata import read_metadata
from cvae.data.splits import list_folder
from cvae.errors import CvaeError, UsageError
from cvae.text import describe_character, find_unsafe

DEFAULT_SIZE = (64, 64)
"""Height and width of the images in pixels, unless --size sets them."""


def folder(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load the images of a folder.

    - Each class has a subfolder named after it, with images at any depth; or all images are directly in the folder,
      without labels. A mixture of both is an error, because it is unclear whether the loose images form a class.
    - Subfolders named after splits (`train`, `Testing`, `my_val`; see `cvae.data.splits`) are splits, each with or
      without a subfolder per class. They may be one level deeper, or below each class. The classes of `train` are the
      classes of the data set. If the only folder of another split is not one of
      several classes, the split has no labels. If it is unclear whether subfolders are splits or classes, an error
      shows the tree.
    - A `metadata.csv` in the folder, or in a folder below it, lists conditions of images: `file_name` is the path
      relative to the table, and the other columns are as in `cvae.data.table`. The classes are the category `label`.
    - Files and folders whose names begin with a dot are ignored, and so are subfolders without images. Symbolic links
      are followed. A file without an image extension counts as an image if its content has the signature of one.

    Images are rotated according to their EXIF data, composited on white where they are transparent, and scaled and
    cropped to `size`. The data set has 1 channel if every image is grey (even if saved in colour), else 3. Grey values
    with more than 8 bits are read with the smallest even bit depth (8 to 16) that holds the largest value in all
    images. An image that can't be read is skipped with a warning. Decoded images are cached in a file under `data_dir`
    (`cvae.data.cache`), and decoded again when a file has changed.

    Args:
        argument: path of the folder.
        data_dir: root of the cache; None for the default.
        size: height and width in pixels; None for 64x64.

    Raises:
        UsageError: If the argument is empty, there is no such folder, it has no images, or it is unclear what its
            subfolders are.
        CvaeError: If no image of a split can be read, or the cache can't be written.
    """
    return _load(argument, data_dir, size, classes_only=False)


def folder_classes(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load the images of a folder as `folder` does, but treat each subfolder as a class, whatever its name."""
    return _load(argument, data_dir, size, classes_only=True)


def _load(argument: str, data_dir: Path | None, size: tuple[int, int] | None, *, classes_only: bool) -> Dataset:
    name = "folder-classes" if classes_only else "folder"
    if not argument:
        raise UsageError(f"--data {name!r} needs a path; use --data {name}:PATH")
    root = expand_user(argument)
    if not root.is_dir():
        raise UsageError(
            f"--data '{name}:{argument}': there is no such folder; choose yours with --data {name}:PATH "
            "(cvae zoo show RECIPE says which images a recipe needs)"
        )
    try:
        contents = list_folder(root, argument, classes_only=classes_only)
    except OSError as error:
        raise CvaeError(f"can't read {str(error.filename or root)!r}: {error.strerror}") from error
    listings = contents.splits
    classes = tuple(dict.fromkeys(listings["train"].labels or ()))
    for name in classes:
        _check_class_name(name, root)
    index = {name: i for i, name in enumerate(classes)}
    notes = [*contents.notes]
    for split, listing in list(listings.items()):
        names = dict.fromkeys(listing.labels or ())
        unknown = [label for label in names if label not in index]
        if len(unknown) == len(names) == 1 < len(classes):  # one folder for all images, as in test/unknown
            notes.append(f"{split} is used without labels, because {join_names(unknown)} is not a class of train")
            listings[split] = replace(listing, labels=None)
        elif unknown:
            raise UsageError(
                f"{split} of {str(root)!r} has the class {unknown[0]!r}, which train does not have; "
                f"add it to train, or remove it from {split}"
            )
    decoded = decode_splits(
        root, {split: listing.paths for split, listing in listings.items()}, size or DEFAULT_SIZE, data_dir
    )
    metadata, metadata_notes = read_metadata(root, {split: listing.paths for split, listing in listings.items()})
    notes += metadata_notes
    splits: dict[str, Any] = {}
    for split, (images, readable) in decoded.splits.items():
        class_names = listings[split].labels
        labels = None if class_names is None else np.array([index[name] for name in class_names], np.int64)[readable]
        columns = None
        if metadata is not None:
            columns = {name: list(compress(cells, readable)) for name, cells in metadata[split].items()}
        splits[split] = Split(images=images, labels=labels, columns=columns)
    return Dataset(
        name=root.resolve().name,
        classes=classes or None,
        data_license="images provided by the user",
        notes=notes + decoded.notes,
        **splits,
    )


class DecodedSplits(NamedTuple):
    """Decoded images of several splits.

    Attributes:
        splits: the images of each split that can be read, and a mask (N,) of these among its paths.
        notes: messages for the user.
    """

    splits: dict[str, tuple[DiskImages, np.ndarray]]
    notes: list[str]


def decode_splits(
    source: Path, paths_by_split: Mapping[str, Sequence[Path]], size: tuple[int, int], data_dir: Path | None
) -> DecodedSplits:
    """Decode the images of several splits, or read them from the cache. Those that can't be read are skipped.

    Args:
        source: folder or table of the images, whose path is the key of the cache.
        paths_by_split: image files of each split.
        size: height and width in pixels.
        data_dir: root of the cache; None for the default.

    Raises:
        CvaeError: If no image of a split can be read, or the cache can't be written.
    """
    paths = [path for split_paths in paths_by_split.values() for path in split_paths]
    decoded = decode_folder(source, paths, size, data_dir)
    readable = np.ones(len(paths), bool)
    readable[list(decoded.unreadable)] = False
    root = source if source.is_dir() else source.parent
    splits = {}
    first = 0
    for split, split_paths in paths_by_split.items():
        mask = readable[first : first + len(split_paths)]
        if not mask.any():
            failures = {i: decoded.unreadable[i] for i in range(first, first + len(mask))}
            raise CvaeError(
                f"none of the {len(mask)} images of {split} in {str(source)!r} can be read: "
                f"{_describe_unreadable(failures, paths, root)}"
            )
        splits[split] = decoded.images.select(first + np.flatnonzero(mask)), mask
        first += len(mask)
    if decoded.unreadable:
        warnings.warn(
            f"{len(decoded.unreadable)} of {len(paths)} images in {str(source)!r} are skipped: "
            f"{_describe_unreadable(decoded.unreadable, paths, root)}",
            stacklevel=4,
        )
    return DecodedSplits(splits, [decoded.note] if decoded.note else [])


def _check_class_name(name: str, root: Path) -> None:
    """Check that the name of a class can be shown.

    Raises:
        UsageError: If it can't.
    """
    if (character := find_unsafe(name)) is not None:
        raise UsageError(
            f"the name of the folder {name!r} in {str(root)!r} has the character {describe_character(character)}, "
            "which controls, reorders or hides text; rename the folder"
        )


def _describe_unreadable(unreadable: dict[int, str], paths: Sequence[Path], root: Path) -> str:
    return group_by_reason((show_path(paths[i], root), reason) for i, reason in unreadable.items())


def show_path(path: Path, root: Path) -> str:
    """Return a path relative to a folder, or as it is if it is not below the folder."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
