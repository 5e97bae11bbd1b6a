"""Conversion of image and label arrays of every supported shape and type to the arrays of a data set."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cvae.errors import UsageError, one_line
from cvae.serialization import quote

SHAPES = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, or flat (N, H*H)"
"""Supported shapes of image arrays, for error messages. Packed bits, uint8 (N, H*H/8), are supported too."""

LABELS = "integers from 0, strings, or one-hot rows (N, K)"
"""Supported labels, for error messages."""

MAX_CLASSES = 65536
"""Maximum number of classes."""

CHUNK_BYTES = 2**26
"""Number of bytes of images that are converted at a time. It limits the memory for intermediate results."""


def to_numpy(values: Any) -> np.ndarray:
    """Convert an array of numpy, torch, pandas or another package, or a list, to a numpy array."""
    if hasattr(values, "detach"):  # a torch tensor, which may be on a GPU or require a gradient
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):  # numpy has no such type
            values = values.float()
    if isinstance(values, list | tuple) and any(isinstance(value, str) for value in values):
        return np.array(values, object)  # otherwise numpy would convert numbers among the strings to strings
    return np.asarray(values)


def convert_images(array: np.ndarray, name: str, first_index: int = 0) -> np.ndarray:
    """Convert images to (N, C, H, W) uint8.

    Args:
        array: images in any of the `SHAPES`, as uint8, bool, or float in 0..1.
        name: name of the array, for error messages.
        first_index: index of the first image, if the array is a part of a larger one.

    Raises:
        UsageError: If the array has an unsupported shape or type, or floats that are not in 0..1.
    """
    shape = array.shape
    if 0 in shape[1:]:
        raise UsageError(f"{name} has shape {shape}, so its images have no pixels; save images with pixels")
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
        raise UsageError(f"{name} has shape {shape}, not {SHAPES}{_suggest_shape(shape)}")

    if array.dtype == bool:
        return np.ascontiguousarray(array).view(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f":
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        if not np.isfinite([low, high]).all():
            index = next(i for i, image in enumerate(array) if not np.isfinite(image).all())
            raise UsageError(
                f"{name} has values that are not finite (nan or inf), first at index {first_index + index}; replace "
                "them, or leave out these images"
            )
        if not (low >= 0 and high <= 1):
            fix = "divide them by 255" if low >= 0 and 1 < high <= 255 else "scale them to 0..1"
            raise UsageError(f"{name} has float values in {low:g}..{high:g}, not in 0..1; {fix}")
        return _convert_floats(array)
    if array.dtype != np.uint8:
        raise UsageError(f"{name} is of type {array.dtype}; convert it to uint8 in 0..255, bool, or float in 0..1")
    return np.ascontiguousarray(array)


def _suggest_shape(shape: tuple[int, ...]) -> str:
    """Return a hint on how to change images of an unsupported shape, or "" if there is none."""
    if len(shape) == 4 and 4 in (shape[1], shape[3]):
        slices = "[..., :3]" if shape[3] == 4 else "[:, :3]"
        return f"; if the fourth channel is alpha, remove it with {slices}"
    if len(shape) == 2 and shape[1] % 3 == 0 and (side := math.isqrt(shape[1] // 3)) ** 2 * 3 == shape[1]:
        return (
            f"; colour images must not be flat: reshape them to ({shape[0]}, {side}, {side}, 3), or to "
            f"({shape[0]}, 3, {side}, {side}) if each channel is stored as a block"
        )
    return ""


def _convert_floats(array: np.ndarray) -> np.ndarray:
    images = np.empty(array.shape, np.uint8)
    step = max(1, CHUNK_BYTES * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), step):
        images[first : first + step] = np.rint(array[first : first + step] * 255)
    return images


def number_labels(
    labels: Mapping[str, Any], names: np.ndarray | None, describe: Callable[[str], str]
) -> tuple[tuple[str, ...] | None, dict[str, np.ndarray]]:
    """Return the class names, and the labels of each split as int64.

    Args:
        labels: labels by split: arrays (N,) or (N, 1) of integers, strings, or floats with integer values, or one-hot
            rows (N, K).
        names: class names (K,), in the order of the class indices. By default, they are the sorted strings in train,
            or the numbers from 0 to the largest label. If no label is 0, only numbers that occur are classes.
        describe: function that returns a description of the labels of a split, for error messages.

    Raises:
        UsageError: If the labels are not classes, are of several types, or are not among the names.
    """
    if not labels:
        return None, {}
    converted, num_classes, is_one_hot = {}, 0, False
    for split, values in labels.items():
        try:
            array = to_numpy(values)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{describe(split)} are not an array: {one_line(error)}; labels are {LABELS}") from error
        converted[split], count = _convert_labels(array, describe(split))
        is_one_hot = is_one_hot or (array.ndim == 2 and array.shape[1] > 1)
        num_classes = max(num_classes, count)
    kinds = {array.dtype.kind for array in converted.values()}
    if len(kinds) > 1:
        types = " and ".join(f"{describe(split)} of type {array.dtype}" for split, array in converted.items())
        raise UsageError(f"{types} do not fit together; make them all integers or all strings")
    if kinds == {"i"}:
        if names is None:
            values = np.arange(num_classes)
            if not is_one_hot and min(array.min(initial=MAX_CLASSES) for array in converted.values()) > 0:
                values = np.unique(np.concatenate(list(converted.values())))
                converted = {split: np.searchsorted(values, array) for split, array in converted.items()}
            names = values.astype(str)
        return tuple(names.tolist()), converted
    if names is None:
        names = np.unique(converted["train"] if "train" in converted else np.concatenate(list(converted.values())))
    index = {str(name): i for i, name in enumerate(names)}
    for split, array in converted.items():
        if unknown := sorted(set(array.tolist()) - set(index)):
            raise UsageError(f"{describe(split)} have {quote(unknown[0])}, which is not a class")
        converted[split] = np.array([index[label] for label in array.tolist()], np.int64)
    return tuple(map(str, names.tolist())), converted


def _convert_labels(array: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    """Convert labels to strings (N,) or int64 (N,), and return them with the number of classes (0 for strings)."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "OT":  # Python objects, or strings of numpy's newer type StringDType
        values = array.ravel().tolist()
        others = [value for value in values if not isinstance(value, str)]
        if others and not all(isinstance(value, int) for value in values):
            raise UsageError(f"{name} have {quote(others[0])}, but labels are {LABELS}")
        array = array.astype(np.int64 if others else str)
    if array.dtype.kind not in "Ubiuf" or (array.dtype.kind == "U" and array.ndim != 1):
        raise UsageError(f"{name} are {array.dtype} {array.shape}; labels are {LABELS}")
    if array.dtype.kind == "U":
        return array, 0
    if array.dtype.kind == "f" and array.size and not (is_integer := array == np.rint(array)).all():
        raise UsageError(
            f"{name} are continuous values, such as {array[~is_integer][0]:g}, but a label must be a class: labels "
            f"are {LABELS}; divide a range of numbers into classes with numpy.digitize"
        )
    if array.ndim == 2 and ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all():
        return array.argmax(axis=1), array.shape[1]
    if array.ndim != 1:
        raise UsageError(f"{name} have shape {array.shape}, which is not one class for each image; labels are {LABELS}")
    highest = int(array.max(initial=0))
    if highest >= MAX_CLASSES:
        raise UsageError(f"{name} have the value {highest}; labels are 0 ... K-1 with K at most {MAX_CLASSES}")
    return array.astype(np.int64), highest + 1
