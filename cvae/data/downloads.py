"""Named sets, downloaded on first use by torchvision: https://docs.pytorch.org/vision/stable/datasets.html

They lie as torchvision lays them, under `data_dir`, else $CVAE_DATA_DIR, else ~/.cache/cvae; what is there is not
downloaded again, and of MNIST and its kin it is read without torchvision, whose import takes more than a second. Every
factory takes (argument, data_dir, size) and raises a UsageError for an argument that it doesn't take, and a CvaeError
when there is no network or the copy is damaged. No pickle is read.
"""

import math
import socket
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cvae.atomic import cache_root
from cvae.data.dataset import Dataset, Split, refuse_argument
from cvae.data.images import resize
from cvae.errors import CvaeError, MissingExtraError, UsageError, suggest

TIMEOUT = 30.0
"""Seconds without an answer after which a download fails; torchvision itself would wait for ever."""

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
ALL = sorted(string.digits + string.ascii_letters)
MERGED = sorted(set(ALL) - set("cijklmopsuvwxyz"))
"""Without the small letters that are written as the capitals are, and count as these."""
EMNIST = {
    "byclass": ALL,
    "bymerge": MERGED,
    "balanced": MERGED,
    "letters": list(string.ascii_lowercase),
    "digits": list(string.digits),
    "mnist": list(string.digits),
}
"""The classes of each selection."""

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_RECORDS = 10_000
"""Images in each of the six files."""
CIFAR10_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10_TEST = "test_batch"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def mnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """60,000 training and 10,000 test images of handwritten digits, grey, 28x28 or `size`."""
    refuse_argument("mnist", argument)
    terms = "Yann LeCun and Corinna Cortes, CC BY-SA 3.0, http://yann.lecun.com/exdb/mnist/"
    return _dataset("mnist", _idx("mnist", "MNIST", data_dir), size, DIGITS, terms)


def fashion_mnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """60,000 training and 10,000 test images of clothing, grey, 28x28 or `size`."""
    refuse_argument("fashion-mnist", argument)
    terms = "Zalando SE, MIT licence, https://github.com/zalandoresearch/fashion-mnist"
    return _dataset("fashion-mnist", _idx("fashion-mnist", "FashionMNIST", data_dir), size, FASHION, terms)


def kmnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """60,000 training and 10,000 test images of cursive Japanese, grey, 28x28 or `size`."""
    refuse_argument("kmnist", argument)
    terms = (
        "KMNIST Dataset (created by CODH), adapted from Kuzushiji Dataset (created by NIJL and others), "
        "doi:10.20676/00000341, CC BY-SA 4.0, http://codh.rois.ac.jp/kmnist/"
    )
    return _dataset("kmnist", _idx("kmnist", "KMNIST", data_dir), size, KUZUSHIJI, terms)


def emnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Handwritten letters and digits, grey, 28x28 or `size`: https://arxiv.org/abs/1702.05373

    `argument` is the selection: balanced (the default), letters, digits, mnist, byclass or bymerge.
    """
    selection = argument or "balanced"
    if selection not in EMNIST:
        raise UsageError(f"--data 'emnist:{argument}': no such selection; {suggest(argument, EMNIST)}")
    stems = {split: f"emnist-{selection}-{split}" for split in ("train", "test")}
    first = 1 if selection == "letters" else 0  # the letters are counted from 1
    arrays = {
        # The files hold columns where MNIST's hold rows.
        split: (images.transpose(0, 1, 3, 2), labels - first)
        for split, (images, labels) in _idx("emnist", "EMNIST", data_dir, stems, split=selection).items()
    }
    terms = (
        "G. Cohen, S. Afshar, J. Tapson and A. van Schaik, from NIST Special Database 19; for the terms see "
        "https://www.nist.gov/itl/products-and-services/emnist-dataset"
    )
    return _dataset("emnist", arrays, size, EMNIST[selection], terms)


def cifar10(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """50,000 training and 10,000 test photographs, colour, 32x32 or `size`.

    The binary version, in `cifar-10-batches-bin`: the usual one, which torchvision reads, is a pickle.
    """
    refuse_argument("cifar10", argument)
    root = cache_root(data_dir)
    files = [root / "cifar-10-batches-bin" / f"{stem}.bin" for stem in (*CIFAR10_TRAIN, CIFAR10_TEST)]
    if not all(file.is_file() for file in files):
        archive, pickled = root / "cifar-10-binary.tar.gz", root / "cifar-10-batches-py"
        if pickled.is_dir() and not archive.is_file():
            raise CvaeError(
                f"{str(pickled)!r} is not read: it is a pickle, which can run any code; put {archive.name} beside it, "
                f"from {CIFAR10_URL}, or choose another --data-dir, into which that is downloaded"
            )
        download_and_extract_archive = _torchvision("cifar10").utils.download_and_extract_archive
        with _downloading("cifar10", root):
            download_and_extract_archive(CIFAR10_URL, root, filename=archive.name, md5=CIFAR10_MD5)
    with _reading("cifar10", root):
        # A record is a byte for the label, then red, green and blue, each row by row.
        records = [np.fromfile(file, np.uint8).reshape(CIFAR10_RECORDS, 1 + 3 * 32 * 32) for file in files]
    train, test = np.concatenate(records[:-1]), records[-1]
    arrays = {
        split: (rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64))  # (N, 3072) -> (N, 3, 32, 32)
        for split, rows in (("train", train), ("test", test))
    }
    terms = "A. Krizhevsky, V. Nair and G. Hinton; for the terms see https://www.cs.toronto.edu/~kriz/cifar.html"
    return _dataset("cifar10", arrays, size, CIFAR10_CLASSES, terms)


def svhn(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """73,257 training and 26,032 test images of house number digits, colour, 32x32 or `size`."""
    refuse_argument("svhn", argument)
    root = cache_root(data_dir)
    reader = _reader(_torchvision("svhn").SVHN, "svhn")
    arrays = {}
    with _reading("svhn", root):
        for split in ("train", "test"):
            loaded = reader(root, split=split, download=True)
            arrays[split] = loaded.data, loaded.labels
    terms = (
        "Y. Netzer et al., Stanford University, for non-commercial use only, http://ufldl.stanford.edu/housenumbers/"
    )
    return _dataset("svhn", arrays, size, DIGITS, terms)


Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of "train" and "test": images (N, C, H, W) uint8, labels (N,) int64."""


