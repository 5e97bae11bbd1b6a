"""Training objectives, compared with values computed by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from model_helpers import FAMILIES, batch, forward_with_noise, learn, model_config, random_noise
from torch.distributions import Normal, kl_divergence

from cvae.errors import UsageError
from cvae.models import Terms, build
from cvae.models.objectives import _mmd, beta_tc, elbo, info, iwae, with_consistency
from cvae.registry import OBJECTIVES


def test_elbo_allows_negative_estimates_of_the_rate():
    model = fixed_terms(distortion=torch.tensor([10.0]), rate=torch.tensor([[-0.5]]))
    assert elbo(model, torch.empty(0), None, 1.0).loss.item() == 9.5


def fixed_terms(**terms: torch.Tensor) -> Callable[..., Terms]:
    """Return a model whose terms are fixed."""
    return lambda image, label, samples=1, antithetic=False: Terms(**(dict.fromkeys(Terms._fields) | terms))


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
def test_elbo_agrees_with_values_computed_by_hand(kl_weight, options, expected):
    model = fixed_terms(distortion=torch.tensor([10.0, 20.0]), rate=torch.tensor([[0.2, 3.0], [0.4, 5.0]]))
    loss = elbo(model, torch.empty(0), None, kl_weight, **options)
    assert loss.loss.item() == pytest.approx(expected)
    assert (loss.distortion.item(), loss.rate.item()) == pytest.approx((15, 4.3))  # the same for all options


def test_iwae_agrees_with_values_computed_by_hand():
    """Each of the two images has two consecutive samples."""
    model = fixed_terms(
        distortion=torch.tensor([10.0, 12.0, 20.0, 25.0]),
        rate=torch.ones(4, 3),
        log_ratio=torch.tensor([1.0, 2.0, 3.0, -4.0]),
    )
    bounds = [math.log((math.exp(-11) + math.exp(-14)) / 2), math.log((math.exp(-23) + math.exp(-21)) / 2)]
    loss = iwae(model, torch.empty(0), None, 1.0, samples=2)
    assert loss.loss.item() == pytest.approx(-sum(bounds) / 2)
    assert (loss.distortion.item(), loss.rate.item()) == pytest.approx((16.75, 3.0))
    bounds = [math.log((math.exp(-10.5) + math.exp(-13)) / 2), math.log((math.exp(-21.5) + math.exp(-23)) / 2)]
    assert iwae(model, torch.empty(0), None, 0.5, samples=2).loss.item() == pytest.approx(-sum(bounds) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_doubly_reparameterized_gradient_has_the_same_mean_and_less_noise(prior):
    """For the decoder and the prior, the two gradients are equal if they use the same noise."""
    torch.manual_seed(0)
    model = build(model_config(prior=prior))
    image, _ = batch((1, 8, 8), False, 1)
    learn(model, image, None, "iwae", steps=100)
    many = image.expand(300, -1, -1, -1)

    def gradients(dreg: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients (repetitions, P) of the encoder, and those of all other parameters."""
        torch.manual_seed(1)
        repetitions: list[tuple[torch.Tensor, torch.Tensor]] = []
        for _ in range(30):
            model.zero_grad()
            iwae(forward_with_noise(model), many, None, 0.9, samples=16, dreg=dreg).loss.backward()
            encoder_parameters = set(model.encoder.parameters())
            repetitions.append(
                tuple(
                    torch.cat([p.grad.flatten() for p in model.parameters() if (p in encoder_parameters) == is_encoder])
                    for is_encoder in (True, False)
                )
            )
        encoder, others = (torch.stack(gradient) for gradient in zip(*repetitions, strict=True))
        return encoder, others

    (plain, plain_others), (dreg, dreg_others) = gradients(False), gradients(True)
    torch.testing.assert_close(dreg_others, plain_others, rtol=1e-3, atol=1e-4)
    assert plain.mean(0).norm() > 10 * (plain.std(0) / 30**0.5).norm()  # the mean is well above its standard error
    error = (plain - dreg).std(0) / 30**0.5
    assert (plain.mean(0) - dreg.mean(0)).norm() < 2 * error.norm()
    assert dreg.std(0).norm() < 0.7 * plain.std(0).norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch hides this warning too
def test_compiled_model_has_the_same_doubly_reparameterized_gradient():
    torch.manual_seed(0)
    model = build(model_config())
    image, _ = batch((1, 8, 8), False, 4)
    learn(model, image, None, "iwae", steps=20)

    def gradients(network: Callable[..., Terms], dreg: bool = True) -> torch.Tensor:
        for _ in range(2):  # the first call of a compiled model compiles it
            torch.manual_seed(1)
            model.zero_grad()
            call = forward_with_noise(network)
            iwae(call, image, None, 1.0, samples=8, dreg=dreg).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.encoder.parameters()])

    eager, compiled = gradients(model), gradients(torch.compile(model, backend="aot_eager"))
    torch.testing.assert_close(compiled, eager)
    assert (gradients(model, dreg=False) - eager).norm() > 0.1 * eager.norm()  # `dreg` changes the gradient


