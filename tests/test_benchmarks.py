"""What the benchmarks compute, where a wrong figure would not show."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cvae.config import Config, TrainConfig
from cvae.data import load_dataset
from cvae.evaluation.bounds import bounds
from cvae.evaluation.run_scorer import RunScorer
from cvae.models.objectives import elbo

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize("conditional", [False, True])
def test_the_plain_loop_minimizes_what_the_engine_minimizes(monkeypatch, conditional):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from training_speed import BoundVAE

    model = BoundVAE(TrainConfig(arch="mlp", data="digits", conditional=conditional, latent_dim=4))
    image, label = torch.rand(5, 1, 8, 8), torch.arange(5)
    torch.manual_seed(0)
    loss = model(image, label)
    torch.manual_seed(0)
    torch.testing.assert_close(loss, elbo(model.vae, image, label if conditional else None, 1.0).loss)


def test_bound_of_the_gpu_benchmark_is_that_of_the_evaluator(monkeypatch, trained):
    """Both draw the noise by themselves."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from gpu import importance_weighted

    run = trained["plain"]
    args = SimpleNamespace(device="cpu", data_dir=None, smoke=False)
    found = importance_weighted(run, args, 200)
    split = load_dataset(Config.read(run / "config.json").training).test
    expected = bounds(RunScorer(run, "cpu", "fp32"), split.images, None, samples=200)
    assert found["nats"] == pytest.approx(expected.importance_weighted.mean(), abs=0.15)
    assert found["single_sample"] == pytest.approx(expected.bound.mean(), abs=0.2)
    assert found["nats"] < found["single_sample"] and found["images"] == len(split)
