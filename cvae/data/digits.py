"""The data set `digits` (https://archive.ics.uci.edu/dataset/80), read from scikit-learn's copy without a download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cvae.data.dataset import Dataset, Split, refuse_argument
from cvae.data.images import resize
from cvae.errors import MissingExtraError


def digits(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load 1,797 grey images of handwritten digits, 8x8 or `size`. A fixed fifth, 359 images, is the test split.

    Raises:
        UsageError: If `argument` is not empty.
    """
    refuse_argument("digits", argument)
    table = _read_table()
    greys = table[:, :-1].reshape(-1, 1, 8, 8)  # (N, 64) -> (N, 1, 8, 8)
    images, labels = resize(np.rint(greys * (255 / 16)).astype(np.uint8), size), table[:, -1]  # 0..16 -> 0..255
    # The split does not depend on the run's seed, so that test metrics of different runs are comparable.
    order = np.random.default_rng(0).permutation(len(images))
    train, test = np.split(order, [len(order) - len(order) // 5])
    return Dataset(
        name="digits",
        train=Split(images=images[train], labels=labels[train]),
        test=Split(images=images[test], labels=labels[test]),
        classes=tuple("0123456789"),
        data_license="E. Alpaydin and C. Kaynak, CC BY 4.0, https://archive.ics.uci.edu/dataset/80",
    )


def _read_table() -> np.ndarray:
    """Return a table (1797, 65) int64. Each row contains the 64 grey values 0..16 of an image, then its label."""
    sklearn = find_spec("sklearn")
    if sklearn is None or sklearn.origin is None:
        raise MissingExtraError("the data set 'digits'")
    file = Path(sklearn.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():  # reading it takes milliseconds; importing scikit-learn takes a second
        return np.loadtxt(file, np.int64, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.int64)
