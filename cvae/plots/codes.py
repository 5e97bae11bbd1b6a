"""Latent codes of images from a data set, in noise space."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cvae.condition_rows import read_rows
from cvae.conditions import Condition
from cvae.config import DataConfig
from cvae.data import Split
from cvae.evaluation.bounds import batches
from cvae.evaluation.generation import subsample
from cvae.evaluation.splits import load_split
from cvae.runtime import Model


class Codes(NamedTuple):
    """Latent codes of N images.

    Attributes:
        data: name of the data set.
        split: name of the split.
        classes: class names of the data set, whether or not the model is conditional. The classes of a model with
            several conditions are the values of its category.
        images: images, their labels, and the rows of the conditions that the model has.
        mean: mean of each image's posterior, (N, Z).
        std: standard deviation of each image's posterior, (N, Z).
    """

    data: str
    split: str
    classes: tuple[str, ...] | None
    images: Split
    mean: np.ndarray
    std: np.ndarray

    def kl(self) -> np.ndarray:
        """Return KL(q(z|x) || N(0, 1)) of each latent dimension (Z,), in nats, averaged over the images."""
        mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        return (0.5 * (mean**2 + std**2 - 1) - np.log(std)).mean(0)  # (N, Z) -> (Z,)


def encode(
    model: Model,
    data: DataConfig,
    *,
    split: str | None = None,
    limit: int | None = None,
    note: Callable[[str], None] | None = None,
) -> Codes:
    """Encode images of a split.

    Args:
        model: the exported model, which must have an encoder.
        data: the data set and its settings.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        limit: maximum number of images, spaced evenly over the split; None for all.
        note: function called with each message about the data, as in `load_split`.

    Raises:
        UsageError: If the split does not exist, or its images do not fit the model.
        CvaeError: If the data can't be loaded, or the model has no encoder.
    """
    dataset, split, images = load_split(data, split, model.spec, note=note)
    images = subsample(images, limit)
    classes = dataset.classes
    if classes is None and model.spec.category is not None and images.rows is not None:
        classes, labels = _read_category(model.spec.category, model.spec.conditions, images.rows)
        images = replace(images, labels=labels)
    encoded = [model.encode_rows(image, rows) for _, image, rows in batches(images.images, images.rows)]
    mean, std = (np.concatenate(values) for values in zip(*encoded, strict=True))
    return Codes(dataset.name, split, classes, images, mean, std)


def _read_category(
    category: Condition, conditions: Sequence[Condition], rows: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return class names and labels (N,) for the values of a category, with a class for unknown values."""
    values, known = read_rows(conditions, rows)
    labels = np.where(known[:, conditions.index(category)], values[category.name], len(category.values))
    return (*category.values, "unknown"), labels.astype(np.int64)
