"""The `Dataset` type, and the loading and preparation of registered data sets."""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cvae.atomic import expand_user
from cvae.condition_rows import make_rows, read_rows
from cvae.conditions import LABEL, Condition, label_condition, single_category
from cvae.config import DataConfig
from cvae.data.binarization import STATIC_SEED, sample_image, sample_pixels
from cvae.data.disk_images import DiskImages
from cvae.errors import CvaeError, UsageError, count_of, one_line, suggest
from cvae.fingerprint import Fingerprint
from cvae.recorded_data import RecordedDataConfig
from cvae.registry import ARGUMENT_DATASETS, DATASETS

MAX_MEMORY_BYTES = 2**28
"""Maximum size, in bytes, of a data set that is read from disk into memory."""

MAX_CLASSES_SHOWN = 20
"""Maximum number of classes in a description."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A split of a data set.

    Attributes:
        images: (N, C, H, W) uint8, in memory or on disk. Indexing with a slice or an array of indices returns an array
            in memory in both cases.
        labels: (N,) int64 in 0 ... K-1, or None. A factory can return -1 for an image without a label; `load_dataset`
            then turns the labels into `rows`.
        columns: values of further conditions by name, in lists or arrays (N,), or arrays (N, K) for attributes; None
            and NaN are unknown values. A factory can return them; `load_dataset` turns them into `rows`.
        rows: values of all conditions, as in `cvae.condition_rows`; None for a data set without `conditions`.
    """

    images: np.ndarray | DiskImages
    labels: np.ndarray | None = None
    columns: Mapping[str, Any] | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Size of all images in bytes, in memory or on disk."""
        return self.images.nbytes

    @property
    def in_memory(self) -> bool:
        """Whether the images are in memory."""
        return isinstance(self.images, np.ndarray)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set.

    A factory registered under `cvae.datasets` returns a `Dataset` for the text after the colon of --data, the folder
    for data sets (or None), and the height and width in pixels to which images are resized (or None).

    Attributes:
        name: name of the data set.
        train: training split.
        validation: validation split, or None.
        test: test split, or None.
        classes: class names in the order of the labels; None without labels.
        conditions: conditions whose values are in the rows of every split. If the only one is a category that is known
            for all images, there are labels and classes too. A data set with only labels has no conditions here; see
            `list_conditions`.
        data_license: origin and license of the data.
        notes: messages for the user.
        description: number of images in each split and class, before validation images are split off.
        fingerprint: fingerprint of the content as the factory has returned it, if it was computed.
    """

    name: str
    train: Split
    validation: Split | None = None
    test: Split | None = None
    classes: tuple[str, ...] | None
    conditions: tuple[Condition, ...] = ()
    data_license: str
    notes: Sequence[str] = ()
    description: str = ""
    fingerprint: Fingerprint | None = None


def load_dataset(config: DataConfig, *, identify: bool = False) -> Dataset:
    """Load and prepare the data set of a config.

    The steps, in order:

    1. Call the factory of `config.data` (`name` or `name:argument`). Read images on disk into memory if they are small
       (`MAX_MEMORY_BYTES`). Turn columns into conditions, with `config.condition` and `config.ignore`.
       With `config.conditional`, splits without labels are left out.
    2. Remove the classes `config.without` from every split.
    3. If there is no validation split, split off the fraction `config.validation` of train, chosen with `config.seed`.
    4. Keep `config.limit` images of train, chosen with `config.seed`, since train may be sorted by class.
    5. With `config.binarize`, set each pixel to 255 with probability grey / 255, and to 0 otherwise. Each split is
       sampled once, with `STATIC_SEED`. With "dynamic", train stays grey, and the engine samples every batch again.

    For images that stay on disk, these steps only select indices. Step 5 then binarizes each image when it is read,
    with a seed of its own.

    Args:
        config: choice of the data set. One that a file has recorded is loaded only if its content is the same.
        identify: whether to compute the fingerprint.

    Raises:
        UsageError: If there is no such data set, it does not accept the argument, or the config does not fit the data.
        CvaeError: If the data can't be read or downloaded, or a plug-in did not return a valid data set.
    """
    dataset = _read_if_small(_load(config, identify))
    if config.conditional and not dataset.conditions:
        dataset = _drop_unlabelled_splits(dataset)
        _require_labels(dataset, config.data, "--conditional")
    if config.without:
        dataset = _exclude_classes(dataset, config)
    dataset = replace(dataset, description=describe(dataset))
    if dataset.validation is not None and config.validation != DataConfig.validation:
        note = f"--validation {config.validation} has no effect, because the data have validation images of their own"
        dataset = replace(dataset, notes=[*dataset.notes, note])
    if dataset.validation is None and config.validation > 0:
        dataset = _split_validation(dataset, config)
    elif config.limit is not None and config.limit < len(dataset.train):
        order = np.random.default_rng(config.seed).permutation(len(dataset.train))
        dataset = replace(dataset, train=_take(dataset.train, order[: config.limit]))
    if config.limit is not None:
        dataset = replace(dataset, train=_take(dataset.train, slice(config.limit)))
    if config.binarize != "none":
        dataset = _binarize(dataset, config)
    return dataset


