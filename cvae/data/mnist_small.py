"""The data set `mnist-small`, which is part of the package, so it is not downloaded."""

from pathlib import Path
from typing import Any

import numpy as np

from cvae.data.dataset import Dataset, Split, refuse_argument
from cvae.data.images import resize

FILE = Path(__file__).with_name("mnist-small.npz")
"""File with the arrays `train` and `test` (N, 28, 28) uint8 and `<split>_labels` (N,).

`model_zoo/scripts/make_mnist_small.py` creates it.
"""


def mnist_small(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load 10,000 training and 2,000 test images of MNIST, grey, 28x28 or `size`, the same number per class.

    Raises:
        UsageError: If `argument` is not empty.
    """
    refuse_argument("mnist-small", argument)
    with np.load(FILE, allow_pickle=False) as arrays:
        splits: dict[str, Any] = {
            name: Split(images=resize(arrays[name][:, None], size), labels=arrays[f"{name}_labels"].astype(np.int64))
            for name in ("train", "test")
        }
    return Dataset(
        name="mnist-small",
        classes=tuple("0123456789"),
        data_license="Yann LeCun and Corinna Cortes, CC BY-SA 3.0, http://yann.lecun.com/exdb/mnist/",
        **splits,
    )
