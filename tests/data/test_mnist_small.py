"""The subset of MNIST that comes with the package."""

import numpy as np
import pytest
from helpers import SHARED, assert_load_fails, load_data, needs_mnist

from cvae.config import TrainConfig
from cvae.data import mnist_small
from cvae.evaluation.feature_extractor import load_feature_extractor


def test_classes_are_balanced() -> None:
    dataset = load_data("mnist-small", validation=0)
    assert dataset.train.images.shape == (10_000, 1, 28, 28)
    assert dataset.test is not None and dataset.test.images.shape == (2_000, 1, 28, 28)
    assert np.bincount(dataset.train.labels).tolist() == [1_000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [200] * 10
    assert dataset.classes == tuple("0123456789")


def test_train_command_uses_mnist_small_by_default() -> None:
    assert TrainConfig.data == "mnist-small"


def test_bundled_file_has_at_most_2_5_mb() -> None:
    assert mnist_small.FILE.stat().st_size <= 2.5e6


@needs_mnist
def test_images_and_labels_agree_with_mnist() -> None:
    small, full = load_data("mnist-small", validation=0), load_data("mnist", data_dir=str(SHARED), validation=0)
    for split in ("train", "test"):
        small_split, full_split = getattr(small, split), getattr(full, split)
        labels = {
            image.tobytes(): int(label) for image, label in zip(full_split.images[:], full_split.labels, strict=True)
        }
        # Each image must come from the corresponding split of MNIST.
        true_labels = [labels[image.tobytes()] for image in small_split.images[:]]
        assert true_labels == small_split.labels.tolist()
        assert len({image.tobytes() for image in small_split.images[:]}) == len(true_labels)


def test_bundled_classifier_recognizes_test_digits() -> None:
    dataset = load_data("mnist-small", validation=0)
    assert dataset.test is not None
    extractor = load_feature_extractor("mnist-small")
    predictions = extractor.predict(dataset.test.images[:].astype(np.float32) / 255)
    assert np.mean(predictions == dataset.test.labels) > 0.98


def test_data_set_name_with_an_argument_is_rejected() -> None:
    assert_load_fails("mnist-small:x", "'mnist-small' takes no argument")


@pytest.mark.parametrize("size", [14, "20x24"])
def test_images_are_resized(size: int | str) -> None:
    shape = load_data("mnist-small", size=size, validation=0).train.images.shape
    assert shape == ((10_000, 1, 14, 14) if size == 14 else (10_000, 1, 20, 24))