def _load(config: DataConfig, identify: bool) -> Dataset:
    """Call the factory of a data set, check its result, and compute the fingerprint if it is needed."""
    from cvae.data.add_conditions import add_conditions
    from cvae.data.fingerprints import compute_fingerprint
    from cvae.data.recorded import load_recorded

    if isinstance(config, RecordedDataConfig):
        return load_recorded(config, partial(_load, identify=identify))
    dataset = _check(_call_factory(config), config.data)
    dataset = add_conditions(dataset, config.condition, config.ignore)
    if identify:
        return replace(dataset, fingerprint=compute_fingerprint(dataset, config.data.partition(":")[0]))
    return dataset


def describe(dataset: Dataset) -> str:
    """Return one line with the number of images in each split and, if there are labels, in each class."""
    descriptions = []
    for name, split in list_splits(dataset).items():
        text = count_of(len(split), f"{'training' if name == 'train' else name} image")
        if split.labels is not None and dataset.classes is not None:
            counts = np.bincount(split.labels, minlength=len(dataset.classes))
            by_class = [f"{one_line(name, 40)} {count:,}" for name, count in zip(dataset.classes, counts, strict=True)]
            more = len(by_class) - MAX_CLASSES_SHOWN
            text += f" ({', '.join(by_class[:MAX_CLASSES_SHOWN])}{f', and {more:,} more classes' if more > 0 else ''})"
        descriptions.append(text)
    conditions = [describe_conditions(dataset)] if dataset.conditions else []
    return "; ".join([f"{one_line(dataset.name, 40)}: {', '.join(descriptions)}", *conditions])


def describe_conditions(dataset: Dataset) -> str:
    """Return one line with the kind of each condition, such as "age: number 3..92; smiling: attribute"."""
    return "; ".join(_describe_condition(dataset, i) for i in range(len(dataset.conditions)))


def _describe_condition(dataset: Dataset, index: int) -> str:
    """Describe a condition, such as "age: number 3..92 (12 of 1,000 unknown)"."""
    condition = dataset.conditions[index]
    known = np.concatenate([
        read_rows(dataset.conditions, split.rows)[1][:, index]
        for split in list_splits(dataset).values()
        if split.rows is not None
    ])  # fmt: skip
    unknown = len(known) - int(known.sum())
    count = f" ({unknown:,} of {len(known):,} unknown)" if unknown else ""
    return f"{condition.name}: {condition.describe()}{count}"


def list_conditions(dataset: Dataset) -> tuple[Condition, ...]:
    """Return the conditions of a data set; that of a data set with only labels is the category `label`."""
    return dataset.conditions or label_condition(dataset.classes)


def condition_rows(split: Split) -> np.ndarray | None:
    """Return the values of the conditions in a split, as in `cvae.condition_rows`, or None without conditions."""
    return split.labels if split.rows is None else split.rows


def refuse_argument(name: str, argument: str) -> None:
    """Reject an argument for a data set that takes none.

    Raises:
        UsageError: If `argument` is not empty.
    """
    if argument:
        raise UsageError(f"--data '{name}:{argument}': {name!r} takes no argument; use --data {name}")


def list_splits(dataset: Dataset) -> dict[str, Split]:
    """Return the splits that a data set has, by name."""
    splits: dict[str, Any] = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {name: split for name, split in splits.items() if name == "train" or split is not None}


