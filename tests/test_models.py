"""Every architecture, with and without labels, under every likelihood: builds, learns, exports and agrees."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as D
from torch import nn

from cvae.config import ModelConfig, Part
from cvae.errors import UsageError
from cvae.exporters.onnx.graph import set_metadata, to_onnx
from cvae.exporters.onnx.wrappers import Decoder, Encoder
from cvae.models import VAE, Terms, build
from cvae.models.architectures.layers import pyramid
from cvae.models.conditioning import FeatureModulation, FiLM, LabelLinear, Unconditional
from cvae.models.likelihoods import Bernoulli, Gaussian, LearnedGaussian, LogisticMixture, OptimalGaussian
from cvae.models.objectives import _mmd, beta_tc, elbo, info, iwae
from cvae.models.priors import Flow, normal_kl
from cvae.registry import ARCHITECTURES, CONDITIONINGS, LIKELIHOODS, OBJECTIVES, PRIORS
from cvae.runtime.scan import scan
from cvae.spec import Spec

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 33, 47), (3, 64, 64)]
FAMILIES = ["mlp", "conv", "resnet", "ladder"]
"""The parametric functions; the other names are sizes of these."""
NARROW = {
    "mlp": {"hidden": [16]},
    "conv": {"width": 4, "max_width": 8, "hidden": 16},
    "resnet": {"width": 4},
    "ladder": {"width": 4, "max_width": 8, "blocks": 1},
}
"""Options that keep a test quick."""


def model_config(
    arch: str = "mlp",
    shape: tuple[int, int, int] = (1, 8, 8),
    labels: bool = False,
    likelihood: str = "bernoulli",
    conditioning: str = "film",
    prior: str = "normal",
    **options: object,
) -> ModelConfig:
    return ModelConfig(
        image_shape=shape,
        latent_dim=5,
        classes=("a", "b", "c") if labels else None,
        architecture=Part(name=arch, options=options or NARROW.get(arch, {})),
        conditioning=Part(name=conditioning) if labels else None,
        likelihood=Part(name=likelihood),
        prior=Part(name=prior),
    )


def batch(shape: tuple[int, int, int], labels: bool, count: int = 6) -> tuple[torch.Tensor, torch.Tensor | None]:
    image = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    return image, torch.arange(count) % 3 if labels else None


def sampled(model: Any) -> Callable[..., Terms]:
    """The model as an objective calls it."""

    def call(image: torch.Tensor, label: torch.Tensor | None, samples: int = 1) -> Terms:
        return model(image, label, torch.randn(len(image) * samples, model.latent_dim))

    return call


def learn(model: VAE, image: torch.Tensor, label: torch.Tensor | None, objective: str = "elbo", steps: int = 3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        loss = OBJECTIVES.get(objective)(sampled(model), image, label, 1.0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()


def agree(model: VAE, config: ModelConfig, role: str, count: int = 3) -> None:
    """The exported graph, at another batch size than it was traced with, gives what torch gives."""
    spec = Spec(
        role=role,
        name="test",
        architecture=config.architecture.name,
        image_shape=config.image_shape,
        latent_dim=config.latent_dim,
        classes=config.classes,
        likelihood=config.likelihood.name,
        prior=config.prior.name,
        data="random",
        data_terms="none",
        weights="",
    )
    module = {"decoder": Decoder, "encoder": Encoder}[role](model.eval())
    graph = to_onnx(module, spec)
    set_metadata(graph, spec)
    data = graph.SerializeToString()
    scan(data, spec, "it would be refused as a stranger's")
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    image, label = batch(config.image_shape, config.classes is not None, count)
    first = image if role == "encoder" else torch.randn(count, config.latent_dim)
    named = {module.inputs[0]: first} | ({} if label is None else {"label": label})
    with torch.no_grad():
        expected = module(**named)
    actual = session.run(None, {name: value.numpy() for name, value in named.items()})
    for ours, theirs in zip(actual, expected if role == "encoder" else (expected,), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
    if role == "decoder":
        assert actual[0].shape == (count, *config.image_shape)
        assert actual[0].min() >= 0 and actual[0].max() <= 1


def combinations() -> Iterator[Any]:
    """All of them; the quick ones are of each architecture, with labels and without, each likelihood and each shape."""
    for i, (arch, labels) in enumerate(product(FAMILIES, [False, True])):
        for j, likelihood in enumerate(LIKELIHOODS):
            for k, shape in enumerate(SHAPES):
                quick = (i + j - k) % len(SHAPES) == 0
                yield pytest.param(arch, labels, likelihood, shape, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("arch", "labels", "likelihood", "shape"), list(combinations()))
def test_every_combination_builds_learns_exports_and_agrees(arch, labels, likelihood, shape):
    torch.manual_seed(0)
    config = model_config(arch, shape, labels, likelihood)
    model = build(config)
    learn(model, *batch(shape, labels))
    agree(model, config, "decoder")
    agree(model, config, "encoder")


OTHER_LAYERS = {
    "conv": {"width": 4, "max_width": 8, "hidden": 16, "pool": True, "dropout": 0.1},
    "resnet": {"width": 4, "blocks": 2, "batch_norm": True},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("arch", OTHER_LAYERS)
def test_other_layers_learn_export_and_agree(arch, labels, shape):
    torch.manual_seed(0)
    config = model_config(arch, shape, labels, **OTHER_LAYERS[arch])
    model = build(config)
    learn(model, *batch(shape, labels))
    agree(model, config, "decoder")
    agree(model, config, "encoder")


@pytest.mark.parametrize("conditioning", [None, *CONDITIONINGS])
def test_a_spatial_code_learns_exports_and_lies_where_the_image_differs(conditioning):
    torch.manual_seed(0)
    labels = conditioning is not None
    shape = (3, 32, 24)
    config = model_config("resnet", shape, labels, conditioning=conditioning or "film", width=4, spatial=True)
    config = replace(config, latent_dim=2 * 4 * 3)
    model = build(config)
    learn(model, *batch(shape, labels))
    agree(model, config, "decoder")
    agree(model, config, "encoder")
    image = torch.rand(1, *shape)
    other = image.clone()
    other[..., -1, -1] = 1 - other[..., -1, -1]
    label = torch.zeros(1, dtype=torch.int64) if labels else None
    a, b = (model.encoder(each, label)[0].view(2, 4, 3) for each in (image, other))
    change = (a - b).abs().amax(0)  # (4, 3)
    assert change[3, 2] == change.max() > 100 * change[0, 0]


def test_a_spatial_code_of_another_length_is_refused():
    with pytest.raises(UsageError, match=r"32 is not a multiple of the 4 x 3 positions .* use 36"):
        build(replace(model_config("resnet", (3, 32, 24), spatial=True), latent_dim=32))


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
@pytest.mark.parametrize("conditioning", [None, *CONDITIONINGS])
def test_every_parameter_learns(arch, conditioning):
    torch.manual_seed(0)
    model = build(model_config(arch, (3, 13, 10), conditioning is not None, conditioning=conditioning or "film"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learn(model, *batch((3, 13, 10), conditioning is not None))
    unchanged = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == []


@pytest.mark.parametrize(("prior", "objective"), list(product(PRIORS, OBJECTIVES)))
@pytest.mark.parametrize("labels", [False, True])
def test_every_prior_and_objective_learns_and_exports(prior, objective, labels):
    torch.manual_seed(0)
    config = model_config(labels=labels, prior=prior)
    model = build(config)
    learn(model, *batch((1, 8, 8), labels), objective)
    if objective == "elbo":  # a graph knows nothing of the objective
        agree(model, config, "decoder")
        agree(model, config, "encoder")


@pytest.mark.parametrize("conditioning", list(CONDITIONINGS))
@pytest.mark.parametrize("arch", FAMILIES)
def test_the_label_reaches_encoder_and_decoder(arch, conditioning):
    torch.manual_seed(0)
    model = build(model_config(arch, labels=True, conditioning=conditioning))
    learn(model, *batch((1, 8, 8), True))
    model.eval()
    image, noise = torch.rand(1, 1, 8, 8), torch.randn(1, 5)
    a, b = torch.tensor([0]), torch.tensor([1])
    with torch.no_grad():
        assert not torch.allclose(model.decode(noise, a), model.decode(noise, b), atol=1e-6)
        assert not torch.allclose(model.encode(image, a)[0], model.encode(image, b)[0], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["conv", "resnet", "ladder"]), st.sampled_from([1, 3]), st.integers(8, 128), st.integers(8, 128))
def test_any_size_comes_back_as_it_was(arch, channels, height, width):
    blocks = {"blocks": 1} if arch == "ladder" else {}
    model = build(model_config(arch, (channels, height, width), width=2, max_width=2, **blocks)).eval()
    with torch.no_grad():
        mean, std = model.encode(torch.rand(1, channels, height, width))
        assert mean.shape == std.shape == (1, 5)
        assert model.decode(mean).shape == (1, channels, height, width)


def test_a_pyramid_halves_and_doubles():
    levels = [tuple(level) for level in pyramid((3, 33, 8), 16, 64)]
    assert levels == [(16, 33, 8), (32, 17, 4), (64, 9, 2), (64, 5, 1), (64, 3, 1)]


def test_mlp_is_the_network_of_pytorchs_example():
    model = build(model_config("mlp", (1, 28, 28), hidden=[400]))
    latent = 5
    assert (
        sum(p.numel() for p in model.parameters())
        == (784 + 1) * 400 + 401 * 2 * latent + (latent + 1) * 400 + 401 * 784
    )


def test_label_linear_is_a_linear_layer_over_the_one_hot_label():
    layer = LabelLinear(4, 6, classes=3)
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    joined = torch.cat([x, nn.functional.one_hot(y, 3).float()], 1)
    weight = torch.cat([layer.linear.weight, layer.table.weight.T], 1)
    torch.testing.assert_close(layer(x, y), nn.functional.linear(joined, weight, layer.linear.bias))


def test_modulation_starts_as_the_identity_and_scales_and_shifts_by_label():
    layer = FeatureModulation(2, classes=3)
    x, y = torch.randn(3, 2, 4, 4), torch.tensor([2, 0, 1])
    torch.testing.assert_close(layer(x, y), x)
    nn.init.normal_(layer.table.weight)
    scale, shift = layer.table.weight[2, :2], layer.table.weight[2, 2:]
    torch.testing.assert_close(layer(x, y)[0], x[0] * (1 + scale[:, None, None]) + shift[:, None, None])


def test_bernoulli_against_torch_distributions():
    params, image = torch.randn(4, 1, 3, 3), (torch.rand(4, 1, 3, 3) < 0.5).float()
    expected = -D.Bernoulli(logits=params).log_prob(image).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli(1).nll(params, image), expected)
    torch.testing.assert_close(Bernoulli(1).mean(params), D.Bernoulli(logits=params).mean)


@pytest.mark.parametrize(("likelihood", "sigma"), [(Gaussian(3, sigma=0.3), 0.3), (LearnedGaussian(3), 0.1)])
def test_gaussian_against_torch_distributions(likelihood, sigma):
    params, image = torch.randn(4, 3, 5, 2), torch.rand(4, 3, 5, 2)
    expected = -D.Normal((0.5 + params).clip(0, 1), sigma).log_prob(image).sum((1, 2, 3))
    torch.testing.assert_close(likelihood.nll(params, image), expected)


def test_a_gaussian_learns_from_pixels_beyond_black_and_white():
    """There its derivative is that of the error's tangent: it leads back where the image differs, and nowhere else."""
    params = torch.tensor([-3.0, -3.0, 3.0, 0.1]).reshape(1, 1, 2, 2).requires_grad_()
    image = torch.tensor([0.0, 0.4, 0.4, 0.4]).reshape(1, 1, 2, 2)
    Gaussian(1, sigma=0.5).nll(params, image).sum().backward()
    assert params.grad is not None
    torch.testing.assert_close(params.grad.flatten(), torch.tensor([0.0, -0.4, 0.6, 0.2]) / 0.25)


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian-learned", "gaussian-optimal"])
def test_images_that_are_mostly_black_are_learned(likelihood):
    """A stripe on black, in one of four places: a model that gives up draws all black, an error of 1/8."""
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
        redrawn = model.eval().decode(model(image, None, torch.zeros(4, 5)).noise, None)
    assert (redrawn - image).square().mean() < 0.01


