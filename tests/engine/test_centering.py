"""Centred gradients, compared with layers that subtract the mean input themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import QUICK, load_weights
from model_helpers import FAMILIES, model_config
from torch import nn

from cvae.engine import train
from cvae.engine.centering import Centering
from cvae.errors import UsageError
from cvae.models import build
from cvae.models.vae import initialize_output

LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "conv": (nn.Conv2d(3, 4, 3, padding=1), (5, 3, 6, 7)),
    "transposed conv": (nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), (5, 3, 6, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_update_is_that_of_a_layer_that_subtracts_the_mean_input(name):
    """Gradient descent on (W, b') in y = W x - W c + b' gives the same function as the conversion on (W, b)."""
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    x, target = 1 + torch.rand(shape), torch.randn(1)
    centering = Centering(layer)
    loss = (layer(x) - target).square().mean()
    loss.backward()
    features = x if name == "linear" else x.movedim(1, -1)
    mean = features.flatten(0, -2).mean(0)
    torch.testing.assert_close(centering.sums, mean)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()

    def product(weight: torch.Tensor) -> torch.Tensor:
        if name == "linear":
            return weight @ mean
        return torch.einsum("oikl,i->o" if name == "conv" else "iokl,i->o", weight, mean)

    centred_weight, centred_bias = weight.clone().requires_grad_(), (bias + product(weight)).requires_grad_()
    parameters = {"weight": centred_weight, "bias": centred_bias - product(centred_weight)}
    (torch.func.functional_call(layer, parameters, x) - target).square().mean().backward()
    centering.means.copy_(mean)  # so that the moving average is the mean of this batch
    centering.convert_gradients(mean, 10**9, torch.tensor(True))
    torch.testing.assert_close(layer.weight.grad, centred_weight.grad, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter -= 0.1 * parameter.grad
        centering.convert_updates()
        centred_weight -= 0.1 * centred_weight.grad
        centred_bias -= 0.1 * centred_bias.grad
    torch.testing.assert_close(layer.weight, centred_weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias, centred_bias - product(centred_weight), rtol=1e-4, atol=1e-5)


def test_mean_inputs_are_averaged_over_the_steps_and_keep_their_value_in_a_bad_step():
    layer = nn.Linear(1, 1)
    centering = Centering(layer)
    centering.convert_gradients(torch.tensor([4.0]), 0, torch.tensor(True))
    assert centering.means.item() == pytest.approx(3.6)  # the decay of the first step is 0.1
    centering.convert_gradients(torch.tensor([torch.nan]), 1, torch.tensor(False))
    assert centering.means.item() == pytest.approx(3.6)
    centering.convert_gradients(torch.tensor([13.6]), 1000, torch.tensor(True))
    assert centering.means.item() == pytest.approx(4.6)  # the decay of a late step is 0.9


def test_only_passes_in_training_mode_are_measured():
    layer = nn.Linear(2, 1)
    centering = Centering(layer)
    layer.eval()
    layer(torch.ones(3, 2))
    assert not centering.sums.any()
    layer.train()
    layer(torch.ones(3, 2))
    assert centering.sums.tolist() == [1, 1]


@pytest.mark.integration
def test_accumulation_gives_the_same_weights(tmp_path):
    config = replace(QUICK, center=True, epochs=1)
    full = load_weights(train(config, tmp_path / "full", quiet=True))
    parts = load_weights(train(replace(config, accumulate=4), tmp_path / "parts", quiet=True))
    plain = load_weights(train(replace(config, center=False), tmp_path / "plain", quiet=True))
    for name, tensor in full.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=2e-3)
    assert (plain["decoder.head.weight"] - full["decoder.head.weight"]).abs().max() > 0.01


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian-optimal"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_initial_output_is_the_mean_image(arch, likelihood):
    torch.manual_seed(0)
    model = build(model_config(arch, (1, 8, 8), likelihood=likelihood)).eval()
    mean = torch.full((1, 8, 8), 0.3)
    if arch == "mlp":  # a fully connected layer has a bias for each pixel
        mean = 0.2 + 0.6 * torch.rand(1, 8, 8)
    before = model.decode(torch.randn(64, model.latent_dim)).mean(0)
    initialize_output(model, mean)
    after = model.decode(torch.randn(64, model.latent_dim)).mean(0)
    assert (after - mean).abs().mean() < 0.4 * (before - mean).abs().mean()


def test_likelihood_without_parameters_of_a_mean_is_reported():
    model = build(model_config("mlp", likelihood="logistic-mixture"))
    with pytest.raises(UsageError, match="--mean-init does not support the likelihood LogisticMixture"):
        initialize_output(model, torch.zeros(1, 8, 8))


@pytest.mark.integration
def test_output_of_the_first_epoch_starts_at_the_mean_image(tmp_path):
    """Half of the images are black and half of them are white, so that the mean image is grey."""
    images = np.zeros((64, 8, 8), np.uint8)
    images[::2] = 255
    np.savez(tmp_path / "data.npz", train=images)
    config = replace(
        QUICK, data=f"npz:{tmp_path / 'data.npz'}", conditional=False, limit=None, validation=0.0, mean_init=True,
        lr=1e-9, epochs=1,
    )  # fmt: skip
    weights = load_weights(train(config, tmp_path / "run", quiet=True))
    assert weights["decoder.head.bias"].abs().max() < 1e-3
