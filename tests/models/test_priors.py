"""Priors, compared with torch.distributions, automatic differentiation and Monte Carlo estimates."""

import pytest
import torch
from model_helpers import ARCHITECTURES_AND_PRIORS, model_config
from torch import Tensor, nn
from torch import distributions as D

from cvae.errors import UsageError
from cvae.models import build
from cvae.models.conditioning import FiLM, Unconditional
from cvae.models.priors import normal_kl
from cvae.models.priors.flow import Flow, GridFlow
from cvae.models.priors.flow_matching import FlowMatching


def test_kl_agrees_with_torch_and_monte_carlo():
    torch.manual_seed(0)
    mean, log_var = torch.randn(3, 4), torch.randn(3, 4)
    q, p = D.Normal(mean, (0.5 * log_var).exp()), D.Normal(0.0, 1.0)
    torch.testing.assert_close(normal_kl(mean, log_var), D.kl_divergence(q, p))
    z = q.sample((200_000,))
    torch.testing.assert_close((q.log_prob(z) - p.log_prob(z)).mean(0), normal_kl(mean, log_var), atol=0.03, rtol=0)


@pytest.mark.parametrize(("latent_dim", "dims"), [(2, 0), (5, 0), (8, 0), (8, 8)])
@pytest.mark.parametrize(("classes", "couplings"), [(None, 4), (3, 4), (None, 3)])
def test_flow_is_invertible_and_its_rate_agrees_with_autograd(latent_dim, dims, classes, couplings):
    torch.manual_seed(0)
    conditioning = Unconditional() if classes is None else FiLM(classes)
    flow = Flow((latent_dim,), conditioning, couplings=couplings, hidden=8, dims=dims).double()
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


def test_new_flow_is_the_identity():
    latent = torch.tensor([[1.0, 2, 3, 4, 5]])
    for couplings in (1, 2, 3):
        flow = Flow((5,), Unconditional(), couplings=couplings)
        noise, log_scale = flow.to_noise(latent, None)
        assert torch.equal(noise, latent) and not log_scale.any()
        assert torch.equal(flow.from_noise(noise, None), latent)


@pytest.mark.integration
def test_mean_rate_of_new_flow_equals_the_kl_of_the_normal_prior():
    torch.manual_seed(0)
    mean, log_var = torch.randn(1, 6), torch.randn(1, 6)
    latent = mean + (0.5 * log_var).exp() * torch.randn(100_000, 6)
    flow = Flow((6,), Unconditional())
    rate = flow.rate(mean, log_var.expand(100_000, 6), *flow.to_noise(latent, None))
    torch.testing.assert_close(rate.mean(), normal_kl(mean, log_var).sum(), atol=0.05, rtol=0)


def test_flow_transforms_only_the_first_dims_dimensions():
    torch.manual_seed(0)
    flow, mean, log_var = Flow((7,), Unconditional(), hidden=8, dims=4), torch.randn(1, 7), torch.randn(1, 7)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    latent = mean + (0.5 * log_var).exp() * torch.randn(50_000, 7)
    noise, log_scale = flow.to_noise(latent, None)
    assert torch.equal(noise[:, 4:], latent[:, 4:]) and not log_scale[:, 4:].any()
    assert not torch.equal(noise[:, :4], latent[:, :4])
    torch.testing.assert_close(flow.from_noise(noise, None), latent, atol=1e-4, rtol=1e-4)
    log_prior = D.Normal(0.0, 1.0).log_prob(noise).sum(1) + log_scale.sum(1)
    log_ratio = D.Normal(mean, (0.5 * log_var).exp()).log_prob(latent).sum(1) - log_prior
    rate = flow.rate(mean, log_var.expand(50_000, 7), noise, log_scale)
    torch.testing.assert_close(rate.sum(1).mean(), log_ratio.mean(), atol=0.1, rtol=0)
    posterior = D.Normal(mean[0, 4:], (0.5 * log_var[0, 4:]).exp())
    torch.testing.assert_close(rate[0, 1:], D.kl_divergence(posterior, D.Normal(0.0, 1.0)))


@pytest.mark.parametrize("dims", [1, 6, -1])
def test_flow_rejects_an_invalid_number_of_dimensions(dims):
    with pytest.raises(UsageError, match=rf"dims={dims} must be 0 or in 2..5"):
        Flow((5,), Unconditional(), dims=dims)


