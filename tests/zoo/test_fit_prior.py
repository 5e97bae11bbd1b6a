"""The script that fits the prior of a trained model to its latents."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.engine import load_model, train
from cvae.errors import UsageError


@pytest.fixture
def script(import_script):
    return import_script("fit_prior")


def train_quickly(tmp_path: Path, prior: str) -> TrainConfig:
    """Train a model without labels briefly, and return the config of a model with labels and the same weights."""
    config = TrainConfig(arch="mlp", latent_dim=4, prior=prior, likelihood="bernoulli", epochs=20, trackers=("none",))
    run = train(replace(config, options={"arch": {"hidden": (24,)}}), tmp_path / "run", quiet=True)
    return replace(load_model(run)[1].training, init=str(run), conditional=True)


@pytest.mark.integration
@pytest.mark.parametrize("prior", ["flow", "flow-matching"])
def test_conditional_prior_fits_the_latents_better_and_nothing_else_changes(script, tmp_path, prior):
    training = train_quickly(tmp_path, prior)
    old, _ = load_model(training.init)
    new, config = script.fit_prior(training, samples=2, steps=400, lr=5e-3)
    assert [condition.name for condition in config.model.conditions] == ["label"]
    dataset = load_dataset(training.data_config)
    label = torch.from_numpy(dataset.test.labels)
    latent = script.encode(new, dataset.test, label, config.training)
    zero = torch.zeros_like(latent)
    with torch.inference_mode():
        assert new.prior.terms(latent, zero, latent, label).log_prob.mean() > (
            old.eval().prior.terms(latent, zero, latent, None).log_prob.mean() + 0.2
        )
        torch.testing.assert_close(new.decoder(latent, label), old.decoder(latent, None))


@pytest.mark.integration
def test_prior_is_fitted_to_unknown_labels_too(script, tmp_path):
    training = train_quickly(tmp_path, "flow")
    old, _ = load_model(training.init)
    new, config = script.fit_prior(replace(training, drop_conditions=0.5), samples=2, steps=400, lr=5e-3)
    dataset = load_dataset(training.data_config)
    unknown = torch.full((len(dataset.test),), 10)
    latent = script.encode(new, dataset.test, unknown, config.training)
    zero = torch.zeros_like(latent)
    with torch.inference_mode():
        fitted = new.prior.terms(latent, zero, latent, new.embed(unknown)).log_prob.mean()
        label = torch.from_numpy(dataset.test.labels)
        known = new.prior.terms(latent, zero, latent, new.embed(label)).log_prob.mean()
        assert known > fitted > old.eval().prior.terms(latent, zero, latent, None).log_prob.mean() - 0.2


@pytest.mark.integration
def test_prior_without_weights_is_an_error(script, tmp_path):
    with pytest.raises(UsageError, match="the prior 'normal' has no weights; choose a model with a learned prior"):
        script.fit_prior(train_quickly(tmp_path, "normal"), samples=1, steps=400, lr=1e-3)


@pytest.mark.integration
def test_script_saves_a_ladder_with_grids_whose_prior_transforms_the_vector_only(script, tmp_path, monkeypatch):
    arch = {"width": 8, "max_width": 8, "blocks": 1, "patch": 1, "smallest": 4, "latent_channels": 1}
    options = {"arch": arch, "prior": {"dims": 4}}
    config = TrainConfig(arch="ladder", latent_dim=4, prior="flow", epochs=1, options=options, trackers=("none",))
    run = train(config, tmp_path / "run", quiet=True)
    arguments = ["fit_prior.py", str(run), str(tmp_path / "fitted"), "--conditional", "--samples", "1", "--steps", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    old, _ = load_model(run)
    new, fitted = load_model(tmp_path / "fitted")
    assert new.latent_dim > 4
    assert fitted.model.prior.options["dims"] == 4
    assert [condition.name for condition in fitted.model.conditions] == ["label"]
    noise, label = torch.randn(3, new.latent_dim), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        latent = new.eval().prior.from_noise(noise, label)
        assert not torch.equal(latent[:, :4], old.eval().prior.from_noise(noise, None)[:, :4])
        torch.testing.assert_close(latent[:, 4:], noise[:, 4:])
        torch.testing.assert_close(new.decoder(noise, label), old.decoder(noise, None))


def test_existing_folder_and_wrong_numbers_are_errors_in_one_line(script, tmp_path, monkeypatch, capsys):
    for arguments, message in {
        ("mnist-ladder", str(tmp_path)): "already exists; choose another folder",
        ("mnist-ladder", str(tmp_path / "new"), "--samples", "0"): "--samples 0 must be positive",
        ("mnist-laddr", str(tmp_path / "new")): "mnist-laddr",
    }.items():
        monkeypatch.setattr(sys, "argv", ["fit_prior.py", *arguments])
        with pytest.raises(SystemExit):
            script.main()
        assert message in capsys.readouterr().err.splitlines()[-1]
