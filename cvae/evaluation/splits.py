"""Images of a data set with the conditions that a model has, and images that a classifier learns from."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cvae.condition_rows import make_rows, read_rows
from cvae.conditions import Condition
from cvae.config import DataConfig
from cvae.data import Dataset, DiskImages, Split, condition_rows, list_conditions, load_dataset
from cvae.errors import UsageError, count_of, one_line
from cvae.evaluation.bounds import Scorer
from cvae.evaluation.condition_metrics import is_same
from cvae.evaluation.generation import take
from cvae.serialization import quote
from cvae.spec import Spec


def load_split(
    data: DataConfig,
    split: str | None,
    model: Scorer | Spec,
    *,
    labelled: bool = True,
    note: Callable[[str], None] | None = None,
) -> tuple[Dataset, str, Split]:
    """Load a data set and one of its splits, and check that the model fits its images and conditions.

    Args:
        data: the data set and its settings.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        model: the model, for its image shape and conditions.
        labelled: whether to load the values of the conditions, if the model is conditional.
        note: function called with each message about the data, such as the number of files that were skipped.

    Returns:
        The data set, the name of the split, and its images with the rows of the model's conditions.

    Raises:
        UsageError: If the split does not exist, or its images or conditions do not fit the model.
        CvaeError: If the data can't be loaded.
    """
    if split not in ("test", "validation", "train", None):
        raise UsageError(f"unknown --split {split!r}; choose test, validation or train")
    conditional = labelled and model.classes is not None  # leaves out splits without labels
    dataset = load_dataset(replace(data, conditional=conditional, limit=None))
    if note is not None:
        for text in (*dataset.notes, dataset.description):
            note(text)
    name = split or ("validation" if dataset.test is None and dataset.validation is not None else "test")
    images: Split | None = getattr(dataset, name)
    if images is None:
        others = [other for other in ("test", "validation", "train") if getattr(dataset, other) is not None]
        raise UsageError(f"the data set {one_line(dataset.name, 40)!r} has no {name} images; use --split {others[0]}")
    if split is None and name == "validation" and note is not None:
        note(f"the data set {one_line(dataset.name, 40)!r} has no test images: using its validation images")
    images = fit_images(images, data.data, model)
    rows = condition_rows(images) if labelled else None
    if rows is None or not model.conditions:
        if labelled and model.conditions:
            raise _missing_error(data.data, model, model.conditions[0])
        return dataset, name, replace(images, rows=None)
    return dataset, name, _fit_rows(images, rows, list_conditions(dataset), data.data, model, note)


def fit_images(split: Split, data: str, model: Scorer | Spec) -> Split:
    """Return a split whose images have the shape that a model takes. Grey images become colour images."""
    if split.images.shape[1] == 1 and model.image_shape[0] == 3:  # as image files are read
        split = replace(split, images=_to_colour(split.images))
    shape, expected = split.images.shape[1:], model.image_shape
    if shape[0] != expected[0]:
        raise UsageError(
            f"{data!r} has images with {shape[0]} channels, but {model.name!r} takes {expected[0]} (1 is grey, 3 "
            "is colour); choose the model's own data with --data"
        )
    if shape != expected:
        raise UsageError(
            f"{data!r} has images of shape {shape}, but {model.name!r} takes {expected}; choose the model's own "
            "data with --data, or set --size"
        )
    return split


def _fit_rows(
    split: Split,
    rows: np.ndarray,
    conditions: Sequence[Condition],
    data: str,
    model: Scorer | Spec,
    note: Callable[[str], None] | None,
) -> Split:
    """Return a split with the rows of the conditions that a model has.

    The data may have further conditions. Images without a value that the model must know are left out.
    """
    names = [condition.name for condition in conditions]
    for condition in model.conditions:
        if condition.name not in names:
            raise _missing_error(data, model, condition)
        if not is_same(other := conditions[names.index(condition.name)], condition):
            raise UsageError(
                f"the condition {condition.name} of {data!r} is a {_describe(other, condition)}, but that of "
                f"{model.name!r} is a {_describe(condition, other)}; choose the model's own data with --data"
            )
    values, known = read_rows(conditions, rows)
    known = known[:, [names.index(condition.name) for condition in model.conditions]]
    split = replace(split, rows=make_rows(model.conditions, values, known))
    required = [i for i, condition in enumerate(model.conditions) if not condition.optional]
    indices = np.flatnonzero(known[:, required].all(1))
    if len(indices) == len(split):
        return split
    problem = f"{len(split) - len(indices):,} of {count_of(len(split), 'image')} of {data!r} without a value of "
    problem += f"{model.conditions[required[0]].name}, which {model.name!r} must know"
    if not len(indices):
        raise UsageError(f"{problem}; choose other data with --data")
    if note is not None:
        note(f"left out {problem}")
    return take(split, indices)


def _missing_error(data: str, model: Scorer | Spec, condition: Condition) -> UsageError:
    return UsageError(
        f"{data!r} has no condition {condition.name}, but {model.name!r} has: {condition.describe()}; choose the "
        "model's own data with --data"
    )


def _describe(condition: Condition, other: Condition) -> str:
    """Describe a condition, with the first value in which it differs from another one with as many values."""
    text = condition.describe()
    if condition.kind != other.kind or len(condition.values) != len(other.values):
        return text
    first = next(a for a, b in zip(condition.values, other.values, strict=True) if a != b)
    return f"{text} with {quote(first)}"


class PredictorImages(NamedTuple):
    """A data set whose conditions a classifier can learn, and its held-out images, which test the classifier."""

    dataset: Dataset
    held_out: Split


def load_predictor_images(data: DataConfig, flag: str) -> PredictorImages:
    """Load the grey or colour images that a classifier learns the conditions from.

    The held-out images are the test images or, if there are none, the validation images. With test images, the training
    images include the validation images, so that all models of a data set share a classifier.

    Raises:
        UsageError: If the data set has no labels or other conditions, or no held-out images, which `flag` needs.
    """
    config = replace(data, conditional=False, binarize="none", limit=None)
    dataset = load_dataset(replace(config, validation=0.0))
    if dataset.test is None:
        dataset = load_dataset(config)
    held_out = dataset.validation if dataset.test is None else dataset.test
    if condition_rows(dataset.train) is None:
        raise UsageError(f"{data.data!r} has no labels that a classifier can learn; remove {flag}")
    if held_out is None or condition_rows(held_out) is None:
        raise UsageError(f"{data.data!r} has no labelled images to test a classifier with; remove {flag}")
    return PredictorImages(dataset, held_out)


def load_labelled(data: DataConfig, flag: str) -> PredictorImages:
    """Load images like `load_predictor_images`, whose only condition is a category that is known for all of them.

    Raises:
        UsageError: If the data set has no such labels or no held-out images, which `flag` needs.
    """
    images = load_predictor_images(data, flag)
    if images.dataset.train.labels is None or images.held_out.labels is None:
        raise UsageError(
            f"{flag} needs images whose only condition is a category that is always known, unlike {data.data!r}; "
            f"remove {flag}"
        )
    return images


def _to_colour(images: np.ndarray | DiskImages) -> np.ndarray:
    """Repeat the channel of grey images (N, 1, H, W) three times, as a view (N, 3, H, W)."""
    count, _, height, width = images.shape
    return np.broadcast_to(images[:], (count, 3, height, width))
