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

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "model_zoo" / "scripts"))
    import fit_prior

    yield fit_prior
    del sys.modules["fit_prior"]


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
    new, config = script.fit_prior(training, samples=2, minutes=0.1, lr=5e-3)
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
def test_prior_without_weights_is_an_error(script, tmp_path):
    with pytest.raises(UsageError, match="the prior 'normal' has no weights; choose a model with a learned prior"):
        script.fit_prior(train_quickly(tmp_path, "normal"), samples=1, minutes=0.1, lr=1e-3)


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