def test_hierarchical_model_rejects_doubly_reparameterized_gradient():
    model = build(model_config("ladder"))
    with pytest.raises(UsageError, match=r"objective\.dreg"):
        iwae(forward_with_noise(model), batch((1, 8, 8), False)[0], None, 1.0, dreg=True)


@pytest.mark.integration
def test_total_correlation_agrees_with_correlated_normal():
    """The total correlation of a correlated normal is -ln(1 - r^2) / 2. Narrow posteriors hardly change it."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 3000, 1)

    def total_correlation(r: float) -> float:
        mean = torch.cat([first, r * first + (1 - r**2) ** 0.5 * second], dim=1)
        log_var = torch.full_like(mean, math.log(0.01))
        terms = {"mean": mean, "log_var": log_var, "latent": mean + 0.1 * torch.randn_like(mean)}
        model = fixed_terms(distortion=torch.zeros(3000), rate=torch.zeros(3000, 1), **terms)
        return beta_tc(model, torch.empty(0), None, 1.0, beta=2.0).loss.item()

    assert total_correlation(0.0) == pytest.approx(0, abs=0.05)
    assert total_correlation(0.9) == pytest.approx(-0.5 * math.log(1 - 0.81), abs=0.08)


@pytest.mark.integration
def test_mmd_agrees_with_an_estimate_from_prior_samples():
    torch.manual_seed(0)
    codes, prior = 0.5 + 0.8 * torch.randn(400, 6), torch.randn(8000, 6)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.cdist(a, b).square() / 6)

    within = (kernel(codes, codes).sum() - 400) / (400 * 399)
    prior_within = (kernel(prior, prior).sum() - 8000) / (8000 * 7999)
    torch.testing.assert_close(_mmd(codes), within - 2 * kernel(codes, prior).mean() + prior_within, atol=2e-3, rtol=0)
    assert abs(_mmd(torch.randn(4000, 6))) < 1e-3 < _mmd(codes)


def test_info_agrees_with_values_computed_by_hand():
    noise = torch.randn(20, 4)
    model = fixed_terms(distortion=torch.tensor([3.0]), rate=torch.tensor([[1.0, 1.0]]), noise=noise)
    loss = info(model, torch.empty(0), None, 0.5, alpha=0.25, mmd=10.0)
    assert loss.loss.item() == pytest.approx(3 + 0.5 * (0.75 * 2 + 10 * _mmd(noise).item()))


@pytest.mark.parametrize(
    ("objective", "options", "samples"), [(elbo, {"antithetic": False}, 1), (iwae, {"samples": 3}, 3)]
)
def test_consistency_adds_the_divergence_between_the_posteriors_of_each_pair(objective, options, samples):
    torch.manual_seed(0)
    mean, log_var = torch.randn(2, 8, 5).repeat_interleave(samples, 1)  # four pairs
    terms = {"distortion": 10 * torch.rand(8 * samples), "rate": torch.rand(8 * samples, 5)}
    model = fixed_terms(**terms, log_ratio=torch.rand(8 * samples), mean=mean, log_var=log_var)
    posterior = [Normal(mean[i :: 2 * samples], torch.exp(0.5 * log_var[i :: 2 * samples])) for i in (0, samples)]
    divergence = kl_divergence(posterior[1], posterior[0]).sum(1).mean()
    plain = objective(model, torch.empty(8), None, 0.5, **options)
    paired = with_consistency(objective, 0.2)(model, torch.empty(8), None, 0.5, **options)
    torch.testing.assert_close(paired.loss, plain.loss + 0.5 * 0.2 * 0.5 * divergence)
    assert paired[1:] == plain[1:]


@pytest.mark.parametrize("objective", [*OBJECTIVES])
@pytest.mark.parametrize("arch", FAMILIES)
def test_consistency_adds_no_penalty_for_the_identity_transformation(arch, objective):
    torch.manual_seed(0)
    model = build(model_config(arch)).eval()
    image, _ = batch((1, 8, 8), False)
    original, others = (torch.stack([image, other], 1).flatten(0, 1) for other in (image, 1 - image))

    def paired_noise(image: torch.Tensor, label: None, samples: int = 1, *, antithetic: bool = False) -> Terms:
        torch.manual_seed(1)
        noise = random_noise(len(image) // 2, samples, model.latent_dim, antithetic)
        return model(image, label, noise[:, None].expand(-1, 2, -1, -1).flatten(0, 2))

    def penalty(image: torch.Tensor) -> float:
        part = OBJECTIVES.get(objective)
        paired, plain = (f(paired_noise, image, None, 1.0).loss for f in (with_consistency(part, 1e4), part))
        return (paired - plain).item()

    assert abs(penalty(original)) < 1e-3
    assert penalty(others) > 1


def test_consistency_penalty_of_equal_posteriors_is_exactly_zero():
    mean, log_var = (torch.randn(4, 1, 3).expand(-1, 2, -1).flatten(0, 1) for _ in range(2))
    terms = {"distortion": torch.rand(8), "rate": torch.rand(8, 3), "mean": mean, "log_var": log_var}
    losses = [
        objective(fixed_terms(**terms), torch.empty(8), None, 1.0, antithetic=False).loss
        for objective in (elbo, with_consistency(elbo, 1e6))
    ]
    assert losses[0] == losses[1]
