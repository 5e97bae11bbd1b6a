"""What is minimized: pure functions of a model and a batch, in nats per image.

An objective is called as `objective(model, image, label, kl_weight, **options)`. `model(image, label)` gives the terms
of the bound for image (B, C, H, W) and label (B,) or None; `model(image, label, samples=K)` those of K samples in a
row for each image, (B K, ...). With `latent_hook` the gradient of the samples (B K, Z) passes through that function on
its way to the encoder. The engine supplies the noise. `kl_weight` is the engine's KL warm-up, from 0 to 1. The options
are keyword-only; where one is `samples`, validation takes as many for its importance-weighted bound.
"""

import math
from typing import Annotated, NamedTuple, Protocol

import torch
from torch import Tensor

from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.models import LatentHook, Terms

NotNegative = Annotated[float, Interval(minimum=0)]


class Model(Protocol):
    """A model as an objective sees it."""

    def __call__(
        self, image: Tensor, label: Tensor | None, samples: int = 1, latent_hook: LatentHook | None = None
    ) -> Terms: ...


class Loss(NamedTuple):
    """Scalars, averaged over the batch: the loss to minimize, and the two terms of the beta = 1 bound in nats."""

    loss: Tensor
    distortion: Tensor
    rate: Tensor


def elbo(
    model: Model,
    image: Tensor,
    label: Tensor | None,
    kl_weight: float,
    *,
    beta: NotNegative = 1.0,
    free_bits: NotNegative = 0.0,
) -> Loss:
    """The negative evidence lower bound, distortion + beta * rate.

    beta: Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl. free_bits: nats that cost
    nothing in each group of the rate (a latent dimension under the normal prior, all of them under a flow),
    Kingma et al. 2016, eq. 15, https://arxiv.org/abs/1606.04934.
    """
    terms = model(image, label)
    paid = terms.rate.mean(0)  # (B, D) -> (D,)
    if free_bits:  # an estimated rate may be below zero, so even a floor of zero would bias it
        paid = paid.clamp(min=free_bits)
    return _loss(terms, terms.distortion.mean() + kl_weight * beta * paid.sum())


def iwae(
    model: Model,
    image: Tensor,
    label: Tensor | None,
    kl_weight: float,
    *,
    samples: Annotated[int, Interval(minimum=1, maximum=10_000)] = 5,
    dreg: bool = False,
) -> Loss:
    """The negative importance-weighted bound of `samples` samples (Burda et al. 2015, eq. 8,
    https://arxiv.org/abs/1509.00519): tighter than the ELBO, at the price of a decoding for each sample.

    dreg: the doubly reparameterized gradient for the encoder (Tucker et al. 2018, eq. 7,
    https://arxiv.org/abs/1810.04152), which has the same expectation and, unlike the plain one, does not drown in noise
    with many samples. For one group of latents only.

    Raises:
        UsageError: `dreg` is asked of a hierarchy.
    """
    weight: Tensor  # (B, K), of each sample, adding up to 1

    def weigh(gradient: Tensor) -> Tensor:
        """The gradient (B K, Z) has come with the weight w; w (1 - k + k w) is wanted, k being `kl_weight`."""
        return gradient * torch.lerp(torch.ones_like(weight), weight, kl_weight).flatten()[:, None]

    terms = model(image, label, samples, latent_hook=weigh) if dreg else model(image, label, samples)
    log_ratio = _through_the_sample(terms) if dreg else terms.log_ratio
    log_weight = (-terms.distortion - kl_weight * log_ratio).unflatten(0, (-1, samples))  # (B K,) -> (B, K)
    weight = log_weight.detach().softmax(1)
    return _loss(terms, math.log(samples) - log_weight.logsumexp(1).mean())