def test_optimal_sigma_is_the_minimum_over_sigma_and_fixed_in_evaluation():
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
def test_the_mixtures_probabilities_of_all_values_sum_to_one(channels):
    torch.manual_seed(0)
    likelihood = LogisticMixture(channels, components=3)
    params = 3 * torch.randn(1, likelihood.param_channels, 1, 1).double()
    levels = torch.linspace(0, 1, 256, dtype=torch.float64)
    values = torch.cartesian_prod(*[levels] * channels).reshape(-1, channels, 1, 1)  # every pixel there is
    log_prob = -likelihood.nll(params.expand(len(values), -1, 1, 1), values)
    assert float(log_prob.logsumexp(0)) == pytest.approx(0, abs=1e-9)


def test_the_mixture_against_torch_distributions():
    torch.manual_seed(0)
    likelihood = LogisticMixture(1, components=2)
    params, image = torch.randn(5, 6, 2, 3).double(), torch.randint(1, 255, (5, 1, 2, 3)).double() / 255
    weight, mean, log_scale = params.unflatten(1, (2, 3)).unbind(2)  # (B, K, H, W) each
    logistic = D.TransformedDistribution(
        D.Uniform(torch.zeros_like(mean), 1.0),
        [D.SigmoidTransform().inv, D.AffineTransform(mean, log_scale.exp())],
    )
    x = 2 * image - 1
    chance = (weight.softmax(1) * (logistic.cdf(x + 1 / 255) - logistic.cdf(x - 1 / 255))).sum(1)
    torch.testing.assert_close(likelihood.nll(params, image), -chance.log().sum((1, 2)))


