"""Data sets made from Python objects: arrays, lists of images or paths, and torch data sets."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from cvae.atomic import expand_user
from cvae.conditions import LABEL
from cvae.data.cache import create_progress_bar
from cvae.data.columns import is_unknown, read_cells
from cvae.data.conversion import convert_images, number_labels, to_numpy
from cvae.data.dataset import Dataset, Split
from cvae.data.folder import DEFAULT_SIZE
from cvae.data.images import DecodedImage, ReadFailure, decode, resize
from cvae.data.listing import group_by_reason
from cvae.errors import CvaeError, UsageError, count_of
from cvae.imaging.reader import common_bit_depth, describe_ranges
from cvae.serialization import quote

SUPPORTED = "an array such as (N, H, W) or (N, C, H, W), a list of PIL images or of paths, or a torch Dataset"
"""Supported images, for error messages."""

IMAGE = "image"
"""Key of the image in an item that is a dict."""

CHUNK = 1024
"""Number of items to convert at a time."""


def collect(
    images: Any,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    conditions: Any = None,
) -> Dataset:
    """Create a data set in memory from images, labels and conditions.

    Args:
        images: a NumPy array, torch tensor or array of another package, in any of the shapes and types of an .npz file;
            a list of PIL images or paths of image files; or a torch data set whose items are images, tuples of an image
            and its label, tuples of an image and a dict of its conditions, or dicts that have the image under the key
            "image". The key "label" is the label. Files and PIL images are scaled and cropped like those of an image
            folder, and those that can't be read are skipped with a warning.
        labels: label of each image: integers or strings, (N,) or (N, 1), or one-hot, (N, K). None and NaN are unknown.
        classes: class names in the order of the labels. By default, the attribute `classes` of a torch data set, or
            else the sorted labels.
        size: height and width in pixels. By default, arrays keep their size, and so do PIL images that all have the
            same size of at most 64x64; other images are scaled to 64x64.
        conditions: values of further conditions by name: numbers, strings or bools (N,), or bools (N, K). None and NaN
            are unknown.

    Raises:
        UsageError: If the images, labels or conditions have an unsupported type or shape, or do not fit together.
        CvaeError: If none of the images can be read.
    """
    if classes is not None:
        _check_classes(classes)
    if isinstance(images, str | os.PathLike):
        raise UsageError(
            f"images is the path {os.fspath(images)!r}; pass a list of paths, or data='folder:PATH' or data='npz:PATH' "
            "instead of images"
        )
    array = to_numpy(images) if hasattr(images, "__array__") else None
    if array is not None and array.ndim and not len(array):
        raise UsageError("images is empty; pass at least one image")
    if array is not None and array.dtype.kind not in "OTU":  # otherwise, it is an array of paths or PIL images
        dataset = _make_dataset(resize(convert_images(array, "images"), size))
        indices = np.arange(len(dataset.train))
        num_items = len(indices)
    else:
        items = _Items(_as_sequence(images if array is None else array.tolist()))
        dataset, indices = _read_items(items, size)
        num_items = len(items)
        if items.has_labels:
            if labels is not None:
                raise UsageError("images is a data set that already has labels; remove the labels argument")
            labels, classes = items.all_labels(), classes or _own_classes(images)
        if items.conditions:
            if conditions is not None:
                raise UsageError("images is a data set that already has conditions; remove the conditions argument")
            conditions = items.all_conditions()
    if conditions is not None:
        columns = _read_conditions(conditions, num_items, indices)
        dataset = replace(dataset, train=replace(dataset.train, columns=columns))
    if labels is None:
        if classes is not None:
            raise UsageError("classes was passed, but there are no labels; pass labels too")
        return dataset
    class_names = None if classes is None else np.array(classes, str)
    labels, known = _split_unknown(labels)
    names, by_split = number_labels({"train": labels}, class_names, lambda split: "labels")
    numbers = by_split["train"]
    count = len(numbers) if known is None else len(known)
    if count != num_items:
        shape = "x".join(map(str, dataset.train.images.shape[1:]))
        raise UsageError(
            f"there are {count_of(num_items, 'image')} of {shape}, but {count_of(count, 'label')}; "
            "pass one label for each image"
        )
    if numbers.min() < 0:
        raise UsageError(
            f"labels are in {numbers.min()}..{numbers.max()}, but they must start at 0; number the classes with "
            "numpy.unique(labels, return_inverse=True)[1], or pass strings"
        )
    if names is None or numbers.max() >= len(names):
        raise UsageError(
            f"labels are in {numbers.min()}..{numbers.max()}, but classes has {count_of(len(names or ()), 'name')}; "
            "name all classes"
        )
    if known is not None:
        numbers = np.full(count, -1)
        numbers[known] = by_split["train"]
    return replace(dataset, train=replace(dataset.train, labels=numbers[indices]), classes=names)


def _split_unknown(labels: Any) -> tuple[Any, np.ndarray | None]:
    """Return the known labels, and a mask (N,) of them, which is None if all labels are known.

    Raises:
        UsageError: If no label is known.
    """
    if not isinstance(labels, list | tuple):
        array = to_numpy(labels) if hasattr(labels, "__array__") else None
        if array is None or array.ndim != 1 or array.dtype.kind not in "Of":
            return labels, None
        labels = array.tolist()
    known = np.array([not is_unknown(label) for label in labels], bool)
    if known.all():
        return labels, None
    if not known.any():
        raise UsageError("all labels are unknown; pass at least one, or remove the labels argument")
    return [label for label, is_known in zip(labels, known, strict=True) if is_known], known


def _read_conditions(conditions: Any, num_items: int, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return the cells of each condition, (N,) or (N, K), of the items with these indices."""
    if not hasattr(conditions, "items") or not all(isinstance(name, str) for name, _ in conditions.items()):
        raise UsageError(
            f"conditions is {quote(conditions)}: it must be a dict of names and values, such as {{'age': ages}}"
        )
    columns = {}
    for name, values in conditions.items():
        cells = read_cells(values, f"conditions[{name!r}]")
        if len(cells[0]) != num_items:
            raise UsageError(
                f"there are {count_of(num_items, 'image')}, but conditions[{name!r}] has "
                f"{count_of(len(cells[0]), 'value')}; pass one value for each image, and None where it is unknown"
            )
        array = np.array(cells, object).T[indices]  # (N, K)
        columns[name] = array[:, 0] if len(cells) == 1 else array
    return columns


