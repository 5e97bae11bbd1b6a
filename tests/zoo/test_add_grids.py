"""The script that adds grids of latents to a trained `resnet`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvae.engine import load_model
from cvae.errors import UsageError
from cvae.model_config import Part
from cvae.models import build

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["mnist-resnet-flow", "mnist-resnet-conditional"]


@pytest.fixture
def script(import_script):
    return import_script("add_grids")


@pytest.mark.parametrize("name", NAMES)
def test_ladder_computes_nearly_the_function_of_the_resnet(script, name):
    torch.manual_seed(0)
    model, config = load_model(ROOT / "model_zoo" / name)
    ladder, _ = script.add_grids(model, config, grids=2, latent_channels=3)
    assert ladder.decoder.groups == (40, 3 * 14 * 14, 3 * 14 * 14)
    label = None if model.conditions is None else torch.arange(5)
    noise = torch.randn(5, 40)
    images = model.decode(noise, label)
    grids = torch.zeros(5, ladder.latent_dim - 40)
    torch.testing.assert_close(ladder.decode(torch.cat([noise, grids], 1), label), images, atol=0.02, rtol=0)
    mean, std = model.encode(images, label)
    ladder_mean, ladder_std = ladder.encode(images, label)
    assert (ladder_mean[:, :40] - mean).abs().max() < 0.3 and not ladder_mean[:, 40:].any()
    assert (ladder_std[:, :40] / std).log().abs().max() < 0.3 and (ladder_std[:, 40:] == 1).all()


def test_feature_maps_that_are_too_large_for_grids_are_rejected(script):
    _, config = load_model(ROOT / "model_zoo" / NAMES[0])
    options = {**config.model.architecture.options, "patch": 1, "smallest": 14}  # feature maps: 28 x 28, 14 x 14
    model_config = replace(config.model, architecture=replace(config.model.architecture, options=options))
    with pytest.raises(UsageError, match="more than 16 positions on a side"):
        script.add_grids(build(model_config), replace(config, model=model_config), grids=2, latent_channels=3)


def test_other_models_are_rejected(script):
    model, config = load_model(ROOT / "model_zoo" / NAMES[0])
    config = replace(config, model=replace(config.model, prior=Part(name="normal", options={})))
    with pytest.raises(UsageError, match=r"a resnet with the prior normal .* can't be extended"):
        script.add_grids(model, config, grids=2, latent_channels=3)