@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 1.0])
def test_the_mixtures_mean_is_that_of_its_values(log_scale):
    """At the ends too, where much of a wide distribution is cut off."""
    torch.manual_seed(0)
    likelihood = LogisticMixture(1)
    params = torch.randn(1, likelihood.param_channels, 1, 1).double()
    params[:, 2::3] = log_scale
    values = torch.linspace(0, 1, 256, dtype=torch.float64).reshape(-1, 1, 1, 1)
    chance = (-likelihood.nll(params.expand(256, -1, 1, 1), values)).exp()
    torch.testing.assert_close(likelihood.mean(params).squeeze(), (chance * values.squeeze()).sum(), atol=1e-4, rtol=0)


def test_a_later_colour_depends_on_the_one_before():
    likelihood = LogisticMixture(3, components=1)
    params = torch.zeros(1, likelihood.param_channels, 1, 1)
    params[0, 7] = math.atanh(0.9)  # the coefficient of green from red
    params[0, 1] = 0.8  # red's mean
    params[0, 4:7] = -7.0  # sharply
    red, green, blue = ((2 * likelihood.mean(params) - 1).flatten()).tolist()
    assert (red, green, blue) == pytest.approx((0.8, 0.72, 0.0), abs=1e-3)
    image = (torch.tensor([0.2, 0.18, 0.0]).reshape(1, 3, 1, 1) + 1) / 2
    assert likelihood.nll(params, image) > 10  # red is far from its mean, green where that red puts it
    params[0, 1] = 0.2
    assert likelihood.nll(params, image) < 0.1


