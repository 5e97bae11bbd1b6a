"""Named sets, downloaded on first use by torchvision: https://docs.pytorch.org/vision/stable/datasets.html

They lie as torchvision lays them, under `data_dir`, else $CVAE_DATA_DIR, else ~/.cache/cvae; what is there is not
downloaded again. Every factory takes (argument, data_dir, size) and raises a UsageError for an argument that it doesn't
take, and a CvaeError when there is no network or the copy is damaged. No pickle is read.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from cvae.data.dataset import Dataset, Split, refuse_argument
from cvae.data.images import resize
from cvae.errors import CvaeError, UsageError, near

TIMEOUT = 30.0
"""Seconds without an answer after which a download fails; torchvision itself would wait for ever."""

DIGITS = tuple("0123456789")

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_RECORDS = 10_000
"""Images in each of the six files."""


def mnist(argument: str, data_dir: Path | None, size: int | None) -> Dataset:
    """60,000 training and 10,000 test images of handwritten digits, grey, 28x28 or `size` x `size`."""
    refuse_argument("mnist", argument)
    terms = "Yann LeCun and Corinna Cortes, CC BY-SA 3.0, http://yann.lecun.com/exdb/mnist/"
    return _idx("mnist", datasets.MNIST, data_dir, size, DIGITS, terms)


def fashion_mnist(argument: str, data_dir: Path | None, size: int | None) -> Dataset:
    """60,000 training and 10,000 test images of clothing, grey, 28x28 or `size` x `size`."""
    refuse_argument("fashion-mnist", argument)
    terms = "Zalando SE, MIT licence, https://github.com/zalandoresearch/fashion-mnist"
    return _idx("fashion-mnist", datasets.FashionMNIST, data_dir, size, datasets.FashionMNIST.classes, terms)


def kmnist(argument: str, data_dir: Path | None, size: int | None) -> Dataset:
    """60,000 training and 10,000 test images of cursive Japanese, grey, 28x28 or `size` x `size`."""
    refuse_argument("kmnist", argument)
    terms = (
        "KMNIST Dataset (created by CODH), adapted from Kuzushiji Dataset (created by NIJL and others), "
        "doi:10.20676/00000341, CC BY-SA 4.0, http://codh.rois.ac.jp/kmnist/"
    )
    return _idx("kmnist", datasets.KMNIST, data_dir, size, datasets.KMNIST.classes, terms)


def emnist(argument: str, data_dir: Path | None, size: int | None) -> Dataset:
    """Handwritten letters and digits, grey, 28x28 or `size` x `size`: https://arxiv.org/abs/1702.05373

    `argument` is the selection: balanced (the default), letters, digits, mnist, byclass or bymerge.
    """
    selection = argument or "balanced"
    if selection not in datasets.EMNIST.splits:
        raise UsageError(f"--data 'emnist:{argument}': no such selection; {near(argument, datasets.EMNIST.splits)}")
    classes = datasets.EMNIST.classes_split_dict[selection]
    terms = (
        "G. Cohen, S. Afshar, J. Tapson and A. van Schaik, from NIST Special Database 19, terms: see "
        "https://www.nist.gov/itl/products-and-services/emnist-dataset"
    )
    dataset = _idx("emnist", datasets.EMNIST, data_dir, None, classes, terms, split=selection)

    def upright(split: Split | None) -> Split | None:
        if split is None or split.labels is None:
            return split
        # The files hold columns where MNIST's hold rows, and count the letters from 1, with "N/A" for 0.
        images = np.ascontiguousarray(split.images.transpose(0, 1, 3, 2))
        return Split(images=resize(images, size), labels=split.labels - (classes[0] == "N/A"))

    return dataset
