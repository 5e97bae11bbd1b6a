"""Data sets of real images, compared with the files that they are read from."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from helpers import load_data
from PIL import Image


@pytest.fixture
def shared() -> Path:
    path = Path(__file__).parents[2].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no data at {path}")
    return path


class TestDigits:
    def test_digits_equal_those_of_scikit_learn(self) -> None:
        truth = sklearn.datasets.load_digits()
        digits = load_data("digits", validation=0)
        assert digits.test is not None and (len(digits.train), len(digits.test)) == (1438, 359)
        assert digits.classes == tuple("0123456789")
        images = np.concatenate([digits.train.images, digits.test.images])
        labels = np.concatenate([digits.train.labels, digits.test.labels])
        assert images.shape == (1797, 1, 8, 8) and (images.min(), images.max()) == (0, 255)
        actual = sorted((int(label), *np.rint(x.ravel() * (16 / 255))) for x, label in zip(images, labels, strict=True))
        assert actual == sorted((int(label), *x.ravel()) for x, label in zip(truth.images, truth.target, strict=True))
        # A change here makes metrics on the test split incomparable with those of earlier versions.
        assert digits.test.labels is not None and digits.test.labels[:5].tolist() == [8, 8, 9, 8, 3]

    def test_digits_can_be_enlarged(self) -> None:
        small, large = load_data("digits"), load_data("digits", size=28)
        assert large.train.images.shape == (1294, 1, 28, 28)
        assert np.array_equal(small.train.labels, large.train.labels)  # type: ignore[arg-type]
        means = [x.train.images.mean((1, 2, 3)) for x in (small, large)]
        assert np.corrcoef(*means)[0, 1] > 0.99


class TestRealData:
    def test_mnist_equals_its_raw_files(self, shared: Path) -> None:
        mnist = load_data("mnist", data_dir=str(shared), validation=0)
        raw = shared / "MNIST" / "raw"
        for split, stem in ((mnist.train, "train"), (mnist.test, "t10k")):
            assert split is not None and split.labels is not None
            images = np.frombuffer((raw / f"{stem}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
            labels = np.frombuffer((raw / f"{stem}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
            assert np.array_equal(split.images, images.reshape(-1, 1, 28, 28))
            assert np.array_equal(split.labels, labels) and split.labels.dtype == np.int64
        assert mnist.train.labels is not None and mnist.test is not None and mnist.test.labels is not None
        assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
        counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert np.bincount(mnist.train.labels).tolist() == counts
        assert np.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert mnist.classes == tuple("0123456789") and "CC BY-SA 3.0" in mnist.data_license

    def test_packed_binary_mnist_agrees_with_mnist(self, shared: Path) -> None:
        path = shared / "mnist_static_binarized.npz"
        packed = load_data(f"npz:{path}", conditional=True)
        splits = packed.train, packed.validation, packed.test
        assert [split and split.images.shape for split in splits] == [(n, 1, 28, 28) for n in (50_000, 10_000, 10_000)]
        mnist = load_data("mnist", data_dir=str(shared), validation=0)
        with np.load(path) as archive:
            indices = [archive[f"{key}_index"] for key in ("train", "valid", "test")]
        for split, source, index in zip(splits, (mnist.train, mnist.train, mnist.test), indices, strict=True):
            assert split is not None and source is not None and source.labels is not None
            assert np.array_equal(split.labels, source.labels[index])  # type: ignore[arg-type]
            grey = source.images[index]  # black and white pixels are unchanged
            assert not split.images[grey == 0].any() and (split.images[grey == 255] == 255).all()

    def test_folder_of_cars_is_read_with_its_classes(self, shared: Path) -> None:
        cars = load_data(f"folder:{shared / 'cars' / 'test'}", size=32, validation=0)
        files = sorted((shared / "cars" / "test").glob("*/*.jpg"))
        assert cars.classes == tuple(sorted({file.parent.name for file in files}))
        assert [cars.classes[i] for i in cars.train.labels] == [file.parent.name for file in files]  # type: ignore[union-attr]
        with Image.open(files[0]) as image:
            left = (image.width - image.height) // 2
            square = image.crop((left, 0, left + image.height, image.height)).resize((32, 32), Image.Resampling.BOX)
        assert abs(cars.train.images[0] - np.asarray(square, float).transpose(2, 0, 1)).mean() < 6