def test_kl_against_torch_and_monte_carlo():
    torch.manual_seed(0)
    mean, log_var = torch.randn(3, 4), torch.randn(3, 4)
    q, p = D.Normal(mean, (0.5 * log_var).exp()), D.Normal(0.0, 1.0)
    torch.testing.assert_close(normal_kl(mean, log_var), D.kl_divergence(q, p))
    z = q.sample((200_000,))
    torch.testing.assert_close((q.log_prob(z) - p.log_prob(z)).mean(0), normal_kl(mean, log_var), atol=0.03, rtol=0)


def test_elbo_is_the_bound_where_an_estimated_rate_is_negative():
    model = fixed_terms(distortion=torch.tensor([10.0]), rate=torch.tensor([[-0.5]]))
    assert elbo(model, torch.empty(0), None, 1.0).loss.item() == 9.5


@pytest.mark.parametrize("latent_dim", [2, 5, 8])
@pytest.mark.parametrize(("classes", "couplings"), [(None, 4), (3, 4), (None, 3)])
def test_flow_inverse_determinant_and_rate_against_autograd(latent_dim, classes, couplings):
    torch.manual_seed(0)
    conditioning = Unconditional() if classes is None else FiLM(classes)
    flow = Flow(latent_dim, conditioning, couplings=couplings, hidden=8).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    label = None if classes is None else torch.tensor([1])
    mean, log_var = torch.randn(1, latent_dim).double(), torch.randn(1, latent_dim).double()
    latent = mean + (0.5 * log_var).exp() * torch.randn(1, latent_dim).double()

    def to_noise(z: torch.Tensor) -> torch.Tensor:
        return flow.to_noise(z[None], label)[0][0]

    noise = to_noise(latent[0])
    torch.testing.assert_close(flow.from_noise(noise[None], label), latent, atol=1e-6, rtol=0)
    jacobian = torch.autograd.functional.jacobian(to_noise, latent[0])
    log_prior = D.Normal(0.0, 1.0).log_prob(noise).sum() + torch.linalg.slogdet(jacobian)[1]
    expected = -D.Normal(mean, (0.5 * log_var).exp()).entropy().sum() - log_prior
    rate = flow.rate(mean, log_var, *flow.to_noise(latent, label))
    torch.testing.assert_close(rate.sum(), expected, atol=1e-6, rtol=0)