def test_flow_requires_two_latent_dimensions():
    with pytest.raises(UsageError, match=r"flow.* at least 2, not 1"):
        Flow((1,), Unconditional())


@pytest.mark.parametrize(("arch", "prior"), ARCHITECTURES_AND_PRIORS)
def test_log_ratio_of_a_sample_agrees_with_its_densities(arch, prior):
    """The expected log q(z | x) - log p(z) comes from torch.distributions and the Jacobian of the map from noise."""
    torch.manual_seed(0)
    model = build(model_config(arch, prior=prior)).double().eval()
    for parameter in model.prior.parameters():
        nn.init.normal_(parameter, std=0.2 * max(parameter.shape[-1], 25) ** -0.5)  # a smooth, invertible map
    image, noise = torch.rand(2, 1, 8, 8).double(), torch.randn(6, model.latent_dim).double()
    terms = model(image, None, noise)  # three samples of each image
    q = D.Normal(terms.mean, (0.5 * terms.log_var).exp())
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(
            lambda noise: model.prior.from_noise(noise[None], None)[0], terms.noise[i]
        )
        log_prior = D.Normal(0.0, 1.0).log_prob(terms.noise[i]).sum() - torch.linalg.slogdet(jacobian)[1]
        expected = q.log_prob(terms.latent)[i].sum() - log_prior
        torch.testing.assert_close(terms.log_ratio[i], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.prior.from_noise(terms.noise, None), terms.latent, rtol=1e-4, atol=1e-4)
    params = model.decoder(terms.latent, None)
    torch.testing.assert_close(terms.distortion, model.likelihood.nll(params, image.repeat_interleave(3, 0)))


def test_grid_flow_requires_a_grid_with_two_channels():
    for shape in [(5,), (1, 4, 4)]:
        with pytest.raises(UsageError, match="needs a grid of latents with at least two channels"):
            GridFlow(shape, Unconditional())


def trained_flow_matching(**options: float) -> FlowMatching:
    """Return a prior trained on two classes: normal distributions with the means (2, 0) and (-2, 0)."""
    torch.manual_seed(0)
    prior = FlowMatching((3,), FiLM(3), hidden=32, blocks=1, steps=16, smoothing=0.0, dims=2, rest_std=0.5, **options)
    optimizer = torch.optim.Adam(prior.parameters(), 5e-3)
    for _ in range(500):
        label = torch.randint(2, (128,))
        latent = torch.randn(128, 3) * torch.tensor([0.5, 1.5, 1.0])
        latent[:, 0] += 2 - 4 * label
        optimizer.zero_grad()
        prior.loss(latent, label).backward()
        optimizer.step()
    return prior.eval()


@pytest.mark.integration
def test_flow_matching_learns_the_distribution_of_each_label():
    prior = trained_flow_matching()
    noise = torch.randn(20_000, 3)
    for label in (0, 1):
        labels = torch.full((len(noise),), label)
        latent = prior.from_noise(noise, labels).detach()
        torch.testing.assert_close(latent.mean(0), torch.tensor([2.0 - 4 * label, 0, 0]), atol=0.2, rtol=0)
        torch.testing.assert_close(latent.std(0), torch.tensor([0.5, 1.5, 0.5]), atol=0.3, rtol=0)
        inverse, _ = prior.to_noise(latent, labels)
        torch.testing.assert_close(inverse, noise, atol=0.02, rtol=0.02)
    unknown = prior.from_noise(noise, torch.full((len(noise),), 2)).detach()
    assert 0.4 < (unknown[:, 0] > 0).float().mean() < 0.6  # both classes


class ScaledNormalVelocity(nn.Module):
    """Velocity for normal latents with a standard deviation, minus that for standard normal latents."""

    def __init__(self, std: Tensor) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        slopes = [(t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2) for std in (self.std, torch.ones(1))]
        return (slopes[0] - slopes[1]) * x


