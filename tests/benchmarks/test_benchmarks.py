"""Benchmarks: all of them run, and their computations agree with those of the package."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SHARED, needs_mnist
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae.config import Config, TrainConfig
from cvae.data import load_dataset
from cvae.evaluation.bounds import bounds
from cvae.evaluation.run_scorer import RunScorer
from cvae.model_config import ModelConfig, Part
from cvae.models import build
from cvae.models.objectives import elbo

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

SMOKE = {
    "achieved_flops": (["--smoke"], "achieved, GFLOP/s"),
    "anomaly_mnist": (["--smoke", "--out", "anomaly.json"], "labels without 1  combined"),
    "colour": (["mnist-resnet-conditional", "--smoke"], "Fréchet distance to training images"),
    "decoding_speed": (["--smoke"], "onnxruntime"),
    "default_run": (["--smoke"], "digits recognized as their label"),
    "few_labels": (["run", "--data", "mnist-small", "--epochs", "1", "--samples", "50"], "digits as requested"),
    "host_load": (["--smoke"], "/health, 99 %, ms"),
    "installed_models": (["--smoke", "--data-dir", str(SHARED)], "| `mnist-ladder` |"),
    "large_set": (["--smoke"], "325 images 3x64x64"),
    "morpho_mnist": (["make", "out.npz", "--data", "mnist-small", "--limit", "50"], "out.npz: 50 training images"),
    "precision": (["--smoke"], "test bound, nats"),
    "principal_components": ([], " dB over 359 test images"),
    "priors": (["mnist-resnet-conditional", "--smoke", "--data-dir", str(SHARED)], "Fréchet distance"),
    "runtimes": (["--smoke"], "| Python: `cvae` |"),
    "startup": (["--smoke"], "ratio of the first digit"),
    "time_to_quality": (["--smoke", "--data-dir", str(SHARED)], "whole process, s"),
    "training_speed": (["--smoke", "--data-dir", str(SHARED)], "pytorch-example  652,824"),
}
"""For each script, the flags for a run that takes seconds, and text that the output contains."""

NEED_MNIST = ("installed_models", "priors", "time_to_quality", "training_speed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [pytest.param(name, marks=[needs_mnist] if name in NEED_MNIST else []) for name in SMOKE],
)
def test_benchmark_prints_its_results(tmp_path, script):
    flags, text = SMOKE[script]
    command = [sys.executable, BENCHMARKS / f"{script}.py", *flags]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert text in result.stdout


def test_every_benchmark_has_a_smoke_test():
    assert {path.stem for path in BENCHMARKS.glob("[!_]*.py")} - {"gpu"} == set(SMOKE)


@pytest.mark.parametrize("name", ["cross_entropy", "half_squared_error"])
def test_time_to_quality_measures_the_bound_up_to_a_constant(monkeypatch, name):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import time_to_quality

    torch.manual_seed(0)
    pixels, output = torch.rand(5, 1, 4, 4), torch.rand(5, 1, 4, 4)
    mean, std = torch.randn(5, 3), torch.rand(5, 3)
    loss = time_to_quality.measure_loss(lambda _: (mean, std), lambda _: output, getattr(time_to_quality, name), pixels)
    log_prob = {
        "cross_entropy": lambda: Bernoulli(output, validate_args=False).log_prob(pixels),
        "half_squared_error": lambda: Normal(output, 1.0).log_prob(pixels) + 0.5 * math.log(2 * math.pi),
    }[name]().sum()
    kl = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum()
    assert loss == pytest.approx(float(kl - log_prob) / 5, rel=1e-5)


def test_network_of_the_example_is_our_mlp(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from time_to_quality import example_network

    torch.manual_seed(0)
    model = build(
        ModelConfig(
            image_shape=(1, 28, 28),
            latent_dim=20,
            conditions=(),
            conditioning=None,
            architecture=Part(name="mlp"),
            likelihood=Part(name="bernoulli"),
            prior=Part(name="normal"),
        )
    )
    layers = {"fc1": model.encoder.hidden.first, "fc3": model.decoder.hidden.first, "fc4": model.decoder.head}
    weights = {f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        weights |= dict(zip((f"fc21.{kind}", f"fc22.{kind}"), getattr(model.encoder.head, kind).chunk(2), strict=True))
    encode, decode = example_network(weights)
    images, latents = torch.rand(5, 1, 28, 28), torch.randn(5, 20)
    torch.testing.assert_close(encode(images), model.encode(images))
    torch.testing.assert_close(decode(latents), model.decode(latents))


@pytest.mark.parametrize("conditional", [False, True])
def test_plain_loop_minimizes_the_same_loss_as_the_engine(monkeypatch, conditional):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from training_speed import BoundVAE

    model = BoundVAE(TrainConfig(arch="mlp", data="digits", conditional=conditional, latent_dim=4))
    image, label = torch.rand(5, 1, 8, 8), torch.arange(5)
    torch.manual_seed(0)
    loss = model(image, label)
    torch.manual_seed(0)
    torch.testing.assert_close(loss, elbo(model.vae, image, label if conditional else None, 1.0, antithetic=False).loss)


@pytest.mark.slow
def test_gpu_benchmark_computes_the_same_bound_as_the_evaluator(monkeypatch, trained):
    """The benchmark and the evaluator draw different noise; averaging over several seeds reduces the difference."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from _gpu.bound import importance_weighted

    run = trained["plain"]
    args = SimpleNamespace(device="cpu", data_dir=None, smoke=False)
    actual = importance_weighted(run, args, 150)  # not a multiple of MAX_CHUNK
    split = load_dataset(Config.read(run / "config.json").training).test
    scorer = RunScorer(run, "cpu", "fp32")
    expected = [bounds(scorer, split.images, None, samples=150, seed=seed) for seed in range(4)]
    nats = np.mean([result.importance_weighted for result in expected])
    assert actual["nats"] == pytest.approx(nats, abs=0.15)
    assert actual["single_sample"] == pytest.approx(np.mean([result.bound for result in expected]), abs=0.2)
    assert actual["nats"] < actual["single_sample"] and actual["images"] == len(split)
