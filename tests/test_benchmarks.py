"""What the benchmarks compute, where a wrong figure would not show."""

from pathlib import Path

import pytest
import torch

from cvae.config import TrainConfig
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