def _dataset(name: str, arrays: Arrays, size: tuple[int, int] | None, classes: Sequence[str], terms: str) -> Dataset:
    train, test = (
        Split(images=resize(np.ascontiguousarray(images), size), labels=labels)
        for images, labels in (arrays["train"], arrays["test"])
    )
    return Dataset(name=name, train=train, test=test, classes=tuple(classes), terms=terms)


MNIST_STEMS = {"train": "train", "test": "t10k"}


def _idx(name: str, kind: str, data_dir: Path | None, stems: Mapping[str, str] = MNIST_STEMS, **options: str) -> Arrays:
    """MNIST or one of its kin, torchvision's class `kind`, whose files of a split begin with its stem."""
    root = cache_root(data_dir)
    files = {
        split: [root / kind / "raw" / f"{stem}-{content}-ubyte" for content in ("images-idx3", "labels-idx1")]
        for split, stem in stems.items()
    }
    if not all(file.is_file() for pair in files.values() for file in pair):
        reader = _reader(getattr(_torchvision(name), kind), name)
        with _reading(name, root):
            for train in (True, False):
                reader(root, train=train, download=True, **options)
    arrays = {}
    with _reading(name, root):
        for split, (images, labels) in files.items():
            # (N, H, W) -> (N, 1, H, W)
            arrays[split] = _read_idx(images, 3)[:, None], _read_idx(labels, 1).astype(np.int64)
    return arrays


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """http://yann.lecun.com/exdb/mnist/: a magic number that tells type and dimensions, the big-endian sizes, bytes."""
    header = np.fromfile(path, ">u4", 1 + dimensions).tolist()
    if len(header) <= dimensions or header[0] != 0x800 + dimensions:
        raise ValueError(f"{path.name} does not begin as bytes in {dimensions} dimensions do")
    content, shape = np.fromfile(path, np.uint8, offset=4 * len(header)), header[1:]
    if len(content) != math.prod(shape):
        raise ValueError(f"{path.name} has {len(content)} bytes for the shape {shape}")
    return content.reshape(shape)


def _torchvision(name: str) -> Any:
    """Its `datasets`, imported when it is wanted."""
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the data set {name!r}") from error
    return datasets


def _reader(base: Any, name: str) -> Any:
    """torchvision's `base`, with the errors of its download in one line, and without its taste for pickles."""

    def download(self: Any) -> None:
        with _downloading(name, Path(self.root)):
            base.download(self)

    # Called as its base is, for torchvision takes the folder's name from the class's. From the MNIST family it would
    # rather take `processed/training.pt`, left there by its early versions, than the files themselves.
    return type(base.__name__, (base,), {"download": download, "_check_legacy_exist": lambda self: False})


@contextmanager
def _downloading(name: str, root: Path) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    except Exception as error:  # from URLError over a wrong checksum to a disk that is full
        raise CvaeError(
            f"can't download {name!r} into {str(root)!r} ({_line(error)}); "
            "name a folder that holds it by --data-dir, or take the bundled set: --data digits"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _reading(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except CvaeError:
        raise
    except Exception as error:  # for a damaged file torchvision raises anything from AssertionError to KeyError
        raise CvaeError(
            f"the copy of {name!r} in {str(root)!r} is damaged ({_line(error)}); remove it, to have it downloaded anew"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