def _take(split: Split, indices: slice | np.ndarray) -> Split:
    images = split.images.select(indices) if isinstance(split.images, DiskImages) else split.images[indices]
    labels, rows = (None if values is None else values[indices] for values in (split.labels, split.rows))
    return Split(images=images, labels=labels, rows=rows)


def _read_if_small(dataset: Dataset) -> Dataset:
    if sum(split.nbytes for split in list_splits(dataset).values()) > MAX_MEMORY_BYTES:
        return dataset
    loaded: dict[str, Any] = {
        name: replace(split, images=split.images[:]) for name, split in list_splits(dataset).items()
    }
    return replace(dataset, **loaded)


def _call_factory(config: DataConfig) -> object:
    name, _, argument = config.data.partition(":")
    if name not in DATASETS and (path := expand_user(config.data)).exists():
        loader = "npz" if path.suffix in (".npz", ".npy") else "folder"
        raise UsageError(
            f"--data {config.data!r} is a path, not the name of a data set; use --data {loader}:{config.data}"
        )
    if name not in DATASETS:
        names = [known for known in DATASETS if known not in ARGUMENT_DATASETS]
        raise UsageError(f"unknown data set {name!r} (for your own images: --data folder:PATH); {suggest(name, names)}")
    data_dir = None if config.data_dir is None else expand_user(config.data_dir)
    factory = DATASETS.get(name)
    parameters = inspect.signature(factory).parameters
    if config.path_column is not None and "path_column" not in parameters:
        raise UsageError(f"--path-column {config.path_column!r}: {config.data!r} is not a table; remove the flag")
    options = {option: getattr(config, option) for option in ("path_column", "ignore") if option in parameters}
    return factory(argument, data_dir, config.sides, **options)


def _check(dataset: object, data: str) -> Dataset:
    """Return the result of a factory after checking it.

    Raises:
        CvaeError: If the result does not have the types and shapes that `Dataset` and `Split` document.
    """

    def data_error(problem: str) -> CvaeError:
        return CvaeError(f"data set {data!r}: {problem}; fix the data or the plug-in that loads it")

    if not isinstance(dataset, Dataset):
        raise data_error(f"its factory returned {type(dataset).__name__}, not cvae.data.Dataset")
    classes = dataset.classes
    if classes is not None and not (isinstance(classes, tuple) and all(isinstance(name, str) for name in classes)):
        raise data_error(f"classes {classes!r} are not a tuple of strings")
    if classes is not None and (repeated := [name for name, count in Counter(classes).items() if count > 1]):
        raise data_error(f"classes contains {one_line(repr(repeated[0]), 40)} more than once")
    for name, split in list_splits(dataset).items():
        if not isinstance(split, Split):
            raise data_error(f"{name} is {type(split).__name__}, not cvae.data.Split")
        images, labels = split.images, split.labels
        if not isinstance(images, np.ndarray | DiskImages) or images.dtype != np.uint8 or len(images.shape) != 4:
            is_array = isinstance(images, np.ndarray | DiskImages)
            actual = f"{images.dtype} {images.shape}" if is_array else type(images).__name__
            raise data_error(f"the images of {name} are {actual}, not a uint8 array or DiskImages (N, C, H, W)")
        if 0 in images.shape:
            raise data_error(f"{name} has no images: shape {images.shape}")
        if (shape := images.shape[1:]) != (train_shape := dataset.train.images.shape[1:]):
            raise data_error(f"the images of {name} have shape {shape}, but those of train have {train_shape}")
        if dataset.conditions or split.rows is not None:
            raise data_error(
                "it sets conditions or rows, which are made from columns; return Split(columns={'age': ages}) instead"
            )
        if not isinstance(split.columns, Mapping | None):
            raise data_error(f"the columns of {name} are {type(split.columns).__name__}, not a dict")
        if labels is None:
            continue
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            actual = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise data_error(f"the labels of {name} are {actual}, not an int64 array {images.shape[:1]}")
        if classes is None:
            raise data_error(f"{name} has labels, but classes is None")
        if labels.min() < -1 or not 0 <= labels.max() < len(classes):
            raise data_error(
                f"the labels of {name} are in {labels.min()}..{labels.max()}, not in 0..{len(classes) - 1} (or -1 for "
                "some unknown labels)"
            )
    return dataset


