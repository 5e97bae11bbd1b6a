"""Zoo models: agreement between their files, cards and metrics."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import SHARED, needs_mnist

import cvae
from cvae import model_zoo
from cvae.config import Config, TrainConfig
from cvae.data import load_dataset
from cvae.evaluation.bounds import bounds
from cvae.evaluation.evaluate import evaluate
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.evaluation.feature_extractor import load_feature_extractor
from cvae.evaluation.generation import subsample
from cvae.evaluation.run_scorer import RunScorer
from cvae.recipes import read_recipe
from cvae.runtime.session import read_spec
from cvae.serialization import from_dict

ROOT = Path(__file__).resolve().parents[2]
MODELS = list(model_zoo.models())
for_each_model = pytest.mark.parametrize("name", MODELS)
for_each_mnist_model = pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mnist")])


def read_report(name: str) -> dict:
    return model_zoo.describe(name)["evaluation"]


def test_zoo_is_small_enough_to_clone():
    assert sum(model_zoo.describe(name)["bytes"] for name in MODELS) <= 88 * 2**20


@for_each_model
def test_model_was_trained_with_its_recipe(name):
    recipe, trained = read_recipe(model_zoo.recipe(name)), Config.read(model_zoo.model(name) / "config.json")
    config = from_dict(TrainConfig, recipe)
    for key in recipe.keys() - {"options"}:
        assert getattr(trained.training, key) == getattr(config, key), key
    built = {
        "arch": trained.model.architecture.options,
        "prior": trained.model.prior.options,
        **trained.training.options,
    }
    for part, options in recipe.get("options", {}).items():
        assert options.items() <= built[part].items()


@for_each_model
def test_files_of_a_model_belong_together(name):
    folder = model_zoo.model(name)
    weights = folder / "model.safetensors"  # missing in a large model
    specs = {role: read_spec(folder / f"{role}.onnx") for role in ("decoder", "encoder")}
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else specs["encoder"][0].weights
    for spec, data in specs.values():
        assert (spec.weights, spec.name) == (digest, name)
        assert spec.license == ("Apache-2.0" if name.startswith("mnist") else "research use only")
        assert spec.agreement["max_abs_difference"] <= 1e-5
        # Stack traces, which torch puts into a graph, would reveal local paths.
        assert b"site-packages" not in data and not re.search(rb"\w{4}\.py\b", data) and bytes(ROOT) not in data
    assert Config.read(folder / "config.json").training.data_dir is None


@for_each_model
def test_card_lists_every_metric_of_the_evaluation(name):
    report, card = read_report(name), (model_zoo.model(name) / "README.md").read_text("utf-8")
    assert report["model"] == name and {"bound", "reconstruction"} <= report.keys()
    for part in {"bound", "importance_weighted", "reconstruction", "generated"} & report.keys():
        for metric in report[part]:
            assert f"| {part.replace('_', ' ')}: {metric.replace('_', ' ')} | " in card
    assert f"{report['reconstruction']['psnr']:.2f}" in card and f"cvae train --recipe {name}" in card


@for_each_mnist_model
def test_best_bound_on_the_card_is_that_of_all_test_images(name):
    report, card = read_report(name), (model_zoo.model(name) / "README.md").read_text("utf-8")
    bound = report.get("importance_weighted", report["bound"])  # evaluating the former takes hours for a large model
    assert report["protocol"]["images"] == 10_000 and f"{bound['nats']:.2f}" in card


@pytest.mark.integration
@needs_mnist
@for_each_mnist_model
def test_bound_of_a_model_agrees_with_its_card(name):
    """The bound is computed on 400 test images, and agrees within four standard errors."""
    folder, report = model_zoo.model(name), read_report(name)
    data = replace(Config.read(folder / "config.json").training, data_dir=str(SHARED))
    actual = evaluate(RunScorer(folder, "cpu"), data, limit=400, generated=0)
    error = actual["bound"]["standard_error"]
    assert actual["bound"]["nats"] == pytest.approx(report["bound"]["nats"], abs=4 * error)
    assert actual["reconstruction"]["psnr"] == pytest.approx(report["reconstruction"]["psnr"], rel=0.02)


@pytest.mark.slow
@pytest.mark.integration
@needs_mnist
@for_each_mnist_model
def test_bound_of_exported_files_is_close_to_that_of_the_run(name):
    """If the prior is a flow, the bound of the exported files is looser."""
    folder = model_zoo.model(name)
    data = replace(Config.read(folder / "config.json").training, data_dir=str(SHARED))
    test = subsample(load_dataset(data).test, 50)
    labels = test.labels if data.conditional else None
    exported_bound, run_bound = (
        bounds(scorer, test.images, labels, samples=50).importance_weighted.mean()
        for scorer in (ExportedScorer(cvae.load(folder)), RunScorer(folder, "cpu"))
    )
    assert -0.5 < exported_bound - run_bound < 40


def test_default_model_generates_the_requested_digits():
    """The bundled classifier classifies 99.5 % of the real test images correctly."""
    labels = np.arange(1000) % 10
    images = cvae.load().generate(1000, labels, seed=0)
    assert (load_feature_extractor("mnist").predict(images) == labels).mean() >= 0.98
    assert json.loads((model_zoo.model(model_zoo.DEFAULT) / "evaluation.json").read_text())["labels"]


def test_zoo_show_prints_a_recipe_and_its_data_requirements_if_there_is_no_model(cvae):
    page = cvae("zoo", "show", "cars").out
    assert "Provide images in the folders cars/train" in page and 'data = "folder:cars"' in page