def test_a_fresh_flow_keeps_each_number_in_its_place():
    latent = torch.tensor([[1.0, 2, 3, 4, 5]])
    for couplings in (1, 2, 3):
        flow = Flow(5, Unconditional(), couplings=couplings)
        noise, log_scale = flow.to_noise(latent, None)
        assert torch.equal(noise, latent) and not log_scale.any()
        assert torch.equal(flow.from_noise(noise, None), latent)


def test_a_fresh_flow_is_the_normal_prior_in_expectation():
    torch.manual_seed(0)
    mean, log_var = torch.randn(1, 6), torch.randn(1, 6)
    latent = mean + (0.5 * log_var).exp() * torch.randn(100_000, 6)
    flow = Flow(6, Unconditional())
    rate = flow.rate(mean, log_var.expand(100_000, 6), *flow.to_noise(latent, None))
    torch.testing.assert_close(rate.mean(), normal_kl(mean, log_var).sum(), atol=0.05, rtol=0)


def test_a_flow_needs_two_latent_dimensions():
    with pytest.raises(UsageError, match=r"flow.* at least 2, not 1"):
        Flow(1, Unconditional())


def fixed_terms(**terms: torch.Tensor) -> Callable[..., Terms]:
    """A model whose terms are known."""
    return lambda image, label, samples=1: Terms(**(dict.fromkeys(Terms._fields) | terms))


@pytest.mark.parametrize(
    ("kl_weight", "options", "expected"),
    [
        (1.0, {}, 15 + 0.3 + 4.0),
        (0.5, {}, 15 + 0.5 * 4.3),
        (1.0, {"beta": 4.0}, 15 + 4 * 4.3),
        (1.0, {"free_bits": 1.0}, 15 + 1.0 + 4.0),
        (0.5, {"beta": 2.0, "free_bits": 1.0}, 15 + 5.0),
    ],
)
def test_elbo_by_hand(kl_weight, options, expected):
    model = fixed_terms(distortion=torch.tensor([10.0, 20.0]), rate=torch.tensor([[0.2, 3.0], [0.4, 5.0]]))
    loss = elbo(model, torch.empty(0), None, kl_weight, **options)
    assert loss.loss.item() == pytest.approx(expected)
    assert (loss.distortion.item(), loss.rate.item()) == pytest.approx((15, 4.3))  # always those of beta = 1