def _drop_unlabelled_splits(dataset: Dataset) -> Dataset:
    """Leave out splits without labels, if train has labels."""
    unlabelled = [name for name, split in list_splits(dataset).items() if condition_rows(split) is None]
    if not unlabelled or "train" in unlabelled:
        return dataset
    dropped: dict[str, Any] = dict.fromkeys(unlabelled)
    note = f"not used, because a conditional model needs labels: the images of {' and '.join(unlabelled)}"
    return replace(dataset, notes=[*dataset.notes, note], **dropped)


def _require_labels(dataset: Dataset, data: str, flag: str) -> None:
    for name, split in list_splits(dataset).items():
        if split.labels is None:
            raise UsageError(
                f"{flag} needs labels, but {name} of {data!r} has none: make a subfolder for each class, "
                f"choose a data set with labels, or remove {flag}"
            )


def _exclude_classes(dataset: Dataset, config: DataConfig) -> Dataset:
    """Remove the classes `config.without`, and renumber the remaining ones."""
    conditions = list_conditions(dataset)
    category = single_category(conditions) or next((c for c in conditions if c.name == LABEL and c.values), None)
    if not dataset.conditions or category is None:
        _require_labels(dataset, config.data, "--exclude-class")
    assert category is not None
    for name in config.without:
        if name not in category.values:
            raise UsageError(
                f"--exclude-class {name!r}: {config.data!r} has no such class; {suggest(name, category.values)}"
            )
    remaining = [i for i, name in enumerate(category.values) if name not in config.without]
    if not remaining:
        raise _no_images_error(config, "train")
    reduced = replace(category, values=tuple(category.values[i] for i in remaining))
    new_conditions = tuple(reduced if condition is category else condition for condition in conditions)
    splits: dict[str, Any] = {}
    for name, split in list_splits(dataset).items():
        rows = condition_rows(split)
        assert rows is not None
        values, known = read_rows(conditions, rows)
        indices = np.flatnonzero(np.isin(values[category.name], remaining) | ~known[:, conditions.index(category)])
        if len(indices) == 0:
            raise _no_images_error(config, name)
        values = {key: value[indices] for key, value in values.items()}
        values[category.name] = np.searchsorted(remaining, values[category.name])
        rows = make_rows(new_conditions, values, known[indices])
        splits[name] = replace(
            _take(split, indices),
            labels=None if split.labels is None else rows,
            rows=None if split.rows is None else rows,
        )
    return replace(
        dataset,
        classes=None if dataset.classes is None else reduced.values,
        conditions=new_conditions if dataset.conditions else (),
        **splits,
    )


def _no_images_error(config: DataConfig, split: str) -> UsageError:
    excluded = ", ".join(config.without)
    return UsageError(
        f"--exclude-class {excluded} leaves no images in {split} of {config.data!r}; exclude fewer classes"
    )


def _split_validation(dataset: Dataset, config: DataConfig) -> Dataset:
    count = len(dataset.train)
    num_validation = max(1, round(config.validation * count))
    if num_validation >= count:
        raise UsageError(
            f"--validation {config.validation} of {count} training images leaves none to train on; use --validation 0"
        )
    order = np.random.default_rng(config.seed).permutation(count)
    validation, train = _take(dataset.train, order[:num_validation]), _take(dataset.train, order[num_validation:])
    return replace(dataset, validation=validation, train=train)


def _binarize(dataset: Dataset, config: DataConfig) -> Dataset:
    channels = dataset.train.images.shape[1]
    if channels != 1:
        raise UsageError(
            f"--binarize {config.binarize!r} needs grey images, but {config.data!r} has {channels} channels; "
            "use --binarize none"
        )

    def sample(split: Split, stream: int) -> Split:
        if isinstance(split.images, DiskImages):
            return replace(split, images=replace(split.images, transform=partial(sample_image, stream=stream)))
        return replace(split, images=sample_pixels(split.images, np.random.default_rng([STATIC_SEED, stream])))

    return replace(
        dataset,
        train=dataset.train if config.binarize == "dynamic" else sample(dataset.train, 0),
        validation=dataset.validation and sample(dataset.validation, 1),
        test=dataset.test and sample(dataset.test, 2),
    )
