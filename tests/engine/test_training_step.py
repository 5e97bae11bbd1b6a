"""Training step: seeds, accumulated gradients, precision, moving average and initial weights."""

import copy
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import NARROW, QUICK, STEPS, have_equal_tensors, load_weights

from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.engine import launch as launch_module
from cvae.engine import resume, train
from cvae.engine import step as step_module
from cvae.engine import trainer as trainer_module
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.step import TrainingStep
from cvae.engine.trainer import Trainer
from cvae.errors import CvaeError, UsageError
from cvae.models import VAE
from cvae.models.likelihoods import Bernoulli
from cvae.models.objectives import Loss


def test_same_seed_gives_the_same_weights(quick_run, tmp_path):
    assert have_equal_tensors(load_weights(train(QUICK, tmp_path / "second", quiet=True)), load_weights(quick_run))
    assert not have_equal_tensors(
        load_weights(train(replace(QUICK, seed=1), tmp_path / "other", quiet=True)), load_weights(quick_run)
    )


def gradients(config: TrainConfig, out: Path, monkeypatch) -> dict[str, torch.Tensor]:
    """Return the gradients of the first training step, by parameter name."""
    first_gradients = {}

    def update(self, scalars, metrics, before):
        first_gradients.update({name: p.grad.clone() for name, p in self.bare_model.named_parameters()})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingStep, "_update", update)
        train(config, out, quiet=True)
    return first_gradients


@pytest.mark.integration
@pytest.mark.parametrize("prior", ["normal", "flow"])
@pytest.mark.parametrize(("arch", "consistency"), [("mlp", None), ("resnet", None), ("resnet", 0.1)])
def test_accumulated_gradients_equal_gradients_of_full_batch(tmp_path, monkeypatch, arch, consistency, prior):
    config = replace(QUICK, arch=arch, prior=prior, options={"arch": NARROW[arch]}, binarize="dynamic", flip=True)
    config = replace(config, consistency=consistency)
    full = gradients(config, tmp_path / "full", monkeypatch)
    parts = gradients(replace(config, accumulate=8), tmp_path / "parts", monkeypatch)
    for name, gradient in full.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5)
    assert max(gradient.abs().max() for gradient in full.values()) > 0.1


def test_accumulate_must_divide_the_batch_size(tmp_path):
    with pytest.raises(UsageError, match=r"--batch-size 32 .* 3 equal parts"):
        train(replace(QUICK, accumulate=3), tmp_path / "run", quiet=True)


@pytest.mark.integration
def test_objective_can_draw_several_samples_per_image(tmp_path, monkeypatch):
    """Gradient accumulation does not change the noise of the three samples of an image."""

    def three_samples(model, image, label, kl_weight, **options):
        distortion, rate, *_ = model(image, label, samples=3)
        assert distortion.view(-1, 3).std(1).min() > 0  # the samples of one image have different noise
        return Loss((distortion + rate.sum(1)).mean(), distortion.mean(), rate.sum(1).mean())

    monkeypatch.setattr(step_module, "OBJECTIVES", type("", (), {"get": staticmethod(lambda name: three_samples)}))
    full = gradients(QUICK, tmp_path / "full", monkeypatch)
    parts = gradients(replace(QUICK, accumulate=4), tmp_path / "parts", monkeypatch)
    for name, gradient in full.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.integration
def test_antithetic_samples_have_opposite_noise_and_come_in_pairs(tmp_path, monkeypatch):
    def four_samples(model, image, label, kl_weight, **options):
        with pytest.raises(ValueError, match="samples=3 is odd"):
            model(image, label, samples=3, antithetic=True)
        terms = model(image, label, samples=4, antithetic=True)
        deviation = (terms.latent - terms.mean).unflatten(0, (-1, 4))
        torch.testing.assert_close(deviation[:, :2], -deviation[:, 2:], rtol=1e-4, atol=1e-5)
        assert not torch.isclose(deviation[:, 0], deviation[:, 1]).any(1).all()
        distortion, rate = terms.distortion.mean(), terms.rate.sum(1).mean()
        return Loss(distortion + rate, distortion, rate)

    monkeypatch.setattr(step_module, "OBJECTIVES", type("", (), {"get": staticmethod(lambda name: four_samples)}))
    assert gradients(QUICK, tmp_path / "run", monkeypatch)


