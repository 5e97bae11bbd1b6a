"""What a data set is to the rest of the program, and how flags turn a registered one into it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cvae.config import TrainConfig
from cvae.data.rows import Rows
from cvae.errors import CvaeError, UsageError, count_of, near, one_line
from cvae.registry import DATASETS

MEMORY = 2**28
"""Bytes of images up to which a set that lies in a file is read into memory whole."""

MAX_CLASSES_SHOWN = 20

STATIC_SEED = 0
"""The seed of every binarization that is drawn once. It is no option: two static sets are to be the same set.
The draw of MNIST that the literature shares is another one, a file; give it as npz:PATH."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images (N, C, H, W) uint8 and, where there are labels, labels (N,) int64 in 0 ... K-1.

    Images are in memory, or `Rows` of a file; of both, `images[slice or array of numbers]` is an array in memory.
    """

    images: np.ndarray | Rows
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Of all images, wherever they are."""
        return self.images.nbytes

    @property
    def in_memory(self) -> bool:
        return isinstance(self.images, np.ndarray)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The splits of a data set, the names of its classes, the terms under which it may be used, and remarks for users.

    A factory registered under `cvae.datasets` returns one; it may leave `validation` and `test` out. It is called with
    the text after the colon of --data, the folder for data sets or None, and the height and width in pixels that images
    shall have, or None.
    """

    name: str
    train: Split
    validation: Split | None = None
    test: Split | None = None
    classes: tuple[str, ...] | None
    terms: str
    remarks: Sequence[str] = ()


def load_dataset(config: TrainConfig) -> Dataset:
    """The data set that `config.data` names (`name` or `name:argument`), as the flags want it.

    In this order: the factory's result is checked; the classes `config.without` are left out of every split; where it
    has no validation split, a share `config.validation` of train, drawn by `config.seed`, becomes one (what stays is
    in random order too, so that the first images are of all classes); `config.limit` keeps the first images of train;
    `config.binarize` makes each pixel 0 or 255, white with probability grey / 255. A fixed seed, `STATIC_SEED`, draws
    each split once, but `dynamic` leaves train grey: the engine draws every batch anew.

    Images in a file are read into memory first if they are few (`MEMORY`); else all this only chooses among them, and
    `static` draws each image by a seed of its own, whenever it is read.

    Raises:
        UsageError: no such data set, it doesn't take this argument, or the flags don't fit it.
        CvaeError: the data can't be had, or a plug-in returned something else than a data set.
    """
    dataset = _small_in_memory(_checked(_made(config), config.data))
    if config.conditional:
        _require_labels(dataset, config.data, "--conditional")
    if config.without:
        dataset = _left_out(dataset, config)
    dataset = replace(dataset, remarks=[*dataset.remarks, describe(dataset)])
    if dataset.validation is None and config.validation > 0:
        dataset = _held_out(dataset, config)
    if config.limit is not None:
        dataset = replace(dataset, train=_take(dataset.train, slice(config.limit)))
    if config.binarize != "none":
        dataset = _binarized(dataset, config)
    return dataset


def describe(dataset: Dataset) -> str:
    """Count the images of each split and, where there are labels, those of each class, in one line."""
    texts = []
    for name, split in _splits(dataset).items():
        text = count_of(len(split), f"{'training' if name == 'train' else name} image")
        if split.labels is not None and dataset.classes is not None:
            counts = np.bincount(split.labels, minlength=len(dataset.classes))
            known = [f"{one_line(name, 40)} {count:,}" for name, count in zip(dataset.classes, counts, strict=True)]
            more = len(known) - MAX_CLASSES_SHOWN
            text += f" ({', '.join(known[:MAX_CLASSES_SHOWN])}{f', and {more:,} more classes' if more > 0 else ''})"
        texts.append(text)
    return f"{one_line(dataset.name, 40)}: {', '.join(texts)}"


def refuse_argument(name: str, argument: str) -> None:
    """For the factory of a set that takes no argument.

    Raises:
        UsageError: it got one.
    """
    if argument:
        raise UsageError(f"--data '{name}:{argument}': {name!r} takes no argument; say --data {name}")


def _splits(dataset: Dataset) -> dict[str, Split]:
    splits: dict[str, Any] = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {name: split for name, split in splits.items() if name == "train" or split is not None}


def _take(split: Split, rows: slice | np.ndarray) -> Split:
    images = split.images.select(rows) if isinstance(split.images, Rows) else split.images[rows]
    return Split(images=images, labels=None if split.labels is None else split.labels[rows])


def _small_in_memory(dataset: Dataset) -> Dataset:
    if sum(split.nbytes for split in _splits(dataset).values()) > MEMORY:
        return dataset
    loaded: dict[str, Any] = {name: replace(split, images=split.images[:]) for name, split in _splits(dataset).items()}
    return replace(dataset, **loaded)


def _made(config: TrainConfig) -> object:
    name, _, argument = config.data.partition(":")
    path = Path(config.data).expanduser()
    if name not in DATASETS and path.exists():
        kind = "npz" if path.suffix in (".npz", ".npy") else "folder"
        raise UsageError(
            f"--data {config.data!r} is a path, not the name of a data set; say --data {kind}:{config.data}"
        )
    data_dir = None if config.data_dir is None else Path(config.data_dir).expanduser()
    return DATASETS.get(name)(argument, data_dir, config.sides)


def _checked(dataset: object, data: str) -> Dataset:
    """The factory's result, if it is what `Dataset` and `Split` say it is."""

    def bad(what: str) -> CvaeError:
        return CvaeError(f"data set {data!r}: {what}; repair the data or the plug-in they come from")

    if not isinstance(dataset, Dataset):
        raise bad(f"its factory returned {type(dataset).__name__}, not cvae.data.Dataset")
    classes = dataset.classes
    if classes is not None and not (isinstance(classes, tuple) and all(isinstance(name, str) for name in classes)):
        raise bad(f"classes {classes!r} are no tuple of strings")
    if classes is not None and (repeated := [name for name, count in Counter(classes).items() if count > 1]):
        raise bad(f"classes has {one_line(repr(repeated[0]), 40)} more than once")
    for name, split in _splits(dataset).items():
        if not isinstance(split, Split):
            raise bad(f"{name} is {type(split).__name__}, not cvae.data.Split")
        images, labels = split.images, split.labels
        if not isinstance(images, np.ndarray | Rows) or images.dtype != np.uint8 or len(images.shape) != 4:
            found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray | Rows) else type(images).__name__
            raise bad(f"the images of {name} are {found}, not a uint8 array or Rows (N, C, H, W)")
        if 0 in images.shape:
            raise bad(f"{name} has no images: shape {images.shape}")
        if images.shape[1:] != dataset.train.images.shape[1:]:
            raise bad(f"{name} has images {images.shape[1:]}, train {dataset.train.images.shape[1:]}")
        if labels is None:
            continue
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            found = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise bad(f"the labels of {name} are {found}, not an int64 array {images.shape[:1]}")
        if classes is None:
            raise bad(f"{name} has labels, but classes is None")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise bad(f"the labels of {name} are in {labels.min()}..{labels.max()}, not in 0..{len(classes) - 1}")
    return dataset


