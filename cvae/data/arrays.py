"""Data sets from array files: an .npz file written by `numpy.savez`, or an .npy file that contains only images."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cvae.atomic import expand_user
from cvae.data.conversion import convert_images, number_labels
from cvae.data.dataset import Dataset, Split
from cvae.data.disk_images import DiskImages
from cvae.data.images import resize
from cvae.data.listing import join_names
from cvae.errors import CvaeError, UsageError

KEYS = {"train": ("train", "images"), "validation": ("validation", "valid"), "test": ("test",)}
"""Keys under which an .npz file may store the images of each split."""


MAIN_KEYS = {key for synonyms in KEYS.values() for key in synonyms}
MAIN_KEYS |= {f"{key}_labels" for key in MAIN_KEYS} | {"labels", "classes"}
"""Keys of images, labels and class names."""


def npz(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load a data set from an .npz or .npy file.

    An .npz file contains the array `train` or `images`, and optionally `validation` or `valid`, and `test`. Images are
    uint8 in 0..255, bool, or float in 0..1, in one of the shapes in `cvae.data.conversion.SHAPES`. If the last of four
    dimensions has the size 1 or 3, it is C. (Only images less than 4 pixels wide would be ambiguous, and no model
    accepts those.) Packed images are uint8, with one bit per pixel.

    The labels of an array are in `<key>_labels`; the labels of `images` may also be in `labels`. Labels are integers or
    class names, (N,) or (N, 1), or one-hot vectors (N, K). The optional `classes` holds the class names in the order of
    the labels; by default, these are the names in the training labels, sorted. Further arrays are conditions: those of
    an array are in `<key>_NAME`; those of `images` may also be in `NAME`. They are numbers, strings or bools (N,), or
    bools (N, K); NaN and "" are unknown values. Other arrays are ignored.

    An .npy file contains training images of the same types and shapes, but no labels. If they are uint8 (N, H, W) or
    (N, C, H, W), the file may be larger than memory: its images are read on demand and can't be resized. Other images
    are converted in memory.

    Args:
        argument: path of the file.
        data_dir: not used.
        size: height and width in pixels to resize images to; None keeps the original size.

    Raises:
        UsageError: If the argument is empty, the file does not exist, or an array has an unsupported shape or type.
        CvaeError: If the file is damaged, or an array holds Python objects, which would need pickle.
    """
    if not argument:
        raise UsageError("--data 'npz' needs a file; use --data npz:PATH")
    path = expand_user(argument)
    if not path.is_file():
        raise UsageError(f"--data 'npz:{argument}': there is no such file")
    data_license = "images provided by the user"
    if path.suffix == ".npy":
        train = Split(images=_read_npy(path, argument, size))
        return Dataset(name=path.stem, train=train, classes=None, data_license=data_license)
    if not zipfile.is_zipfile(path):
        raise CvaeError(f"{argument!r} is damaged or not an .npz file; write one with numpy.savez(path, train=images)")
    arrays = _read(path)
    keys = {}
    for name, synonyms in KEYS.items():
        present = [key for key in synonyms if key in arrays]
        if len(present) > 1:
            raise UsageError(f"{argument!r} has both {present[0]!r} and {present[1]!r}; keep one")
        if present:
            keys[name] = present[0]
    if "train" not in keys:
        raise UsageError(
            f"{argument!r} has no array 'train' or 'images'; save one with numpy.savez(path, train=images)"
        )

    if "labels" in arrays and keys["train"] == "images":
        arrays.setdefault("images_labels", arrays["labels"])
    labels = {name: arrays[f"{key}_labels"] for name, key in keys.items() if f"{key}_labels" in arrays}
    classes, labels = _number_labels(labels, arrays.get("classes"), argument)
    images = {name: resize(convert_images(arrays[key], f"{key!r} of {argument!r}"), size) for name, key in keys.items()}
    try:
        columns, ignored = _read_columns(path, keys, {name: len(array) for name, array in images.items()})
    except OSError as error:
        raise _reading_error(path, error) from error
    splits: dict[str, Any] = {
        name: Split(images=images[name], labels=labels.get(name), columns=columns.get(name)) for name in keys
    }
    notes = [f"ignored arrays that don't fit the images: {join_names(ignored)}"] if ignored else []
    return Dataset(name=path.stem, classes=classes, data_license=data_license, notes=notes, **splits)


def _read_npy(path: Path, argument: str, size: tuple[int, int] | None) -> np.ndarray | DiskImages:
    try:
        images = DiskImages.open(path)
    except UsageError:  # the file is intact, but its array is not uint8 or not in C order
        images = None
    if images is None or images.shape[1] not in (1, 3):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: floats may be larger than memory
        except Exception as error:
            raise _reading_error(path, error) from error
        return resize(convert_images(array, repr(argument)), size)
    if size is not None and images.shape[2:] != size:
        raise UsageError(
            f"the images of {argument!r} are {images.shape[2]}x{images.shape[3]}, and uint8 images in an .npy file "
            f"can't be resized to {size[0]}x{size[1]}, which --size or the model of --init needs; remove the flag, or "
            "save the images with numpy.savez(path, train=images)"
        )
    return images


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files if key in MAIN_KEYS}
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray):  # numpy returns the bytes of a file without the ending .npy
                raise ValueError(f"{key!r} is a file but not an array")
        return arrays
    except Exception as error:  # a damaged file raises anything from BadZipFile to MemoryError
        raise _reading_error(path, error) from error


def _read_columns(
    path: Path, keys: Mapping[str, str], counts: Mapping[str, int]
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Read the arrays of conditions.

    Args:
        path: path of the file.
        keys: key of the images of each split.
        counts: number of images of each split.

    Returns:
        The arrays by split and name, and the keys of arrays that are ignored.

    Raises:
        OSError: If the file can't be read.
    """
    columns: dict[str, dict[str, np.ndarray]] = {}
    ignored = []
    with np.load(path, allow_pickle=False) as archive:
        for key in sorted(set(archive.files) - MAIN_KEYS):
            split = next((split for split, images in keys.items() if key.startswith(f"{images}_")), None)
            name = key.removeprefix(f"{keys[split]}_") if split else key
            if split is None and keys["train"] == "images":
                split = "train"
            try:
                array = archive[key] if split else None
            except OSError:
                raise
            except Exception:  # for example, it holds Python objects
                array = None
            if split is None or not isinstance(array, np.ndarray) or not _fits(array, counts[split]):
                ignored.append(key)
            else:
                columns.setdefault(split, {})[name] = array
    return columns, ignored


def _fits(array: np.ndarray, count: int) -> bool:
    """Return whether an array has a number, string or bool per image, or several bools."""
    is_list = array.ndim == 1 or (array.ndim == 2 and (array.shape[1] == 1 or array.dtype == bool))
    return is_list and array.dtype.kind in "buifU" and len(array) == count and array.size > 0


def _reading_error(path: Path, error: Exception) -> CvaeError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CvaeError(f"can't read {str(path)!r}: {reason}; save plain arrays of numbers or strings with numpy.savez")


def _number_labels(
    labels: dict[str, np.ndarray], names: np.ndarray | None, argument: str
) -> tuple[tuple[str, ...] | None, dict[str, np.ndarray]]:
    if labels and names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise UsageError(f"'classes' of {argument!r} is {names.dtype} {names.shape}, not a list of strings")
    return number_labels(labels, names, lambda split: f"the {split} labels of {argument!r}")