def test_iwae_by_hand():
    """Two samples for each of two images, in a row."""
    model = fixed_terms(
        distortion=torch.tensor([10.0, 12.0, 20.0, 25.0]),
        rate=torch.ones(4, 3),
        log_ratio=torch.tensor([1.0, 2.0, 3.0, -4.0]),
    )
    each = [math.log((math.exp(-11) + math.exp(-14)) / 2), math.log((math.exp(-23) + math.exp(-21)) / 2)]
    loss = iwae(model, torch.empty(0), None, 1.0, samples=2)
    assert loss.loss.item() == pytest.approx(-sum(each) / 2)
    assert (loss.distortion.item(), loss.rate.item()) == pytest.approx((16.75, 3.0))
    half = [math.log((math.exp(-10.5) + math.exp(-13)) / 2), math.log((math.exp(-21.5) + math.exp(-23)) / 2)]
    assert iwae(model, torch.empty(0), None, 0.5, samples=2).loss.item() == pytest.approx(-sum(half) / 2)


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_the_doubly_reparameterized_gradient_has_the_same_expectation_and_less_noise(prior):
    """The decoder's and the prior's gradient is the plain one, sample by sample."""
    torch.manual_seed(0)
    model = build(model_config(prior=prior))
    image, _ = batch((1, 8, 8), False, 1)
    learn(model, image, None, "iwae", steps=100)
    many = image.expand(300, -1, -1, -1)

    def gradients(dreg: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, P) of the encoder, of all other parameters."""
        torch.manual_seed(1)
        rows: list[tuple[torch.Tensor, torch.Tensor]] = []
        for _ in range(30):
            model.zero_grad()
            iwae(sampled(model), many, None, 0.9, samples=16, dreg=dreg).loss.backward()
            of_encoder = set(model.encoder.parameters())
            rows.append(
                tuple(
                    torch.cat([p.grad.flatten() for p in model.parameters() if (p in of_encoder) == inside])
                    for inside in (True, False)
                )
            )
        encoder, others = (torch.stack(each) for each in zip(*rows, strict=True))
        return encoder, others

    (plain, others), (doubly, same) = gradients(False), gradients(True)
    torch.testing.assert_close(same, others, rtol=1e-3, atol=1e-4)
    assert plain.mean(0).norm() > 10 * (plain.std(0) / 30**0.5).norm()  # there is something to compare
    error = (plain - doubly).std(0) / 30**0.5
    assert (plain.mean(0) - doubly.mean(0)).norm() < 2 * error.norm()
    assert doubly.std(0).norm() < 0.7 * plain.std(0).norm()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which torch itself hides
def test_a_compiled_model_has_the_same_doubly_reparameterized_gradient():
    torch.manual_seed(0)
    model = build(model_config())
    image, _ = batch((1, 8, 8), False, 4)
    learn(model, image, None, "iwae", steps=20)

    def gradients(network: Callable[..., Terms], dreg: bool = True) -> torch.Tensor:
        for _ in range(2):  # the second time a compiled one has what it needs
            torch.manual_seed(1)
            model.zero_grad()
            call = sampled(network)
            iwae(call, image, None, 1.0, samples=8, dreg=dreg).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.encoder.parameters()])

    eager, compiled = gradients(model), gradients(torch.compile(model, backend="aot_eager"))
    torch.testing.assert_close(compiled, eager)
    assert (gradients(model, dreg=False) - eager).norm() > 0.1 * eager.norm()  # the hook was there


def test_a_hierarchy_has_no_doubly_reparameterized_gradient():
    model = build(model_config("ladder"))
    with pytest.raises(UsageError, match=r"objective\.dreg"):
        iwae(sampled(model), batch((1, 8, 8), False)[0], None, 1.0, dreg=True)


def test_total_correlation_of_codes_is_zero_when_independent_and_known_when_not():
    """Of a correlated normal it is -ln(1 - r^2) / 2; codes are told by their means, with little variance."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 3000, 1)

    def found(r: float) -> float:
        mean = torch.cat([first, r * first + (1 - r**2) ** 0.5 * second], dim=1)
        log_var = torch.full_like(mean, math.log(0.01))
        terms = {"mean": mean, "log_var": log_var, "latent": mean + 0.1 * torch.randn_like(mean)}
        model = fixed_terms(distortion=torch.zeros(3000), rate=torch.zeros(3000, 1), **terms)
        return beta_tc(model, torch.empty(0), None, 1.0, beta=2.0).loss.item()

    assert found(0.0) == pytest.approx(0, abs=0.05)
    assert found(0.9) == pytest.approx(-0.5 * math.log(1 - 0.81), abs=0.08)