def _require_labels(dataset: Dataset, data: str, flag: str) -> None:
    for name, split in _splits(dataset).items():
        if split.labels is None:
            raise UsageError(
                f"{flag} needs labels, and {name} of {data!r} has none: make a sub-folder per class, "
                f"choose --data with labels, or leave {flag} out"
            )


def _left_out(dataset: Dataset, config: TrainConfig) -> Dataset:
    """The data set without some of its classes; the others are numbered anew."""
    _require_labels(dataset, config.data, "--without")
    assert dataset.classes is not None
    for name in config.without:
        if name not in dataset.classes:
            raise UsageError(f"--without {name!r}: {config.data!r} has no such class; {near(name, dataset.classes)}")
    kept = [i for i, name in enumerate(dataset.classes) if name not in config.without]
    splits: dict[str, Any] = {}
    for split, of in _splits(dataset).items():
        assert of.labels is not None
        rows = np.flatnonzero(np.isin(of.labels, kept))
        if len(rows) == 0:
            raise UsageError(f"--without {', '.join(config.without)} leaves no images in {split} of {config.data!r}")
        splits[split] = replace(_take(of, rows), labels=np.searchsorted(kept, of.labels[rows]))
    return replace(dataset, classes=tuple(dataset.classes[i] for i in kept), **splits)


def _held_out(dataset: Dataset, config: TrainConfig) -> Dataset:
    count = len(dataset.train)
    held = max(1, round(config.validation * count))
    if held >= count:
        raise UsageError(
            f"--validation {config.validation} of {count} training images leaves none to train on; say --validation 0"
        )
    order = np.random.default_rng(config.seed).permutation(count)
    return replace(dataset, validation=_take(dataset.train, order[:held]), train=_take(dataset.train, order[held:]))


def _binarized(dataset: Dataset, config: TrainConfig) -> Dataset:
    channels = dataset.train.images.shape[1]
    if channels != 1:
        raise UsageError(
            f"--binarize {config.binarize!r} needs grey images, and {config.data!r} has {channels} channels; "
            "say --binarize none"
        )

    def drawn(split: Split, stream: int) -> Split:
        if isinstance(split.images, Rows):
            return replace(split, images=replace(split.images, draw=partial(_draw_one, stream=stream)))
        return replace(split, images=_draw(split.images, np.random.default_rng([STATIC_SEED, stream])))

    return replace(
        dataset,
        train=dataset.train if config.binarize == "dynamic" else drawn(dataset.train, 0),
        validation=dataset.validation and drawn(dataset.validation, 1),
        test=dataset.test and drawn(dataset.test, 2),
    )


def _draw(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Of the 255 values 0 ... 254, grey many are below grey: exactly Bernoulli(grey / 255), in one byte a pixel.
    white = rng.integers(0, 255, images.shape, np.uint8) < images
    return white * np.uint8(255)


def _draw_one(image: np.ndarray, row: int, stream: int) -> np.ndarray:
    return _draw(image, np.random.default_rng([STATIC_SEED, stream, row]))
