"""Storage of the images that a program passes to `cvae.train`, so that the run can be resumed and evaluated later.

    <root>/arrays/<hash of the content>/images.npy
                                        labels.npy      only if there are labels
                                        classes.json    names of the classes, or null
                                        columns.json    values of conditions, only if there are any

The hash is the argument of the data set: `--data arrays:HASH`. Images that are already stored are not written again.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cvae.atomic import atomic_folder, cache_root, lock_folder, save_array
from cvae.data.dataset import Dataset, Split
from cvae.data.disk_images import DiskImages
from cvae.errors import CvaeError, UsageError, count_of, one_line

NAME = "arrays"
"""Name of the data set and of the folder."""

HASH = "[0-9a-f]{16}"
"""Pattern of the argument of the data set."""


def store(dataset: Dataset, data_dir: Path | None) -> str:
    """Store the training images of an in-memory data set, and return the value of `--data` that loads them.

    Args:
        dataset: images, labels, class names and cells of conditions, as `cvae.data.collect` returns them.
        data_dir: root of the cache; None for the default.

    Raises:
        CvaeError: If the folder can't be written.
    """
    data = identify(dataset)
    folder = _folder(data.partition(":")[2], data_dir)
    with lock_folder(folder.parent, wait=True):
        if _read(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)  # the folder may be damaged
            with atomic_folder(folder) as temporary_path:
                save_array(temporary_path / "images.npy", dataset.train.images[:])
                if dataset.train.labels is not None:
                    save_array(temporary_path / "labels.npy", dataset.train.labels)
                if dataset.train.columns:
                    (temporary_path / "columns.json").write_text(_dump_columns(dataset.train.columns))
                (temporary_path / "classes.json").write_text(json.dumps(dataset.classes))
    return data


def identify(dataset: Dataset) -> str:
    """Return the value of `--data` for the training images of an in-memory data set, without storing them."""
    images, labels = dataset.train.images[:], dataset.train.labels
    digest = hashlib.sha256(json.dumps([images.shape, labels is not None, dataset.classes]).encode())
    digest.update(np.ascontiguousarray(images).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels).data)
    if dataset.train.columns:
        digest.update(_dump_columns(dataset.train.columns).encode())
    return f"{NAME}:{digest.hexdigest()[:16]}"


def describe(data: str, data_dir: Path | None) -> str | None:
    """Describe the images that a value of `--data` stands for, or return None if they are missing or damaged."""
    argument = data.partition(":")[2]
    dataset = _read(_folder(argument, data_dir)) if re.fullmatch(HASH, argument) else None
    if dataset is None:
        return None
    count, _, height, width = dataset.train.images.shape
    text = f"{count_of(count, 'image')} of {height}x{width}"
    return text if dataset.classes is None else f"{text}: {one_line(', '.join(dataset.classes), 60)}"


def arrays(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load images that a program has passed to `cvae.train`.

    Args:
        argument: hash of the images, labels, class names and conditions.
        data_dir: root of the cache; None for the default.
        size: height and width in pixels; None or the size of the stored images.

    Raises:
        UsageError: If the argument is not a hash, or the images have another size.
        CvaeError: If the images are missing or damaged.
    """
    if not re.fullmatch(HASH, argument):
        raise UsageError(
            f"--data '{NAME}:{argument}' is not the name of stored images; pass images to cvae.train in Python, or use "
            "--data npz:PATH"
        )
    folder = _folder(argument, data_dir)
    dataset = _read(folder)
    if dataset is None:
        raise CvaeError(
            f"the images of --data '{NAME}:{argument}' are missing from {str(folder.parent)!r} or are damaged; "
            "pass them again with cvae.resume(run, images=..., labels=..., conditions=...)"
        )
    shape = dataset.train.images.shape
    if size is not None and size != shape[2:]:
        raise UsageError(
            f"--size {size[0]}x{size[1]}: the images of '{NAME}:{argument}' are stored with {shape[2]}x{shape[3]} "
            "pixels; remove --size"
        )
    return dataset


def _folder(name: str, data_dir: Path | None) -> Path:
    return cache_root(data_dir) / NAME / name


def _dump_columns(columns: Mapping[str, np.ndarray]) -> str:
    return json.dumps({name: cells.tolist() for name, cells in columns.items()})


def _read(folder: Path) -> Dataset | None:
    """Return stored images, or None if they are missing or damaged."""
    try:
        images = DiskImages.open(folder / "images.npy")
        classes = json.loads((folder / "classes.json").read_bytes())
        labels = None if classes is None else np.load(folder / "labels.npy", allow_pickle=False)
        if labels is not None and labels.shape != (len(images),):
            return None
        path, columns = folder / "columns.json", None
        if path.exists():
            columns = {name: np.array(cells, object) for name, cells in json.loads(path.read_bytes()).items()}
        if any(len(cells) != len(images) for cells in (columns or {}).values()):
            return None
    except (CvaeError, OSError, ValueError, EOFError):
        return None
    return Dataset(
        name=NAME,
        train=Split(images=images, labels=labels, columns=columns),
        classes=None if classes is None else tuple(classes),
        data_license="images provided by the user",
    )