def test_mmd_against_a_sample_of_the_prior():
    torch.manual_seed(0)
    codes, prior = 0.5 + 0.8 * torch.randn(400, 6), torch.randn(8000, 6)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.cdist(a, b).square() / 6)

    within = (kernel(codes, codes).sum() - 400) / (400 * 399)
    prior_within = (kernel(prior, prior).sum() - 8000) / (8000 * 7999)
    torch.testing.assert_close(_mmd(codes), within - 2 * kernel(codes, prior).mean() + prior_within, atol=2e-3, rtol=0)
    assert abs(_mmd(torch.randn(4000, 6))) < 1e-3 < _mmd(codes)


def test_info_by_hand():
    noise = torch.randn(20, 4)
    model = fixed_terms(distortion=torch.tensor([3.0]), rate=torch.tensor([[1.0, 1.0]]), noise=noise)
    loss = info(model, torch.empty(0), None, 0.5, alpha=0.25, mmd=10.0)
    assert loss.loss.item() == pytest.approx(3 + 0.5 * (0.75 * 2 + 10 * _mmd(noise).item()))


@pytest.mark.parametrize("prior", list(PRIORS))
@pytest.mark.parametrize("arch", FAMILIES)
def test_the_ratio_of_a_sample_is_that_of_its_densities(arch, prior):
    """log q(z | x) - log p(z), recomputed with torch's distributions and the determinant of the whole map."""
    torch.manual_seed(0)
    model = build(model_config(arch, prior=prior)).double().eval()
    for parameter in model.prior.parameters():
        nn.init.normal_(parameter, std=0.3)
    image, noise = torch.rand(2, 1, 8, 8).double(), torch.randn(6, 5).double()
    terms = model(image, None, noise)  # three samples of each image
    q = D.Normal(terms.mean, (0.5 * terms.log_var).exp())
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(
            lambda z: model.prior.to_noise(z[None], None)[0][0], terms.latent[i]
        )
        log_prior = D.Normal(0.0, 1.0).log_prob(terms.noise[i]).sum() + torch.linalg.slogdet(jacobian)[1]
        expected = q.log_prob(terms.latent)[i].sum() - log_prior
        torch.testing.assert_close(terms.log_ratio[i], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.prior.from_noise(terms.noise, None), terms.latent)
    params = model.decoder(terms.latent, None)
    torch.testing.assert_close(terms.distortion, model.likelihood.nll(params, image.repeat_interleave(3, 0)))


def test_a_ladder_infers_each_group_given_those_above():
    torch.manual_seed(0)
    model = build(model_config("ladder", (1, 16, 16), width=4, blocks=1, patch=1)).eval()
    assert model.decoder.groups == (2, 2, 1)
    image, noise = torch.rand(1, 1, 16, 16), torch.randn(1, 5)
    other = noise.clone()
    other[:, 2:4] += 1  # the middle group
    a, b = (model(image, None, each).mean[0] for each in (noise, other))
    torch.testing.assert_close(a[:4], b[:4])
    assert (a[4:] != b[4:]).all()


@pytest.mark.parametrize("shape", [(1, 2, 8), (0, 8, 8), (17, 8, 8)])
def test_impossible_image_shapes_are_refused(shape):
    with pytest.raises(UsageError, match="image shape"):
        model_config(shape=shape)
