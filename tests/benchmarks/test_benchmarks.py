"""Benchmarks: all of them run, and their computations agree with those of the package."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SHARED, needs_mnist

from cvae.config import Config, TrainConfig
from cvae.data import load_dataset
from cvae.evaluation.bounds import bounds
from cvae.evaluation.run_scorer import RunScorer
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


def test_loss_of_the_example_is_that_of_our_model_with_its_weights(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from time_to_quality import to_model

    torch.manual_seed(0)
    sizes = {"fc1": (400, 784), "fc21": (20, 400), "fc22": (20, 400), "fc3": (400, 20), "fc4": (784, 400)}
    weights = {}
    for name, (rows, columns) in sizes.items():
        weights |= {f"{name}.weight": torch.randn(rows, columns) / columns**0.5, f"{name}.bias": torch.randn(rows)}

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    image, noise = torch.rand(5, 784), torch.randn(5, 20)
    hidden = layer("fc1", image).relu()
    mean, log_var = layer("fc21", hidden), layer("fc22", hidden)
    pixels = layer("fc4", layer("fc3", mean + (0.5 * log_var).exp() * noise).relu()).sigmoid()
    cross_entropy = torch.nn.functional.binary_cross_entropy(pixels, image, reduction="sum")
    kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
    terms = to_model(weights)(image.view(5, 1, 28, 28), None, noise)
    torch.testing.assert_close(terms.distortion.sum() + terms.rate.sum(), cross_entropy + kl)


@pytest.mark.parametrize("conditional", [False, True])
def test_plain_loop_minimizes_the_same_loss_as_the_engine(monkeypatch, conditional):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from training_speed import BoundVAE

    model = BoundVAE(TrainConfig(arch="mlp", data="digits", conditional=conditional, latent_dim=4))
    image, label = torch.rand(5, 1, 8, 8), torch.arange(5)
    torch.manual_seed(0)
    loss = model(image, label)
    torch.manual_seed(0)
    torch.testing.assert_close(loss, elbo(model.vae, image, label if conditional else None, 1.0).loss)


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
