"""Helpers for the tests of data sets."""

import numpy as np

from cvae.data import Split

DOWNLOADABLE = ("mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "svhn")
"""Names of the data sets that can be downloaded."""


def same_split(a: Split | None, b: Split | None) -> bool:
    """Return whether two splits hold equal images and labels."""
    assert a is not None and b is not None
    return np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)  # type: ignore[arg-type]