@pytest.mark.integration
@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_run_in_the_requested_precision(tmp_path, monkeypatch, precision, expected):
    dtypes, nll_dtypes = set(), set()
    nll = Bernoulli.nll

    class RecordingTrainer(trainer_module.Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.training_step.bare_model.decoder.register_forward_hook(
                lambda module, inputs, output: dtypes.add(output.dtype)
            )

    def record_nll(self, params, image):
        nll_dtypes.add(params.dtype)
        return nll(self, params, image)

    monkeypatch.setattr(launch_module, "Trainer", RecordingTrainer)
    monkeypatch.setattr(Bernoulli, "nll", record_nll)
    train(replace(QUICK, epochs=1, precision=precision, validation=0.0), tmp_path / "run", quiet=True)
    assert expected in dtypes and nll_dtypes == {torch.float32}


@pytest.mark.integration
def test_nonfinite_loss_stops_the_run_and_keeps_finite_weights(tmp_path):
    config = replace(QUICK, lr=1e25, schedule="constant", clip=0.0, epochs=2)
    with pytest.raises(CvaeError, match=r"not finite at step \d+: .*lower --lr"):
        train(config, tmp_path / "run", quiet=True)
    assert all(tensor.isfinite().all() for tensor in load_weights(tmp_path / "run").values())


@pytest.mark.integration
def test_moving_average_is_saved_and_differs_from_the_last_weights(tmp_path):
    run = train(replace(QUICK, ema=0.9), tmp_path / "run", quiet=True)
    tensors = load_checkpoint(run / "last")[0].tensors
    saved = load_weights(run)
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, tensors[f"ema.{name}"], rtol=0, atol=0)
    assert not have_equal_tensors(saved, {name: tensors[f"model.{name}"] for name in saved})


@pytest.mark.integration
def test_batch_norm_statistics_are_averaged_like_the_weights(tmp_path, monkeypatch):
    name, mean, average = "encoder.blocks.0.norm.running_mean", torch.zeros(4), TrainingStep._average

    def record(step: TrainingStep, ema: VAE, decay: float) -> None:
        mean.mul_(decay).add_(dict(step.bare_model.named_buffers())[name], alpha=1 - decay)
        average(step, ema, decay)

    monkeypatch.setattr(TrainingStep, "_average", record)
    small = {"arch": {"width": 4, "max_width": 4, "hidden": 8}}
    run = train(replace(QUICK, arch="conv", options=small, ema=0.9), tmp_path / "run", quiet=True)
    tensors = load_checkpoint(run / "last")[0].tensors
    torch.testing.assert_close(tensors[f"ema.{name}"], mean)
    assert not torch.allclose(tensors[f"model.{name}"], mean)
    assert tensors["ema.encoder.blocks.0.norm.num_batches_tracked"] == 3 * STEPS


def test_conditional_model_generates_the_requested_class(trained):
    """A nearest-mean classifier that was fitted to real digits recognizes the generated digits."""
    import cvae

    split = load_dataset(TrainConfig()).train
    means = np.stack([split.images[split.labels == c].mean(0).ravel() for c in range(10)]) / 255  # (10, 64)
    images = cvae.load(trained["labels"]).generate(200, seed=0).reshape(200, 64)
    nearest = ((images[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == np.arange(200) % 10).mean() > 0.8


@pytest.mark.integration
def test_one_process_can_train_with_several_precisions(tmp_path):
    for precision in ("fp32", "bf16", "fp32"):
        train(
            replace(QUICK, epochs=1, precision=precision), tmp_path / f"{precision}-{time.monotonic_ns()}", quiet=True
        )
    assert trainer_module.Trainer is Trainer


def test_init_starts_from_the_weights_of_another_run(tmp_path, quick_run, monkeypatch):
    """A run that was killed before its first checkpoint also starts from those weights when it is resumed."""
    initial_weights = []
    step = trainer_module.Trainer._train_step
    monkeypatch.setattr(
        trainer_module.Trainer,
        "_train_step",
        lambda self, *batch: (
            initial_weights.append(copy.deepcopy(self.training_step.bare_model.state_dict())),
            step(self, *batch),
        )[1],
    )
    config = replace(QUICK, epochs=1, init=str(quick_run), ema=0.9)
    train(config, tmp_path / "run", quiet=True)
    assert have_equal_tensors(initial_weights[0], load_weights(quick_run))
    shutil.rmtree(tmp_path / "run" / "last")
    initial_weights.clear()
    resume(tmp_path / "run", quiet=True)
    assert have_equal_tensors(initial_weights[0], load_weights(quick_run))


def test_init_rejects_missing_run_and_different_network(tmp_path, quick_run):
    for overrides, word in ({"latent_dim": 3}, "4 vs. 3 latent dimensions"), ({"init": "nowhere"}, "'nowhere'"):
        with pytest.raises(UsageError, match=word):
            train(replace(QUICK, **{"init": str(quick_run), **overrides}), tmp_path / "run", quiet=True)
        assert not list(tmp_path.glob("run/*"))
