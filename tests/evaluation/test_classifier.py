"""The classifier that is trained for an evaluation: its augmentation, its training and its cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

import cvae
from cvae.api.classifier import train_extractor
from cvae.config import DataConfig
from cvae.data import list_conditions, load_dataset
from cvae.engine.strong_augmentation import augment
from cvae.errors import UsageError
from cvae.evaluation.run_scorer import classifier as classifier_module
from cvae.evaluation.run_scorer.classifier import Classifier, fit, predict


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 48), (3, 7, 5)])
def test_augmentation_changes_every_image_in_its_own_way(shape):
    torch.manual_seed(0)
    image = torch.rand(shape).expand(16, *shape)
    changed = augment(image, flip=shape[0] == 3)
    assert changed.shape == image.shape and changed.min() >= 0 and changed.max() <= 1
    distance = (changed[:, None] - changed).abs().flatten(2).mean(2)
    assert distance[~torch.eye(16, dtype=torch.bool)].min() > 1e-3


@pytest.mark.parametrize(("flip", "share"), [(False, 0), (True, 0.5)])
def test_half_of_the_images_are_flipped(flip, share):
    """The left half is white: in an image that is not flipped, it stays lighter than the right half."""
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 16, 16)
    image[..., :8] = 1
    changed = augment(image, flip=flip)
    darker = (changed[..., :8].mean((1, 2, 3)) < changed[..., 8:].mean((1, 2, 3))).float().mean()
    assert darker == pytest.approx(share, abs=0.15)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 96), (3, 256, 200)])
def test_classifier_takes_images_of_any_size(shape):
    logits, features = Classifier(shape, 5).eval()(torch.rand(2, *shape))
    assert logits.shape == (2, 5) and features.shape == (2, 128)


@pytest.fixture
def short_training(monkeypatch):
    monkeypatch.setattr(classifier_module, "MIN_STEPS", 60)
    monkeypatch.setattr(classifier_module, "MIN_EPOCHS", 1)
    monkeypatch.setattr(classifier_module, "WARMUP", 10)


@pytest.mark.integration
def test_classifier_learns_to_recognize_digits(short_training):
    digits = load_dataset(DataConfig(data="digits"))
    model = fit(digits.train.images[:], digits.train.labels, list_conditions(digits))
    assert (predict(model, digits.test.images[:]).argmax(1) == digits.test.labels).mean() > 0.5  # chance is 0.1


@pytest.mark.integration
def test_trained_classifier_is_cached_for_its_data(tmp_path, short_training, monkeypatch):
    config = DataConfig(data="digits", data_dir=str(tmp_path))
    calls = []
    extractor = train_extractor(config, progress=lambda *args: calls.append(args))
    assert calls and extractor.image_shape == (1, 8, 8) and extractor.classes == tuple("0123456789")
    digits = load_dataset(config)
    images = digits.test.images[:].astype(np.float32) / 255
    assert extractor.accuracy == pytest.approx((extractor.predict(images) == digits.test.labels).mean(), abs=0.01)

    (file,) = (tmp_path / "classifiers").glob("*.onnx")
    monkeypatch.setattr(classifier_module, "fit", None)  # the classifier is not trained again
    again = train_extractor(DataConfig(data="digits", data_dir=str(tmp_path), validation=0.2, binarize="static"))
    assert again.name == extractor.name and "sha256" in again.name
    np.testing.assert_array_equal(again.features(images[:5]), extractor.features(images[:5]))
    with pytest.raises(TypeError):  # other classes need another classifier
        train_extractor(DataConfig(data="digits", data_dir=str(tmp_path), without=("3",)))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TypeError):  # a damaged file is replaced
        train_extractor(config)


@pytest.mark.integration
def test_exported_classifier_computes_the_same_as_torch(tmp_path, short_training, monkeypatch):
    models = []
    monkeypatch.setattr(
        classifier_module, "fit", lambda *args, **kwargs: models.append(fit(*args, **kwargs)) or models[0]
    )
    extractor = train_extractor(DataConfig(data="digits", data_dir=str(tmp_path)))
    images = np.random.default_rng(0).random((7, 1, 8, 8), np.float32)
    with torch.inference_mode():
        logits, features = models[0](torch.from_numpy(images))
    np.testing.assert_allclose(extractor.features(images), features, atol=1e-4)
    np.testing.assert_array_equal(extractor.predict(images), logits.argmax(1))


def test_classifier_requires_labels(tmp_path):
    np.savez(tmp_path / "set.npz", train=np.zeros((30, 8, 8), np.uint8), test=np.zeros((9, 8, 8), np.uint8))
    with pytest.raises(UsageError, match="no labels that a classifier can learn; remove --features trained"):
        train_extractor(DataConfig(data=f"npz:{tmp_path / 'set.npz'}", data_dir=str(tmp_path)))
    assert not Path(tmp_path / "classifiers").exists()


@pytest.mark.integration
def test_evaluation_uses_the_trained_classifier(trained, tmp_path, short_training):
    notes = []
    report = cvae.evaluate(
        trained["labels"], features="trained", data_dir=str(tmp_path), generated=200, limit=20, note=notes.append
    )
    generated, labels = report["generated"], report["labels"]
    assert generated["features"].startswith("classifier trained on digits, sha256 ") and generated["images"] == 200
    assert generated["accuracy_of_the_classifier"] == labels["label_accuracy_of_real_images"] > 0.3
    assert 0.1 < labels["label_accuracy"] <= 1
    assert {"frechet", "density", "coverage", "precision", "recall", "memorization", "sharpness"} < set(generated)
    assert any("training a classifier on 1,438 images" in note for note in notes)

    images = np.zeros((30, 8, 8), np.uint8)
    np.savez(tmp_path / "set.npz", train=images, test=images)
    with pytest.raises(UsageError, match="no labels"):  # before anything is trained
        cvae.evaluate(trained["plain"], features="trained", data=f"npz:{tmp_path / 'set.npz'}", data_dir=str(tmp_path))
