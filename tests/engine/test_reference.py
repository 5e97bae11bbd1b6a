"""Reproduction of published results on MNIST. It takes minutes."""

import json

import pytest
from helpers import SHARED, needs_mnist

import cvae
from cvae import model_zoo
from cvae.config import TrainConfig
from cvae.recipes import read_recipe
from cvae.serialization import from_dict

pytestmark = [pytest.mark.slow, needs_mnist]


def test_mlp_reaches_the_published_loss_of_pytorch_example(tmp_path):
    """Public logs of https://github.com/pytorch/examples/tree/main/vae end near a test loss of 105.6 nats."""
    config = from_dict(TrainConfig, {**read_recipe(model_zoo.recipes()["pytorch-vae"]), "data_dir": str(SHARED)})
    run = cvae.train(config, tmp_path / "run", export=False, quiet=True).path
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test"]["bound"] <= 105.6