class _Items:
    """Items of a sequence or a torch data set: images, tuples of an image and its label or conditions, or dicts."""

    def __init__(self, items: Any) -> None:
        self.items = items
        self.labels: dict[int, Any] = {}
        self.conditions: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.items)

    @property
    def has_labels(self) -> bool:
        """Whether the label of an image is known."""
        return not all(map(is_unknown, self.labels.values()))

    def image(self, index: int) -> Any:
        """Return an image, after storing its label and conditions if it has any."""
        item = self.items[index]
        if isinstance(item, dict):
            if IMAGE not in item:
                raise UsageError(f"images[{index}] is a dict without the key {IMAGE!r}; its keys are {quote([*item])}")
            item = item[IMAGE], {name: value for name, value in item.items() if name != IMAGE}
        if not isinstance(item, tuple) or not item:
            return item
        if len(item) > 1 and isinstance(item[1], dict):
            conditions = {name: _to_value(value) for name, value in item[1].items()}
            if LABEL in conditions:
                self.labels[index] = conditions[LABEL]
            self.conditions |= {index: conditions} if conditions.keys() - {LABEL} else {}
        elif len(item) > 1:
            self.labels[index] = item[1] if isinstance(item[1], str) or is_unknown(item[1]) else to_numpy(item[1])
        return item[0]

    def all_conditions(self) -> dict[str, list[Any]]:
        """Return the values of the conditions of all images, with None for those that are missing."""
        names = {name: None for conditions in self.conditions.values() for name in conditions if name != LABEL}
        return {name: [self.conditions.get(i, {}).get(name) for i in range(len(self))] for name in names}

    def all_labels(self) -> Any:
        """Return the labels of all images, in which None and NaN are unknown."""
        if len(self.labels) < len(self):
            raise UsageError(
                f"only {len(self.labels):,} of {len(self):,} items in images have a label; label all items or none"
            )
        labels = [self.labels[i] for i in range(len(self))]
        shapes = {np.shape(label) for label in labels if not is_unknown(label)}
        if len(shapes) > 1:
            raise UsageError(f"the labels of images have different shapes, such as {' and '.join(map(str, shapes))}")
        return labels if any(isinstance(label, str) or is_unknown(label) for label in labels) else np.stack(labels)


def _to_value(value: Any) -> Any:
    """Return a tensor or an array as an array, or as a number if it has one element."""
    if not hasattr(value, "__array__"):
        return value
    array = to_numpy(value)
    return array.item() if array.size == 1 else array


def _check_classes(classes: Any) -> None:
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise UsageError(f"classes is {quote(classes)}: it must be a list of strings, one for each class")
    if len(set(classes)) < len(classes):
        raise UsageError(f"classes is {quote(classes)}: it contains a name more than once")


def _own_classes(images: Any) -> Sequence[str] | None:
    """Return the class names of a torch data set, or of the data set that it is a subset of."""
    while not hasattr(images, "classes") and hasattr(images, "dataset"):
        images = images.dataset
    classes = getattr(images, "classes", None)
    return classes if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes) else None


