"""Semi-supervised training: labels that are drawn from a classifier."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from engine_helpers import QUICK
from model_helpers import CONDITIONS, model_config

import cvae
from cvae.condition_rows import make_rows
from cvae.conditions import Condition
from cvae.config import Config, TrainConfig
from cvae.data.dataset import Dataset, Split
from cvae.engine import imputation
from cvae.engine.imputation import LabelClassifier
from cvae.engine.resolve import configure
from cvae.errors import UsageError
from cvae.models import build

LABEL = (Condition(name="label", kind="category", values=("a", "b", "c", "d"), optional=True),)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(imputation, "MIN_STEPS", 200)


def make_classifier(conditions):
    config = Config(
        cvae_version="0", data_license=None, model=model_config(conditions=conditions), training=QUICK, fingerprint=None
    )
    return LabelClassifier(config, Accelerator(cpu=True), model_steps=200)


@pytest.mark.parametrize("conditions", [LABEL, CONDITIONS], ids=["label", "several"])
def test_unknown_label_is_a_quantile_of_the_prediction(conditions):
    torch.manual_seed(0)
    classifier, embedding = make_classifier(conditions), build(model_config(conditions=conditions)).conditions
    image, random = torch.rand(12, 1, 8, 8), torch.rand(12)
    labels, known = np.arange(12) % 4, np.arange(12) % 3 == 0
    others = {"age": np.full(12, 9.0), "smiling": np.ones((12, 1)), "traits": np.zeros((12, 3))}
    name = conditions[0].name

    def rows(labels, known):
        flags = np.concatenate([known[:, None], np.ones((12, len(conditions) - 1), bool)], axis=1)
        return torch.from_numpy(make_rows(conditions, {name: labels, **others}, flags))

    share = classifier.network.logits(image).double().softmax(1).cumsum(1).numpy()
    expected = [np.searchsorted(share[i], random[i].item()) if not known[i] else labels[i] for i in range(12)]
    actual = classifier(embedding, image, rows(labels, known), random)
    assert torch.equal(actual, rows(np.minimum(expected, 3), np.ones(12, bool)))


def make_stripes(count):
    """Return images with two vertical or horizontal stripes, two pixels wide, and which of the two they have."""
    random = np.random.default_rng(0)
    is_vertical = np.arange(count) % 2
    images = random.normal(60, 20, (count, 8, 8))
    for image, vertical in zip(images, is_vertical, strict=True):
        (image.T if vertical else image)[(np.arange(8) + 2 * random.integers(2)) % 4 < 2] += 150
    return np.clip(images, 0, 255).astype(np.uint8), is_vertical


@pytest.mark.parametrize("mean_size", [1, 2])
def test_classifier_learns_from_few_labels(monkeypatch, mean_size):
    monkeypatch.setattr(imputation, "MAX_POSITIONS", 64 // mean_size**2)
    images, labels = make_stripes(600)
    known = np.where(np.arange(600) < 20, labels, 4)
    classifier = make_classifier(LABEL)
    splits = {
        "train": Split(images=images[:400, None], rows=known[:400]),
        "validation": Split(images=images[400:, None], rows=labels[400:]),
    }
    dataset = Dataset(name="stripes", **splits, test=None, classes=None, conditions=LABEL, data_license="none")
    [note] = classifier.prepare(dataset)
    outputs = classifier._logits(classifier.network, torch.from_numpy(images[20:, None]).float() / 255)
    assert (outputs.argmax(1).numpy() == labels[20:]).mean() > 0.9
    assert note.startswith("label is unknown for 380 of 400 images, and drawn from a classifier that is right for ")


@pytest.mark.integration
def test_run_with_unknown_labels_resumes_exactly(monkeypatch, tmp_path):
    images, labels = make_stripes(400)
    names = [["flat", "upright"][value] if i < 20 else None for i, value in enumerate(labels)]
    options = {
        "images": images, "conditions": {"label": names}, "condition": ["label:category"], "impute": True,
        "arch": "mlp", "latent_dim": 2, "prior": "normal", "batch_size": 20, "validation": 0, "warmup": 0,
        "schedule": "constant", "trackers": ["none"], "quiet": True,
    }  # fmt: skip
    run = cvae.train(epochs=12, out=tmp_path / "run", **options)
    model = run.load()
    generated = model.generate(16, label="upright", seed=0)
    assert generated.mean(axis=2).std() > generated.mean(axis=3).std()

    def stop(record):
        assert record["epoch"] < 2

    with pytest.raises(AssertionError):
        cvae.train(epochs=12, out=tmp_path / "part", on_epoch=stop, **options)
    monkeypatch.setattr(LabelClassifier, "prepare", None)  # a resumed run reads the classifier from its checkpoint
    part = cvae.resume(tmp_path / "part", images=images, conditions={"label": names}, quiet=True)
    assert part.metrics[-1]["train"] == run.metrics[-1]["train"]


def test_nothing_is_learned_if_all_labels_are_known():
    classifier = make_classifier(LABEL)
    train = Split(images=np.zeros((4, 1, 8, 8), np.uint8), rows=np.arange(4))
    dataset = Dataset(name="x", train=train, test=None, classes=None, conditions=LABEL, data_license="none")
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    assert classifier.prepare(dataset) == ["label is known for all images, so no label is imputed"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())


def test_data_without_a_known_label_are_rejected():
    train = Split(images=np.zeros((20, 1, 8, 8), np.uint8), rows=np.full(20, 4))
    dataset = Dataset(name="x", train=train, test=None, classes=None, conditions=LABEL, data_license="none")
    with pytest.raises(UsageError, match="--impute learns unknown labels from known ones, but no label is known"):
        configure(TrainConfig(conditional=True, impute=True), dataset)


@pytest.mark.parametrize("flag", ["balance", "impute"])
def test_data_without_classes_are_rejected(flag, tmp_path):
    images = np.zeros((20, 8, 8), np.uint8)
    with pytest.raises(UsageError, match=f"--{flag} needs images with classes"):
        cvae.train(images=images, arch="mlp", epochs=1, out=tmp_path / "run", quiet=True, **{flag: True})
