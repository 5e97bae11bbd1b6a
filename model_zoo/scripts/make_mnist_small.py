"""Write the data set `mnist-small`: for each class, 1,000 training and 200 test images from MNIST.

python model_zoo/scripts/make_mnist_small.py [--data-dir DIR] [--out FILE]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from cvae.config import DataConfig
from cvae.data import Split, load_dataset
from cvae.data.mnist_small import FILE

SEED = 0
"""Seed for choosing the images."""

PER_CLASS = {"train": 1000, "test": 200}
"""Number of images per class in each split."""


def choose_indices(split: Split, count: int) -> np.ndarray:
    """Return the indices of `count` images of each class, in ascending order."""
    generator = np.random.default_rng(SEED)
    assert split.labels is not None
    chosen = [generator.choice(np.flatnonzero(split.labels == label), count, replace=False) for label in range(10)]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets. MNIST is downloaded if missing.")
    parser.add_argument("--out", type=Path, default=FILE, metavar="PATH", help="File to write.")
    args = parser.parse_args()
    dataset = load_dataset(DataConfig(data="mnist", data_dir=args.data_dir, validation=0.0))
    assert dataset.test is not None
    arrays: dict[str, Any] = {}
    for name, split in {"train": dataset.train, "test": dataset.test}.items():
        indices = choose_indices(split, PER_CLASS[name])
        assert split.labels is not None
        arrays[name] = split.images[indices][:, 0]
        arrays[f"{name}_labels"] = split.labels[indices].astype(np.uint8)
    np.savez_compressed(args.out, **arrays)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
