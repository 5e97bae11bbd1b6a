"""Data sets from array files: an .npz file written by `numpy.savez`, or an .npy file of images alone."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cvae.data.dataset import Dataset, Split
from cvae.data.disk_images import DiskImages
from cvae.data.images import resize
from cvae.errors import CvaeError, UsageError

SHAPES = (
    "(N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, or flat (N, H*H) or, packed by numpy.packbits, (N, H*H/8)"
)
"""Supported shapes of image arrays, for error messages."""

KEYS = {"train": ("train", "images"), "validation": ("validation", "valid"), "test": ("test",)}
"""Allowed keys of the images of each split."""

MAX_CLASSES = 65536
"""Maximum number of classes."""


def npz(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load a data set from an .npz or .npy file.

    An .npz file contains the array `train` or `images`, and optionally `validation` or `valid`, and `test`. Images are
    uint8 in 0..255, bool, or float in 0..1, in one of the `SHAPES`. If the last of four dimensions is 1 or 3, it is C
    (only images less than 4 pixels wide would be ambiguous, and no model accepts them). Packed images are uint8, one
    bit per pixel.

    The labels of an array are in `<key>_labels` (N,); the labels of `images` may also be in `labels`. Labels are
    integers or class names. The optional `classes` holds the class names in the order of the labels; by default they
    are the sorted names in train. Other keys are ignored.

    An .npy file contains training images without labels, uint8 (N, H, W) or (N, C, H, W). It may be larger than memory:
    its images are read on demand and can't be resized.

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
    path = Path(argument).expanduser()
    if not path.is_file():
        raise UsageError(f"--data 'npz:{argument}': there is no such file")
    data_license = "the owner's own images"
    if path.suffix == ".npy":
        train = Split(images=_open_npy(path, argument, size))
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
    splits: dict[str, Any] = {
        name: Split(images=resize(_convert_images(arrays[key], key, argument), size), labels=labels.get(name))
        for name, key in keys.items()
    }
    return Dataset(name=path.stem, classes=classes, data_license=data_license, **splits)


def _open_npy(path: Path, argument: str, size: tuple[int, int] | None) -> DiskImages:
    images = DiskImages.open(path)
    if images.shape[1] not in (1, 3):
        raise UsageError(f"{argument!r} has shape {images.shape}, not (N, H, W) or (N, C, H, W) with C 1 or 3")
    if size is not None and images.shape[2:] != size:
        raise UsageError(
            f"--size {size[0]}x{size[1]}: the images of {argument!r} are {images.shape[2]}x{images.shape[3]}, and an "
            ".npy file is not resized; remove --size, or save the images with numpy.savez(path, train=images)"
        )
    return images


def _read(path: Path) -> dict[str, np.ndarray]:
    image_keys = {key for synonyms in KEYS.values() for key in synonyms}
    keys = image_keys | {f"{key}_labels" for key in image_keys} | {"labels", "classes"}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key in keys}
    except Exception as error:  # a damaged file raises anything from BadZipFile to MemoryError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CvaeError(
            f"can't read {str(path)!r}: {reason}; save plain arrays of numbers or strings with numpy.savez"
        ) from error


def _convert_images(array: np.ndarray, key: str, argument: str) -> np.ndarray:
    """Convert an array of images of any supported shape and type to (N, C, H, W) uint8."""
    shape = array.shape
    if array.ndim == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
        array = array.reshape(shape[0], 1, math.isqrt(shape[1]), math.isqrt(shape[1]))  # (N, H*H) -> (N, 1, H, H)
    elif array.ndim == 2 and array.dtype == np.uint8 and math.isqrt(8 * shape[1]) ** 2 == 8 * shape[1]:
        side = math.isqrt(8 * shape[1])
        array = np.unpackbits(array, axis=1).reshape(shape[0], 1, side, side).view(bool)  # (N, H*H/8) -> (N, 1, H, H)
    elif array.ndim == 3:
        array = array[:, None]  # (N, H, W) -> (N, 1, H, W)
    elif array.ndim == 4 and shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    elif array.ndim != 4 or shape[1] not in (1, 3):
        raise UsageError(f"{key!r} of {argument!r} has shape {shape}, not {SHAPES}")

    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype.kind == "f":
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        if not (low >= 0 and high <= 1):  # this also rejects NaN
            raise UsageError(f"{key!r} of {argument!r} has float values in {low:g}..{high:g}; scale them to 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UsageError(
            f"{key!r} of {argument!r} is of type {array.dtype}; convert it to uint8 in 0..255, bool, or float in 0..1"
        )
    return np.ascontiguousarray(array)


def _number_labels(
    labels: dict[str, np.ndarray], names: np.ndarray | None, argument: str
) -> tuple[tuple[str, ...] | None, dict[str, np.ndarray]]:
    """Return the class names, and the labels of each split (integers or strings) as int64."""
    if not labels:
        return None, {}
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise UsageError(f"'classes' of {argument!r} is {names.dtype} {names.shape}, not a list of strings")
    kinds = {array.dtype.kind for array in labels.values()}
    if kinds == {"U"}:
        if names is None:
            names = np.unique(labels["train"] if "train" in labels else np.concatenate(list(labels.values())))
        index = {str(name): i for i, name in enumerate(names)}
        for name, array in labels.items():
            if unknown := sorted(set(array.ravel().tolist()) - set(index)):
                raise UsageError(f"the {name} labels of {argument!r} have {unknown[0]!r}, which is not a class")
            labels[name] = np.array([index[label] for label in array.ravel().tolist()], np.int64).reshape(array.shape)
    elif kinds <= {"i", "u"}:
        highest = max(int(array.max(initial=0)) for array in labels.values())
        if highest >= MAX_CLASSES:
            raise UsageError(f"{argument!r} has the label {highest}; labels are 0 ... K-1, K at most {MAX_CLASSES}")
        if names is None:
            names = np.arange(highest + 1).astype(str)
        labels = {name: array.astype(np.int64) for name, array in labels.items()}
    else:
        types = ", ".join(str(array.dtype) for array in labels.values())
        raise UsageError(f"the labels of {argument!r} are of type {types}; make them all integers or all strings")
    return tuple(names.tolist()), labels