def _as_sequence(images: Any) -> Any:
    if hasattr(images, "batch_sampler"):
        raise UsageError("images is a DataLoader, which yields batches; pass its data set, loader.dataset")
    is_collection = isinstance(images, Iterable) or hasattr(images, "__getitem__")
    if not is_collection or isinstance(images, dict | Image.Image):
        raise UsageError(f"images is {quote(images)}; pass {SUPPORTED}")
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        images = list(images)
    if not len(images):
        raise UsageError("images is empty; pass at least one image")
    return images


def _make_dataset(images: np.ndarray, notes: Sequence[str] = ()) -> Dataset:
    return Dataset(
        name="arrays", train=Split(images=images), classes=None, data_license="images provided by the user", notes=notes
    )


def _read_items(items: _Items, size: tuple[int, int] | None) -> tuple[Dataset, np.ndarray]:
    """Return a data set of the items that can be read, and the indices of these items."""
    first = items.image(0)
    if not _is_file(first):
        return _make_dataset(_stack(items, size)), np.arange(len(items))
    if size is None and isinstance(first, Image.Image) and max(first.size) <= max(DEFAULT_SIZE):
        have_one_size = all(getattr(items.image(i), "size", None) == first.size for i in range(len(items)))
        size = (first.height, first.width) if have_one_size else None
    return _decode(items, size or DEFAULT_SIZE)


def _is_file(image: Any) -> bool:
    return isinstance(image, str | os.PathLike | Image.Image)


def _stack(items: _Items, size: tuple[int, int] | None) -> np.ndarray:
    """Convert images that are arrays of the same shape."""
    shape = np.shape(to_numpy(items.image(0)))
    chunks = []
    for first in range(0, len(items), CHUNK):
        arrays = []
        for i in range(first, min(first + CHUNK, len(items))):
            image = items.image(i)
            if _is_file(image) or not hasattr(image, "__array__") or image.ndim not in (1, 2, 3):
                raise UsageError(f"images[{i}] is {quote(image)}, not an image; pass {SUPPORTED}")
            if image.shape != shape:
                raise UsageError(
                    f"images[{i}] has shape {tuple(image.shape)}, but images[0] has {shape}; "
                    "scale them to the same shape"
                )
            arrays.append(to_numpy(image))
        chunks.append(resize(convert_images(np.stack(arrays), "images", first), size))
    return np.concatenate(chunks)


def _decode(items: _Items, size: tuple[int, int]) -> tuple[Dataset, np.ndarray]:
    """Decode image files and PIL images, like those of an image folder."""
    images = np.zeros((len(items), 3, *size), np.uint8)
    failures: dict[int, str] = {}
    ranges: dict[int, tuple[int | None, int]] = {}  # bits and peak of images with more than 8 bits

    def decode_all(indices: Sequence[int], min_bits: int = 0) -> Iterator[DecodedImage | ReadFailure]:
        return decode((_file(items, i) for i in indices), size, min_bits)

    def store(index: int, image: DecodedImage | ReadFailure) -> None:
        if isinstance(image, ReadFailure):
            failures[index] = image.reason
        else:
            images[index] = image.pixels

    with create_progress_bar(Console(stderr=True)) as bar:
        decoded = bar.track(decode_all(range(len(items))), len(items), description="decoding images")
        for i, image in enumerate(decoded):
            store(i, image)
            if isinstance(image, DecodedImage) and image.peak is not None:
                ranges[i] = image.bits, image.peak
    bits, outliers = common_bit_depth(ranges)
    for i, image in zip(outliers, decode_all(outliers, bits), strict=True):
        store(i, image)

    indices = np.array([i for i in range(len(items)) if i not in failures], np.int64)
    if failures:
        reasons = group_by_reason((_describe(items, i), reason) for i, reason in failures.items())
        if not len(indices):
            raise CvaeError(f"none of the {len(items):,} images can be read: {reasons}")
        warnings.warn(f"{len(failures):,} of {len(items):,} images are skipped: {reasons}", stacklevel=2)
    if (images == images[:, :1]).all():
        images = images[:, :1]
    note = describe_ranges(ranges.values())
    return _make_dataset(np.ascontiguousarray(images[indices]), [note] if note else []), indices


def _file(items: _Items, index: int) -> Any:
    image = items.image(index)
    if not _is_file(image):
        raise UsageError(f"images[{index}] is {quote(image)}, neither a PIL image nor a path, unlike images[0]")
    return image if isinstance(image, Image.Image) else expand_user(image)


def _describe(items: _Items, index: int) -> str:
    image = items.image(index)
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"images[{index}]"
