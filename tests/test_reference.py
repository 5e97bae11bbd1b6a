"""Figures that anyone can repeat, on real MNIST: minutes each, so by `make test-all` only."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_mnist

import cvae
from cvae import model_zoo
from cvae.config import TrainConfig, from_dict, read_recipe
from cvae.data import load_dataset
from cvae.engine import load_model

pytestmark = [pytest.mark.slow, needs_mnist]


def test_the_mlp_of_pytorchs_example_reaches_its_public_figure(tmp_path):
    """Public logs of https://github.com/pytorch/examples/tree/main/vae end near a test loss of 105.6 nats."""
    import json

    asked = from_dict(TrainConfig, {**read_recipe(model_zoo.recipes()["pytorch-vae"]), "data_dir": str(SHARED)})
    run = cvae.train(asked, tmp_path / "run", quiet=True)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test"]["bound"] <= 105.6


def test_the_zoos_digits_are_the_digits_asked_for(tmp_path, monkeypatch):
    """1,000 digits under a classifier trained on real MNIST, at least 99 % right there."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "label_fidelity.py"
    module_spec = importlib.util.spec_from_file_location("label_fidelity", path)
    assert module_spec and module_spec.loader
    benchmark = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(benchmark)
    monkeypatch.chdir(tmp_path)
    judge, accuracy = benchmark.classifier(str(SHARED))
    asked = np.arange(1000) % 10
    right = benchmark.predict(judge, cvae.load(model_zoo.DEFAULT).generate(1000, asked, seed=0)) == asked
    assert accuracy >= 0.99 and right.mean() >= 0.97


def test_the_zoos_card_tells_the_bound_of_its_weights():
    """On 2,000 test images, within three standard errors of the difference that the subset makes."""
    import torch

    folder = model_zoo.models()[model_zoo.DEFAULT]
    model, _ = load_model(folder)
    test = load_dataset(TrainConfig(data="mnist", data_dir=str(SHARED), validation=0.0)).test
    assert test is not None
    image, label = torch.from_numpy(test.images[:2000]).float() / 255, torch.from_numpy(test.labels[:2000])
    with torch.no_grad():
        distortion, rate, *_ = model(image, label)
    bound = distortion + rate.sum(1)
    assert "| 88.56 nats per image |" in (folder / "README.md").read_text()
    assert float(bound.mean()) == pytest.approx(88.56, abs=3 * float(bound.std()) / 2000**0.5)
