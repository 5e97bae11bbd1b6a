"""Files that training writes: metrics, weights and sample images."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import QUICK, have_equal_tensors, load_weights, read_records
from PIL import Image

from cvae.config import Config
from cvae.data import load_dataset
from cvae.engine import load_model, train
from cvae.engine.batches import Batches
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.validation import Validator
from cvae.errors import CvaeError, UsageError
from cvae.evaluation.bounds import bounds
from cvae.evaluation.run_scorer import RunScorer
from cvae.models import VAE


def test_run_folder_contains_the_documented_files(quick_run):
    assert {entry.name for entry in quick_run.iterdir()} == {
        "config.json",
        "model.safetensors",
        "last",
        "metrics.jsonl",
        "samples",
        "samples.png",
        "reconstructions.png",
    }
    assert len(list((quick_run / "last").glob("*.safetensors"))) == len(list((quick_run / "last").glob("*.json"))) == 2
    assert not [path for path in quick_run.rglob("*") if ".tmp" in path.name]


def test_bound_decreases_and_is_the_sum_of_its_terms(quick_run):
    *epochs, test = read_records(quick_run)
    bounds = [record["validation"]["bound"] for record in epochs]
    assert bounds == sorted(bounds, reverse=True)
    for metrics in [record[split] for record in epochs for split in ("train", "validation")] + [test["test"]]:
        assert metrics["bound"] == pytest.approx(metrics["distortion"] + metrics["rate"])


def test_test_bound_is_computed_from_the_saved_weights(quick_run):
    """The expected bound is recomputed from the files of the run, and averaged over 100 samples of the noise."""
    model, config = load_model(quick_run)
    test = load_dataset(config.training).test
    image, label = torch.from_numpy(test.images).float() / 255, torch.from_numpy(test.labels)
    torch.manual_seed(5)
    with torch.no_grad():
        terms = [model(image, label) for _ in range(100)]
    bounds = torch.stack([distortion.mean() + rate.sum(1).mean() for distortion, rate, *_ in terms])
    assert read_records(quick_run)[-1]["test"]["bound"] == pytest.approx(
        float(bounds.mean()), abs=4 * float(bounds.std())
    )


@pytest.mark.integration
@pytest.mark.parametrize("tighter_bound", [None, "importance_weighted"])
def test_saved_weights_have_the_best_validation_bound(tmp_path, monkeypatch, tighter_bound):
    """The second of three epochs has the best bound. An importance-weighted bound takes precedence over the ELBO."""
    scores, states = iter([3.0, 1.0, 2.0, 0.0]), []

    def fake_evaluate(validator: Validator, model: VAE, batches: Batches) -> dict[str, float]:
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        metrics = {"distortion": 0.0, "rate": 0.0, "bound": float(len(states))}
        return {**metrics, tighter_bound or "bound": next(scores)}

    monkeypatch.setattr(Validator, "evaluate", fake_evaluate)
    saved = load_weights(train(QUICK, tmp_path / "run", quiet=True))
    assert have_equal_tensors(saved, states[1])
    assert not have_equal_tensors(saved, states[2])


@pytest.mark.integration
def test_iwae_run_is_validated_on_its_importance_weighted_bound(tmp_path):
    objective = {"objective": {"samples": 8}}
    # Under a flow prior, single samples far from the training images make the mean bound vary by several nats.
    config = replace(QUICK, prior="normal", objective="iwae", options=QUICK.options | objective)
    run = train(config, tmp_path / "run", quiet=True)
    *epochs, test = read_records(run)
    scorer, images = RunScorer(run, "cpu"), load_dataset(Config.read(run / "config.json").training).test
    expected = bounds(scorer, images.images, images.labels, samples=8)
    assert test["test"]["importance_weighted"] == pytest.approx(expected.importance_weighted.mean(), abs=0.2)
    assert test["test"]["bound"] == pytest.approx(expected.bound.mean(), abs=0.4)
    for record in epochs:
        assert record["validation"]["importance_weighted"] < record["validation"]["bound"]


def test_sample_images_show_classes_and_reconstructions(quick_run):
    with Image.open(quick_run / "samples" / "epoch-0003-samples.png") as samples:
        assert samples.size == (8 * 9 - 1, 10 * 9 - 1)  # 8 columns and 10 rows of 8x8 images, with gaps of one pixel
    with Image.open(quick_run / "samples" / "epoch-0003-reconstructions.png") as image:
        pairs = np.asarray(image)
    assert pairs.shape == (2 * 9 - 1, 8 * 9 - 1)
    validation = load_dataset(QUICK).validation.images
    assert (pairs[:8, :8] == validation[0, 0]).all()
    assert pairs[9:].std() > 20
    initial = {path.name for path in (quick_run / "samples").glob("epoch-0000-*")}  # images of the untrained network
    assert initial == {f"epoch-0000-{name}.png" for name in ("interpolations", "reconstructions", "samples")}


def test_sample_images_interpolate_between_two_images_of_a_class(quick_run):
    with Image.open(quick_run / "samples" / "epoch-0003-samples.png") as image:
        samples = np.asarray(image)
    with Image.open(quick_run / "samples" / "epoch-0003-interpolations.png") as image:
        interpolations = np.asarray(image)
    assert interpolations.shape == samples.shape
    assert np.abs(interpolations[:, :8].astype(int) - samples[:, :8]).max() <= 1  # starts at the first column
    assert np.abs(interpolations[:, -8:].astype(int) - samples[:, 9:17]).max() <= 1  # ends at the second column
    assert (interpolations[:, 36:44] != interpolations[:, :8]).any()


@pytest.mark.integration
def test_sample_images_of_a_single_class_have_one_row(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(40, np.int64))
    run = train(replace(QUICK, data=f"npz:{tmp_path / 'one.npz'}", limit=None, epochs=1), tmp_path / "run", quiet=True)
    sizes = {}
    for name in ("samples", "interpolations", "reconstructions"):
        with Image.open(run / "samples" / f"epoch-0001-{name}.png") as image:
            sizes[name] = image.size
    assert sizes == {
        "samples": (71, 8),
        "interpolations": (71, 8),
        "reconstructions": (35, 17),  # 4 validation images
    }


def test_same_seed_gives_the_same_sample_images(quick_run, tmp_path):
    second_run = train(QUICK, tmp_path / "second_run", quiet=True)
    names = sorted(path.name for path in (quick_run / "samples").iterdir())
    assert names
    for name in names:
        assert (quick_run / "samples" / name).read_bytes() == (second_run / "samples" / name).read_bytes()


@pytest.mark.integration
def test_on_epoch_is_called_after_the_checkpoint_is_saved(tmp_path):
    epochs_reported = []

    def check_record(record):
        assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]) == record
        assert load_checkpoint(tmp_path / "run" / "last")[0].state["step"] == record["step"]
        epochs_reported.append(record["epoch"])

    train(QUICK, tmp_path / "run", quiet=True, on_epoch=check_record)
    assert epochs_reported == [1, 2, 3]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
def test_unwritable_folder_is_reported(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CvaeError, match="can't write"):
        train(QUICK, tmp_path / "run", quiet=True)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"objective": "beta-tc", "batch_size": 1, "limit": 20}, "the latents of several images"),
        (
            {"arch": "ladder", "objective": "iwae", "options": {"objective": {"dreg": True}}},
            "needs a single group of latents",
        ),
    ],
)
def test_error_in_the_first_step_leaves_no_files_behind(tmp_path, overrides, message):
    notes = tmp_path / "run" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(UsageError, match=message):
        train(replace(QUICK, **overrides), tmp_path / "run", quiet=True)
    assert list(notes.parent.iterdir()) == [notes]
    notes.unlink()
    with pytest.raises(UsageError, match=message):
        train(replace(QUICK, **overrides), tmp_path / "run", quiet=True)
    assert not notes.parent.exists()
