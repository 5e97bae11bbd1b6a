"""Public data sets, downloaded on first use by torchvision: https://docs.pytorch.org/vision/stable/datasets.html

They are stored in torchvision's layout under `data_dir`, else $CVAE_DATA_DIR, else ~/.cache/cvae. Existing files are
not downloaded again. MNIST and its variants are read without torchvision, whose import takes more than a second. Every
factory takes (argument, data_dir, size). It raises a UsageError if it does not accept the argument, and a CvaeError if
there is no network or a file is damaged. No pickle is read.
"""

import gzip
import math
import socket
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from cvae.atomic import ReadOnlyFolder, cache_root, check_writable
from cvae.data.dataset import Dataset, Split, refuse_argument
from cvae.data.images import resize
from cvae.errors import CvaeError, MissingExtraError, UsageError, suggest

TIMEOUT = 30.0
"""Number of seconds to wait for a response before a download fails. torchvision would wait forever."""

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
ALL_CHARACTERS = sorted(string.digits + string.ascii_letters)
MERGED_CHARACTERS = sorted(set(ALL_CHARACTERS) - set("cijklmopsuvwxyz"))
"""Digits and letters, without the lower-case letters that EMNIST merges with capitals of the same shape."""

EMNIST_CLASSES = {
    "byclass": ALL_CHARACTERS,
    "bymerge": MERGED_CHARACTERS,
    "balanced": MERGED_CHARACTERS,
    "letters": list(string.ascii_lowercase),
    "digits": list(string.digits),
    "mnist": list(string.digits),
}
"""Classes of each variant of EMNIST."""

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_RECORDS = 10_000
"""Number of images in each of the six files."""

CIFAR10_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10_TEST = "test_batch"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def mnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load 60,000 training and 10,000 test images of handwritten digits, grey, 28x28 or `size`."""
    refuse_argument("mnist", argument)
    data_license = "Yann LeCun and Corinna Cortes, CC BY-SA 3.0, http://yann.lecun.com/exdb/mnist/"
    return _create_dataset("mnist", _load_idx("mnist", "MNIST", data_dir), size, DIGITS, data_license)


def fashion_mnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load 60,000 training and 10,000 test images of clothing, grey, 28x28 or `size`."""
    refuse_argument("fashion-mnist", argument)
    data_license = "Zalando SE, MIT license, https://github.com/zalandoresearch/fashion-mnist"
    return _create_dataset(
        "fashion-mnist", _load_idx("fashion-mnist", "FashionMNIST", data_dir), size, FASHION, data_license
    )


def kmnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load 60,000 training and 10,000 test images of cursive Japanese characters, grey, 28x28 or `size`."""
    refuse_argument("kmnist", argument)
    data_license = (
        "KMNIST Dataset (created by CODH), adapted from Kuzushiji Dataset (created by NIJL and others), "
        "doi:10.20676/00000341, CC BY-SA 4.0, http://codh.rois.ac.jp/kmnist/"
    )
    return _create_dataset("kmnist", _load_idx("kmnist", "KMNIST", data_dir), size, KUZUSHIJI, data_license)


def emnist(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load handwritten letters and digits, grey, 28x28 or `size`: https://arxiv.org/abs/1702.05373

    `argument` is the variant: balanced (the default), letters, digits, mnist, byclass or bymerge.
    """
    variant = argument or "balanced"
    if variant not in EMNIST_CLASSES:
        raise UsageError(f"--data 'emnist:{argument}': no such variant; {suggest(argument, EMNIST_CLASSES)}")
    stems = {split: f"emnist-{variant}-{split}" for split in ("train", "test")}
    first_label = 1 if variant == "letters" else 0  # the labels of letters start at 1
    arrays = {
        # EMNIST stores images column by column, unlike MNIST.
        split: (images.transpose(0, 1, 3, 2), labels - first_label)
        for split, (images, labels) in _load_idx("emnist", "EMNIST", data_dir, stems, split=variant).items()
    }
    data_license = (
        "G. Cohen, S. Afshar, J. Tapson and A. van Schaik, from NIST Special Database 19; for the terms see "
        "https://www.nist.gov/itl/products-and-services/emnist-dataset"
    )
    return _create_dataset("emnist", arrays, size, EMNIST_CLASSES[variant], data_license)


