"""Losses on the decoder's images in a run: their weights, their networks and optimizers, and what is saved."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from engine_helpers import NARROW, QUICK, STEPS, have_equal_tensors, load_weights, read_records

from cvae.data import load_dataset
from cvae.engine import resume, train
from cvae.engine import step as step_module
from cvae.engine import trainer as trainer_module
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.image_losses import ImageLosses, decode_noise
from cvae.engine.resolve import configure
from cvae.engine.trainer import Trainer
from cvae.engine.validation import Validator
from cvae.errors import Interrupted, UsageError
from cvae.exporters.onnx import export
from cvae.models import VAE, build
from cvae.models.losses import ImageBatch
from cvae.registry import LIKELIHOODS, LOSSES, OBJECTIVES
from cvae.run import saved_epoch

ALL = replace(
    QUICK,
    losses=tuple(LOSSES),
    conditional=True,
    options={**QUICK.options, "adversarial": {"random_weight": 0.5, "start": 5, "width": 8}, "label": {"steps": 5}},
    epochs=1,
)
"""Config with all losses, of which one needs random images."""


@pytest.fixture(autouse=True)
def short_training_of_the_classifier(monkeypatch):
    monkeypatch.setattr("cvae.models.feature_networks.STEPS", 5)


def make_losses(likelihood: str, name: str, **options: float) -> tuple[ImageLosses, torch.nn.Module]:
    """Return a single loss, and a model with the likelihood."""
    config = replace(
        QUICK, conditional=True, likelihood=likelihood, losses=(name,), options={**QUICK.options, name: options}
    )
    dataset = load_dataset(config)
    config = configure(config, dataset)
    losses = ImageLosses(config, dataset, Accelerator(cpu=True), total_steps=100)
    return losses, build(config.model)


@pytest.mark.parametrize(("start", "count"), [(99, 0), (100, 1)])
def test_note_says_that_a_loss_starts_after_the_last_step(start, count):
    losses, _ = make_losses("bernoulli", "adversarial", start=start)
    notes = losses.prepare(load_dataset(QUICK))
    note = "--loss adversarial has no effect: the run has 100 steps, and adversarial.start is 100; lower it with "
    assert sum(text.startswith(note) for text in notes) == count


def test_there_is_no_such_note_while_the_length_of_a_run_is_a_guess():
    config = replace(QUICK, losses=("adversarial",), options={**QUICK.options, "adversarial": {"start": 5000}})
    config = replace(config, epochs=None, minutes=1.0)
    dataset = load_dataset(config)
    losses = ImageLosses(configure(config, dataset), dataset, Accelerator(cpu=True), total_steps=100)
    assert not any("has no effect" in note for note in losses.prepare(dataset))


def test_random_images_are_decoded_in_evaluation_mode_and_frozen_modules_stay_in_it():
    config = replace(QUICK, prior="flow-matching", options={**QUICK.options, "prior": {"dropout": 0.5, "hidden": 8}})
    config = configure(config, load_dataset(config))
    torch.manual_seed(0)
    model = build(config.model).train()
    torch.nn.init.normal_(model.prior.velocity.leave.weight)
    frozen = next(model.decoder.children()).eval()
    modes = [module.training for module in model.modules()]
    noise, label = torch.randn(5, model.latent_dim), torch.arange(5)
    params = decode_noise(model, noise, label)
    assert [module.training for module in model.modules()] == modes and not frozen.training
    with torch.no_grad():
        torch.testing.assert_close(model.likelihood.mean(params), model.eval().decode(noise, label))


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS])
@pytest.mark.parametrize("name", [*LOSSES])
def test_weight_is_the_norm_of_the_gradient_relative_to_that_of_the_distortion(likelihood, name):
    losses, model = make_losses(likelihood, name, weight=0.3)
    torch.manual_seed(0)
    image = torch.rand(6, 1, 8, 8)
    params, random_params = (
        (0.1 * torch.randn(6, model.likelihood.param_channels, 8, 8)).requires_grad_() for _ in range(2)
    )
    label = torch.arange(6)
    output = random_params if losses.needs_random_images else params
    outputs = params, random_params if losses.needs_random_images else None, label
    start = losses.losses[name].start
    before = {key: value.clone() for key, value in model.state_dict().items()}
    total, values = losses(model.likelihood, image, *outputs, float(start), 1.0)
    (gradient,) = torch.autograd.grad(total, output)
    distortion = model.likelihood.eval().nll(params, image).mean()
    (reference,) = torch.autograd.grad(distortion, params)
    torch.testing.assert_close(gradient.norm(), 0.3 * reference.norm(), rtol=1e-3, atol=0)
    assert total.item() == 0 and values.shape == (1,) and values.isfinite().all()
    assert have_equal_tensors(before, model.state_dict())  # the likelihood's running sigma did not change
    # The direction is that of the loss's own gradient.
    decoded = [model.likelihood.mean(tensor) for tensor in (params, random_params)]
    value = losses.losses[name](ImageBatch(image, *decoded, label))
    (direction,) = torch.autograd.grad(value, output)
    assert torch.cosine_similarity(direction.flatten(), gradient.flatten(), dim=0) > 0.999
    if start:
        total, _ = losses(model.likelihood, image, *outputs, float(start - 1), 1.0)
        assert not torch.autograd.grad(total, output)[0].any()


def test_random_images_get_a_gradient_with_the_same_factor():
    losses, model = make_losses("bernoulli", "adversarial", weight=0.3, random_weight=1.0, start=0)
    torch.manual_seed(0)
    outputs = [torch.randn(6, 1, 8, 8, requires_grad=True) for _ in range(2)]
    total, _ = losses(model.likelihood, torch.rand(6, 1, 8, 8), *outputs, None, 0.0, 1.0)
    gradients = torch.autograd.grad(total, outputs)
    value = losses.losses["adversarial"](ImageBatch(torch.rand(6, 1, 8, 8), *map(model.likelihood.mean, outputs)))
    expected = torch.autograd.grad(value, outputs)
    factors = [float(a.norm() / b.norm()) for a, b in zip(gradients, expected, strict=True)]
    assert factors[0] == pytest.approx(factors[1], rel=1e-4)


@pytest.mark.integration
def test_losses_compare_grey_images_while_the_likelihood_scores_binarized_ones(tmp_path, monkeypatch):
    levels = {"losses": set(), "model": set()}

    def record(name, inner):
        def wrapper(self, *args):
            image = args[1 if name == "losses" else 0]
            levels[name].update(image.unique().tolist())
            return inner(self, *args)

        return wrapper

    monkeypatch.setattr(ImageLosses, "forward", record("losses", ImageLosses.forward))
    monkeypatch.setattr(VAE, "forward", record("model", VAE.forward))
    train(replace(ALL, binarize="dynamic", limit=64), tmp_path / "run", quiet=True)
    assert levels["model"] == {0.0, 1.0}
    assert len(levels["losses"]) > 10


@pytest.mark.integration
@pytest.mark.parametrize("objective", [*OBJECTIVES])
@pytest.mark.parametrize("consistency", [None, 0.1])
def test_losses_compose_with_every_objective(tmp_path, objective, consistency):
    config = replace(ALL, objective=objective, consistency=consistency, limit=64, shift=1, accumulate=2)
    run = train(config, tmp_path / "run", quiet=True)
    losses = read_records(run)[0]["losses"]
    assert list(losses) == [*LOSSES] and all(np.isfinite(value) for value in losses.values())


@pytest.mark.integration
@pytest.mark.parametrize("arch", ["mlp", "conv", "resnet", "ladder"])
def test_resumed_run_has_the_same_networks_and_optimizers(tmp_path, monkeypatch, arch):
    options = {**ALL.options, "arch": NARROW.get(arch, {"width": 4, "max_width": 8, "blocks": 1})}
    config = replace(ALL, arch=arch, latent_dim=6, options=options, ema=0.9, accumulate=2, center=True)
    full = train(config, tmp_path / "full", quiet=True)
    step = Trainer._train_step

    def step_and_stop(self, *batch):
        step(self, *batch)
        if self.state.step == STEPS - 4:
            self.stop.signals.add(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "_train_step", step_and_stop)
        train(config, tmp_path / "parts", quiet=True)
    torch.manual_seed(99)

    def fail(*args):
        raise AssertionError("the classifier was trained again")

    monkeypatch.setattr(ImageLosses, "prepare", fail)
    resume(tmp_path / "parts", quiet=True)
    tensors = [load_checkpoint(tmp_path / name / "last")[0].tensors for name in ("full", "parts")]
    assert have_equal_tensors(*tensors)
    for part in ("image_losses.losses.adversarial.", "image_losses.losses.perceptual.", "optimizer of adversarial."):
        assert any(name.startswith(part) for name in tensors[0])
    assert have_equal_tensors(load_weights(tmp_path / "parts"), load_weights(full))


@pytest.mark.integration
def test_recordable_step_gives_the_same_networks(tmp_path, monkeypatch):
    config = replace(ALL, lr=2**-8, schedule="constant", warmup=0)
    expected = load_checkpoint(train(config, tmp_path / "eager", quiet=True) / "last")[0].tensors
    monkeypatch.setattr(trainer_module, "can_record", lambda *_: True)
    recorded = load_checkpoint(train(config, tmp_path / "recorded", quiet=True) / "last")[0].tensors
    assert have_equal_tensors(expected, recorded)


@pytest.mark.integration
def test_newest_weights_are_saved_without_the_networks_of_the_losses(tmp_path, monkeypatch):
    """The validation bound rises, but the weights of the last epoch are saved."""
    bounds = iter(range(3))
    monkeypatch.setattr(Validator, "evaluate", lambda *_: dict.fromkeys(("distortion", "rate", "bound"), next(bounds)))
    run = train(replace(ALL, epochs=2, limit=64), tmp_path / "run", quiet=True)
    tensors, weights = load_checkpoint(run / "last")[0].tensors, load_weights(run)
    assert have_equal_tensors(weights, {name: tensors[f"model.{name}"] for name in weights})
    assert {name.partition(".")[0] for name in weights} <= {"encoder", "decoder", "prior", "likelihood"}
    assert saved_epoch(read_records(run))["epoch"] == 2
    export(run)
    assert "| losses in addition to the bound | perceptual, adversarial, label; " in (run / "README.md").read_text()


@pytest.mark.integration
@pytest.mark.parametrize("cause", ["objective", "discriminator"])
def test_on_nan_skip_also_leaves_the_discriminator_unchanged(tmp_path, monkeypatch, cause):
    states, calls = {}, []
    step, elbo, share = Trainer._train_step, OBJECTIVES.get("elbo"), ImageLosses.share_gradients

    def step_and_record(self, *batch):
        step(self, *batch)
        modules = (self.training_step.bare_model, self.training_step.image_losses)
        tensors = [tensor.detach().flatten().double() for module in modules for tensor in module.state_dict().values()]
        states[self.state.step - 1] = torch.cat(tensors)

    def nonfinite_elbo(model, image, label, kl_weight, **options):
        calls.append(1)
        loss = elbo(model, image, label, kl_weight, **options)
        return loss._replace(loss=loss.loss * float("nan")) if len(calls) == 9 and cause == "objective" else loss

    def nonfinite_gradients(self):
        if len(calls) == 9 and cause == "discriminator":
            self.losses["adversarial"].discriminator.head.weight.grad.fill_(torch.inf)
        return share(self)

    monkeypatch.setattr(step_module, "OBJECTIVES", type("", (), {"get": staticmethod(lambda name: nonfinite_elbo)}))
    monkeypatch.setattr(ImageLosses, "share_gradients", nonfinite_gradients)
    monkeypatch.setattr(Trainer, "_train_step", step_and_record)
    run = train(replace(ALL, on_nan="skip"), tmp_path / "run", quiet=True)
    assert torch.equal(states[8], states[7]) and not torch.equal(states[9], states[8])
    assert read_records(run)[0]["skipped"] == 1


@pytest.mark.integration
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"losses": ("perceptul",)}, "unknown loss 'perceptul'; did you mean 'perceptual'"),
        ({"options": {"perceptual": {"weight": 1.0}}}, "this run has no perceptual; remove .* or add --loss perc"),
        ({"losses": ("adversarial",), "options": {"adversarial": {"weight": -1.0}}}, "weight=-1.0 is out of range"),
        ({"losses": ("adversarial",), "patience": 3}, "--patience 3 waits for a better bound"),
        (
            {"losses": ("label",), "conditional": False},
            "--loss label needs a model whose only condition is a label; add --conditional",
        ),
    ],
)
def test_wrong_use_of_losses_is_an_error_that_leaves_no_files(tmp_path, overrides, message):
    with pytest.raises(UsageError, match=message):
        train(replace(QUICK, **overrides), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_loss_is_listed_once():
    with pytest.raises(UsageError, match="lists a loss twice"):
        replace(QUICK, losses=("adversarial", "adversarial"))


@pytest.mark.slow
@pytest.mark.integration
def test_two_processes_reproduce_the_loss_curve_of_one_process(tmp_path):
    """The classifier is trained in the first process, and the discriminator's gradients are shared."""
    flags = ["train", "--data", "digits", "--arch", "mlp", "--epochs", "2", "--device", "cpu", "--precision", "fp32"]
    flags += ["--loss", "perceptual", "--loss", "adversarial", "--set", "adversarial.random_weight=0.5"]
    flags += ["--set", "adversarial.start=5", "--limit", "640", "--tracker", "none", "--no-export", "--out"]
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "cvae"]
    curves = []
    for name, module in {"one": ["cvae"], "two": torchrun}.items():
        command = [sys.executable, "-m", *module, *flags, name]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
        assert result.returncode == 0, result.stderr
        epochs = [record for record in read_records(Path(tmp_path / name)) if "epoch" in record]
        curves.append(
            [value for r in epochs for part in ("train", "validation", "losses") for value in r[part].values()]
        )
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-3, atol=0.02)
