"""The bundled digits: scikit-learn's copy of https://archive.ics.uci.edu/dataset/80, so that nothing is downloaded."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from cvae.data.dataset import Dataset, Split, refuse_argument
from cvae.data.images import resize


def digits(argument: str, data_dir: Path | None, size: int | None) -> Dataset:
    """1,797 handwritten digits, grey, 8x8 or `size` x `size`; a fixed fifth of them, 359, is the test split.

    Raises:
        UsageError: an argument was given.
    """
    refuse_argument("digits", argument)
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # 0..16 (N, 8, 8) -> 0..255 (N, 1, 8, 8)
    images, labels = resize(images, size), bunch.target.astype(np.int64)
    # The same for every run, whatever its seed: figures on the test split are to be compared.
    order = np.random.default_rng(0).permutation(len(images))
    train, test = np.split(order, [len(order) - len(order) // 5])
    return Dataset(
        name="digits",
        train=Split(images=images[train], labels=labels[train]),
        test=Split(images=images[test], labels=labels[test]),
        classes=tuple("0123456789"),
        terms="E. Alpaydin and C. Kaynak, CC BY 4.0, https://archive.ics.uci.edu/dataset/80",
    )