@pytest.mark.parametrize(("std", "tolerance"), [(1.0, 1e-6), (0.5, 0.03), (2.0, 0.03)])
def test_flow_matching_scales_noise_to_normal_latents(std, tolerance):
    prior, noise = FlowMatching((4,), Unconditional(), hidden=8, steps=16), torch.randn(6, 4)
    prior.velocity = ScaledNormalVelocity(torch.tensor(std))
    torch.testing.assert_close(prior.from_noise(noise, None), std * noise, rtol=tolerance, atol=0)


def test_flow_matching_inverts_steps_that_change_latents_a_lot():
    prior, noise = FlowMatching((4,), Unconditional(), hidden=8, steps=8), torch.randn(6, 4)
    prior.velocity = ScaledNormalVelocity(torch.tensor([0.2, 0.5, 2.0, 10.0]))
    inverse, _ = prior.to_noise(prior.from_noise(noise, None), None)
    torch.testing.assert_close(inverse, noise, rtol=0.01, atol=0.01)


@pytest.mark.integration
def test_guidance_moves_samples_away_from_other_labels():
    prior = trained_flow_matching()
    noise, labels = torch.randn(2000, 3), torch.zeros(2000, dtype=torch.long)
    means = []
    for guidance in (1.0, 1.5):
        prior.guidance = guidance
        means.append(prior.from_noise(noise, labels)[:, 0].mean().item())
    assert means[1] > means[0] + 0.1


def test_estimated_log_determinant_agrees_with_the_jacobians(monkeypatch):
    monkeypatch.setattr("cvae.models.priors.flow_matching.MAX_JACOBIAN", 3)
    torch.manual_seed(0)
    prior = FlowMatching((4,), FiLM(4), hidden=8, steps=4).double()
    for parameter in prior.velocity.parameters():
        nn.init.normal_(parameter, std=0.3)
    latent, label = torch.randn(1, 4).double(), torch.tensor([2])
    x, log_det, identity = prior.to_noise(latent, label)[0], 0.0, torch.eye(4)
    for k in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda x, k=k: prior._step(x, k, label, 1)[0], x)
        change = jacobian[:, 0] - identity
        log_det += torch.trace(change - change @ change / 2).item()
        x = prior._step(x, k, label, 1)
    zeros, samples = torch.zeros(20_000, 4).double(), latent.expand(20_000, 4)
    terms = prior.terms(zeros, zeros, samples, label.expand(20_000))
    expected = D.Normal(0.0, 1.0).log_prob(terms.noise[0]).sum() - log_det
    torch.testing.assert_close(terms.log_prob.mean(), expected, atol=0.05, rtol=0)
    again = prior.terms(zeros, zeros, samples, label.expand(20_000))
    assert terms.log_prob.std() > 0 and torch.equal(again.log_prob, terms.log_prob)


def test_times_of_flow_matching_average_its_loss(monkeypatch):
    monkeypatch.setattr("cvae.models.priors.flow_matching.MOMENTUM", 0.0)  # the latents stay normalized as they are
    torch.manual_seed(0)
    latent, label = torch.randn(64, 4), torch.randint(3, (64,))
    losses = []
    for times in (1, 500):
        torch.manual_seed(0)
        prior = FlowMatching((4,), FiLM(4), hidden=8, times=times)
        orders = [torch.randperm(len(latent)) for _ in range(500 // times)]  # the times are stratified over the batch
        with torch.no_grad():
            losses.append(torch.stack([prior.loss(latent[order], label[order]) for order in orders]).mean())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)


def test_flow_matching_does_not_train_the_encoder():
    prior, latent = FlowMatching((4,), Unconditional(), hidden=8), torch.randn(6, 4, requires_grad=True)
    prior.loss(latent, None).backward()
    assert latent.grad is None and prior.velocity.leave.weight.grad.any()
    terms = prior.training_terms(torch.zeros(6, 4), torch.zeros(6, 4), latent, None)
    assert terms.loss is not None
    torch.testing.assert_close(terms.rate, torch.zeros(6, 4))  # KL of N(0, 1) from the normal prior


def test_frozen_flow_matching_keeps_its_statistics():
    model = build(model_config(prior="flow-matching"))
    model.train().prior.eval()  # as the engine does for --freeze prior
    mean = model.prior.mean.clone()
    assert model(torch.rand(4, 1, 8, 8)).prior_loss is None
    assert torch.equal(model.prior.mean, mean)