def _through_the_sample(terms: Terms) -> Tensor:
    """`terms.log_ratio` (B,) with a gradient for q(z | x) by way of the sample alone, not of its own parameters."""
    mean, log_var = terms.mean.detach(), terms.log_var.detach()
    of_parameters = -0.5 * terms.log_var.sum(1)  # of log q, written as a function of the noise
    of_sample = -0.5 * ((terms.latent - mean).square() * torch.exp(-log_var)).sum(1)
    return terms.log_ratio - (of_parameters - of_parameters.detach()) + (of_sample - of_sample.detach())


def beta_tc(model: Model, image: Tensor, label: Tensor | None, kl_weight: float, *, beta: NotNegative = 4.0) -> Loss:
    """The ELBO with `beta` on the total correlation alone, so that latent dimensions become independent.

    Chen et al. 2018, eq. 4, https://arxiv.org/abs/1802.04942, with minibatch-weighted sampling; its constant, the
    logarithm of the data set's size, has no gradient and is left out. In a hierarchy of latents q(z | x) of another
    image is taken along that image's own sample.
    """
    terms = model(image, label)
    return _loss(terms, (terms.distortion + kl_weight * terms.rate.sum(1)).mean() + kl_weight * (beta - 1) * _tc(terms))


def _tc(terms: Terms) -> Tensor:
    """KL(q(z) || prod_d q(z_d)), with q(z) the mean of the batch's posteriors."""
    _several(len(terms.latent))
    offset = terms.latent[:, None] - terms.mean  # (B, Z), (B, Z) -> (B, B, Z): sample i under the posterior of image j
    log_q = -0.5 * (offset.square() * torch.exp(-terms.log_var) + terms.log_var + math.log(2 * math.pi))
    count = math.log(len(offset))
    joint = log_q.sum(2).logsumexp(1) - count  # (B, B, Z) -> (B,)
    product = (log_q.logsumexp(1) - count).sum(1)  # (B, B, Z) -> (B, Z) -> (B,)
    return (joint - product).mean()


def info(
    model: Model,
    image: Tensor,
    label: Tensor | None,
    kl_weight: float,
    *,
    alpha: Annotated[float, Interval(minimum=0, maximum=1)] = 0.5,
    mmd: NotNegative = 100.0,
) -> Loss:
    """The ELBO with 1 - `alpha` of the rate, and `mmd` times the squared distance of q(z) from p(z).

    Zhao, Song & Ermon 2017, "InfoVAE", eq. 6, https://arxiv.org/abs/1706.02262: a code that says more of the image,
    and still has the prior's distribution.
    """
    terms = model(image, label)
    elbo_part = (terms.distortion + kl_weight * (1 - alpha) * terms.rate.sum(1)).mean()
    return _loss(terms, elbo_part + kl_weight * mmd * _mmd(terms.noise))


def _mmd(noise: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of samples (B, Z) from the standard normal (Gretton et al. 2012, eq. 3).

    With the kernel exp(-|a - b|^2 / Z) all expectations over the normal distribution have a formula.
    """
    count, dim = noise.shape
    _several(count)
    # exp(-|a - b|^2 / 2 s) has the expectation (s / (s + v))^(Z / 2) exp(-|m|^2 / 2 (s + v)) for a - b ~ N(m, v).
    width = dim / 2
    among = torch.exp(-(noise[:, None] - noise).square().sum(2) / (2 * width))  # (B, Z) -> (B, B)
    within = (among.sum() - count) / (count * (count - 1))  # without each sample and itself
    across = (width / (width + 1)) ** (dim / 2) * torch.exp(-noise.square().sum(1) / (2 * (width + 1))).mean()
    return within - 2 * across + (width / (width + 2)) ** (dim / 2)


def _several(count: int) -> None:
    if count < 2:
        raise UsageError("the distribution of codes needs several images in a batch, or in a part of --accumulate")


def _loss(terms: Terms, loss: Tensor) -> Loss:
    return Loss(loss, terms.distortion.mean(), terms.rate.sum(1).mean())
