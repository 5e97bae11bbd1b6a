"""Likelihoods, compared with torch.distributions and with sums over all pixel values."""

import math

import numpy as np
import pytest
import torch
from model_helpers import model_config
from torch import distributions as D

from cvae.models import build
from cvae.models.likelihoods import Bernoulli, Gaussian, LearnedGaussian, LogisticMixture, OptimalGaussian


def test_bernoulli_agrees_with_torch_distributions():
    params, image = torch.randn(4, 1, 3, 3), (torch.rand(4, 1, 3, 3) < 0.5).float()
    expected = -D.Bernoulli(logits=params).log_prob(image).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli(1).nll(params, image), expected)
    torch.testing.assert_close(Bernoulli(1).mean(params), D.Bernoulli(logits=params).mean)


@pytest.mark.parametrize(("likelihood", "sigma"), [(Gaussian(3, sigma=0.3), 0.3), (LearnedGaussian(3), 0.1)])
def test_gaussian_agrees_with_torch_distributions(likelihood, sigma):
    params, image = torch.randn(4, 3, 5, 2), torch.rand(4, 3, 5, 2)
    expected = -D.Normal((0.5 + params).clip(0, 1), sigma).log_prob(image).sum((1, 2, 3))
    torch.testing.assert_close(likelihood.nll(params, image), expected)


def test_gaussian_has_gradients_for_means_outside_0_to_1():
    """The gradient moves such a mean back into the range, unless the pixel equals the mean clipped to the range."""
    params = torch.tensor([-3.0, -3.0, 3.0, 0.1]).reshape(1, 1, 2, 2).requires_grad_()
    image = torch.tensor([0.0, 0.4, 0.4, 0.4]).reshape(1, 1, 2, 2)
    Gaussian(1, sigma=0.5).nll(params, image).sum().backward()
    assert params.grad is not None
    torch.testing.assert_close(params.grad.flatten(), torch.tensor([0.0, -0.4, 0.6, 0.2]) / 0.25)


@pytest.mark.integration
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian-learned", "gaussian-optimal"])
def test_mostly_black_images_are_learned(likelihood):
    """Each image has a stripe in one of four positions; a model that decodes only black has an error of 1/8."""
    torch.manual_seed(0)
    image = torch.zeros(4, 1, 8, 8)
    for i in range(4):
        image[i, 0, :, 2 * i] = 1
    model = build(model_config("resnet", likelihood=likelihood, width=8))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        terms = model(image, None, torch.randn(4, 5))
        optimizer.zero_grad()
        terms.distortion.mean().backward()
        optimizer.step()
    with torch.no_grad():
        reconstruction = model.eval().decode(model(image, None, torch.zeros(4, 5)).noise, None)
    assert (reconstruction - image).square().mean() < 0.01


def test_optimal_sigma_minimizes_the_loss_and_is_fixed_in_evaluation():
    torch.manual_seed(0)
    params, image = torch.randn(8, 3, 5, 2), torch.rand(8, 3, 5, 2)
    likelihood = OptimalGaussian(3).train()
    optimal = likelihood.nll(params, image).mean()
    others = [Gaussian(3, sigma=s).nll(params, image).mean() for s in np.geomspace(0.05, 2, 200)]
    assert optimal <= min(others) and math.isclose(optimal, min(others), rel_tol=1e-3)
    likelihood.eval()
    one_by_one = torch.cat([likelihood.nll(params[i : i + 1], image[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(one_by_one, likelihood.nll(params, image))


@pytest.mark.parametrize("channels", [1, 2])
def test_mixture_probabilities_of_all_values_sum_to_one(channels):
    torch.manual_seed(0)
    likelihood = LogisticMixture(channels, components=3)
    params = 3 * torch.randn(1, likelihood.param_channels, 1, 1).double()
    levels = torch.linspace(0, 1, 256, dtype=torch.float64)
    values = torch.cartesian_prod(*[levels] * channels).reshape(-1, channels, 1, 1)  # every possible pixel
    log_prob = -likelihood.nll(params.expand(len(values), -1, 1, 1), values)
    assert float(log_prob.logsumexp(0)) == pytest.approx(0, abs=1e-9)


def test_mixture_agrees_with_torch_distributions():
    torch.manual_seed(0)
    likelihood = LogisticMixture(1, components=2)
    params, image = torch.randn(5, 6, 2, 3).double(), torch.randint(1, 255, (5, 1, 2, 3)).double() / 255
    weight, mean, log_scale = params.unflatten(1, (2, 3)).unbind(2)  # (B, K, H, W) each
    logistic = D.TransformedDistribution(
        D.Uniform(torch.zeros_like(mean), 1.0),
        [D.SigmoidTransform().inv, D.AffineTransform(mean, log_scale.exp())],
    )
    x = 2 * image - 1
    probability = (weight.softmax(1) * (logistic.cdf(x + 1 / 255) - logistic.cdf(x - 1 / 255))).sum(1)
    torch.testing.assert_close(likelihood.nll(params, image), -probability.log().sum((1, 2)))


@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 1.0])
def test_mixture_mean_is_the_mean_of_its_values(log_scale):
    """This also holds for a wide distribution that has much of its mass outside the range of the values."""
    torch.manual_seed(0)
    likelihood = LogisticMixture(1)
    params = torch.randn(1, likelihood.param_channels, 1, 1).double()
    params[:, 2::3] = log_scale
    values = torch.linspace(0, 1, 256, dtype=torch.float64).reshape(-1, 1, 1, 1)
    probability = (-likelihood.nll(params.expand(256, -1, 1, 1), values)).exp()
    torch.testing.assert_close(
        likelihood.mean(params).squeeze(), (probability * values.squeeze()).sum(), atol=1e-4, rtol=0
    )


def test_mixture_predicts_green_from_red():
    likelihood = LogisticMixture(3, components=1)
    params = torch.zeros(1, likelihood.param_channels, 1, 1)
    params[0, 7] = math.atanh(0.9)  # coefficient of red in the mean of green
    params[0, 1] = 0.8  # mean of red
    params[0, 4:7] = -7.0  # log scales of narrow distributions
    red, green, blue = ((2 * likelihood.mean(params) - 1).flatten()).tolist()
    assert (red, green, blue) == pytest.approx((0.8, 0.72, 0.0), abs=1e-3)
    image = (torch.tensor([0.2, 0.18, 0.0]).reshape(1, 3, 1, 1) + 1) / 2
    assert likelihood.nll(params, image) > 10  # red is far from its mean; green is where this red predicts it
    params[0, 1] = 0.2
    assert likelihood.nll(params, image) < 0.1