def cifar10(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load 50,000 training and 10,000 test photographs, colour, 32x32 or `size`.

    The folder is `cifar-10-batches-bin`, the binary version. torchvision reads the Python version, which is a pickle.
    """
    refuse_argument("cifar10", argument)
    root = cache_root(data_dir)
    files = [root / "cifar-10-batches-bin" / f"{stem}.bin" for stem in (*CIFAR10_TRAIN, CIFAR10_TEST)]
    if not all(file.is_file() for file in files):
        archive, pickled = root / "cifar-10-binary.tar.gz", root / "cifar-10-batches-py"
        if pickled.is_dir() and not archive.is_file():
            raise CvaeError(
                f"{str(pickled)!r} is not read, because it contains pickles, which can run any code; put "
                f"{archive.name} from {CIFAR10_URL} next to it, or choose another --data-dir to download it there"
            )
        download_and_extract_archive = _import_datasets("cifar10").utils.download_and_extract_archive
        with _convert_download_errors("cifar10", root):
            download_and_extract_archive(CIFAR10_URL, root, filename=archive.name, md5=CIFAR10_MD5)
    with _convert_read_errors("cifar10", root):
        # A record is one byte for the label, then the red, green and blue planes, each row by row.
        records = [np.fromfile(file, np.uint8).reshape(CIFAR10_RECORDS, 1 + 3 * 32 * 32) for file in files]
    train, test = np.concatenate(records[:-1]), records[-1]
    arrays = {
        split: (batch[:, 1:].reshape(-1, 3, 32, 32), batch[:, 0].astype(np.int64))  # (N, 3072) -> (N, 3, 32, 32)
        for split, batch in (("train", train), ("test", test))
    }
    data_license = "A. Krizhevsky, V. Nair and G. Hinton; for the terms see https://www.cs.toronto.edu/~kriz/cifar.html"
    return _create_dataset("cifar10", arrays, size, CIFAR10_CLASSES, data_license)


def svhn(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """Load 73,257 training and 26,032 test images of house number digits, colour, 32x32 or `size`."""
    refuse_argument("svhn", argument)
    root = cache_root(data_dir)
    reader = _create_reader(_import_datasets("svhn").SVHN, "svhn")
    arrays = {}
    with _convert_read_errors("svhn", root):
        for split in ("train", "test"):
            loaded = reader(root, split=split, download=True)
            arrays[split] = loaded.data, loaded.labels
    data_license = (
        "Y. Netzer et al., Stanford University, for non-commercial use only, http://ufldl.stanford.edu/housenumbers/"
    )
    return _create_dataset("svhn", arrays, size, DIGITS, data_license)


Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images (N, C, H, W) uint8 and labels (N,) int64, keyed by the split: "train" or "test"."""


def _create_dataset(
    name: str, arrays: Arrays, size: tuple[int, int] | None, classes: Sequence[str], data_license: str
) -> Dataset:
    train, test = (
        Split(images=resize(np.ascontiguousarray(images), size), labels=labels)
        for images, labels in (arrays["train"], arrays["test"])
    )
    return Dataset(name=name, train=train, test=test, classes=tuple(classes), data_license=data_license)


MAX_IDX_BYTES = 2**30
"""Maximum size of the data of an IDX file. The largest data set, EMNIST, has 547 MB."""

MNIST_STEMS = {"train": "train", "test": "t10k"}
"""Prefix of each split's file names."""


def _load_idx(
    name: str, class_name: str, data_dir: Path | None, stems: Mapping[str, str] = MNIST_STEMS, **options: str
) -> Arrays:
    """Load MNIST or a variant of it, downloading it if needed.

    Args:
        name: name of the data set.
        class_name: name of the class in torchvision.
        data_dir: folder for data sets; None for the default.
        stems: prefix of each split's file names.
        **options: additional arguments for the torchvision class.
    """
    root = cache_root(data_dir)
    files = {
        split: [root / class_name / "raw" / f"{stem}-{content}-ubyte" for content in ("images-idx3", "labels-idx1")]
        for split, stem in stems.items()
    }
    missing = [file for pair in files.values() for file in pair if not (file.is_file() or _compressed(file).is_file())]
    if missing:
        reader = _create_reader(getattr(_import_datasets(name), class_name), name)
        with _convert_read_errors(name, root):
            for train in (True, False):
                try:
                    reader(root, train=train, download=True, **options)
                except CvaeError as error:
                    raise CvaeError(f"there is no file {str(missing[0])!r} or {missing[0].name}.gz; {error}") from error
    arrays = {}
    with _convert_read_errors(name, root):
        for split, (images, labels) in files.items():
            # (N, H, W) -> (N, 1, H, W)
            arrays[split] = _read_idx(images, 3)[:, None], _read_idx(labels, 1).astype(np.int64)
    return arrays


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes: http://yann.lecun.com/exdb/mnist/

    It contains a magic number for the type and the number of dimensions, the size of each dimension, and the data.
    The magic number and the sizes are big-endian.
    """
    with path.open("rb") if path.is_file() else gzip.open(_compressed(path)) as file:
        start = file.read(4 * (1 + dimensions))
        header = np.frombuffer(start, ">u4").tolist() if len(start) == 4 * (1 + dimensions) else [0]
        if header[0] != 0x800 + dimensions:
            raise ValueError(
                f"{path.name} does not begin with the magic number of a {dimensions}-dimensional array of bytes"
            )
        shape, size = header[1:], math.prod(header[1:])
        if size > MAX_IDX_BYTES:
            raise ValueError(f"{path.name} claims to have {size:,} bytes; the limit is {MAX_IDX_BYTES:,}")
        content = file.read(size + 1)  # a compressed file may hold any number of bytes
    if len(content) != size:
        count = f"more than {size:,}" if len(content) > size else f"{len(content):,}"
        raise ValueError(f"{path.name} has {count} bytes of data for shape {shape}")
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)


def _compressed(path: Path) -> Path:
    """Return the path of a file as it is downloaded, compressed by gzip."""
    return path.with_name(f"{path.name}.gz")


def _import_datasets(name: str) -> Any:
    """Import `torchvision.datasets`, which takes more than a second."""
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the data set {name!r}") from error
    return datasets


def _create_reader(base: Any, name: str) -> Any:
    """Return a subclass of torchvision's `base` that reports download errors in one line and never reads a pickle."""

    def download(self: Any) -> None:
        root = Path(self.root)
        folders = [root / base.__name__ / "raw", root / base.__name__, root]
        created = [folder for folder in folders if not folder.exists()]
        try:
            with _convert_download_errors(name, root):
                base.download(self)
        finally:
            with suppress(OSError):  # they are not empty if a file was downloaded
                for folder in created:
                    folder.rmdir()

    # The subclass has the name of its base, because torchvision names the folder after the class.
    # `_check_legacy_exist` would make the MNIST classes prefer `processed/training.pt`, a pickle from early versions.
    return type(base.__name__, (base,), {"download": download, "_check_legacy_exist": lambda self: False})


@contextmanager
def _convert_download_errors(name: str, root: Path) -> Iterator[None]:
    check_writable(root)
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    except Exception as error:  # anything from URLError to a wrong checksum or a full disk
        raise CvaeError(
            f"can't download {name!r} into {str(root)!r} ({_describe(error)}); "
            "set --data-dir to a folder that contains it, or use the bundled data set: --data mnist-small"
        ) from error
    finally:
        socket.setdefaulttimeout(previous)


@contextmanager
def _convert_read_errors(name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except (CvaeError, ReadOnlyFolder):
        raise
    except Exception as error:  # for a damaged file torchvision raises anything from AssertionError to KeyError
        raise CvaeError(
            f"the copy of {name!r} in {str(root)!r} is damaged ({_describe(error)}); remove it to download it again"
        ) from error


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
