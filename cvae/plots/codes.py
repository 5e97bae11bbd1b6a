"""The codes of a data set's images, in the space of the noise."""

from typing import NamedTuple

import numpy as np

from cvae.config import TrainConfig
from cvae.data import Split
from cvae.evaluation.bounds import batches
from cvae.evaluation.evaluate import load_split, subsample
from cvae.runtime import Model


class Codes(NamedTuple):
    """Images with the mean and the standard deviation (N, Z) of their codes."""

    data: str
    classes: tuple[str, ...] | None
    """Of the data, whether the model knows them or not."""
    images: Split
    mean: np.ndarray
    std: np.ndarray

    def kl(self) -> np.ndarray:
        """KL(q(z|x) || N(0, 1)) of each dimension, averaged over the images: (Z,) in nats."""
        mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        return (0.5 * (mean**2 + std**2 - 1) - np.log(std)).mean(0)  # (N, Z) -> (Z,)


def encode(model: Model, data: TrainConfig, *, split: str = "test", limit: int | None = None) -> Codes:
    """Encode the images of a split, or `limit` of them, spread over it.

    Raises:
        UsageError: the split does not exist, or its images are not such as the model was made for.
        CvaeError: the data can't be had, or the model has no encoder.
    """
    dataset, part = load_split(data, split, model.spec)
    part = subsample(part, limit)
    labels = None if model.spec.classes is None else part.labels
    encoded = [model.encode(image, label_index=label) for _, image, label in batches(part.images, labels)]
    mean, std = (np.concatenate(each) for each in zip(*encoded, strict=True))
    return Codes(dataset.name, dataset.classes, part, mean, std)
