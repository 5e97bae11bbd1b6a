"""Training objectives: pure functions of a model and a batch, in nats per image.

An objective is called as `objective(model, image, rows, kl_weight, **options)`. `model(image, rows)` returns the terms
of the bound for image (B, C, H, W) and the rows of its conditions, or None; `model(image, rows, samples=K)` returns the
terms of K consecutive samples for each image, (B K, ...). With `antithetic=True`, K must be even, and the second half
of the samples has the opposite noise of the first half. The engine supplies the noise and `kl_weight`, which its KL
warm-up increases from 0 to 1. Options are keyword-only. If an option is called `samples`, validation uses the same
number of samples for its importance-weighted bound.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.models import Terms
from cvae.models.priors import normal_kl

NonNegative = Annotated[float, Interval(minimum=0)]


class Model(Protocol):
    """Interface of the model that an objective calls."""

    def __call__(self, image: Tensor, rows: Tensor | None, samples: int = 1, *, antithetic: bool = False) -> Terms: ...


class Loss(NamedTuple):
    """Loss to minimize, and the two terms of the beta = 1 bound in nats: scalars, averaged over the batch."""

    loss: Tensor
    distortion: Tensor
    rate: Tensor


def elbo(
    model: Model,
    image: Tensor,
    rows: Tensor | None,
    kl_weight: float,
    *,
    beta: NonNegative = 1.0,
    free_bits: NonNegative = 0.0,
    antithetic: bool = True,
) -> Loss:
    """Return the negative evidence lower bound, distortion + beta * rate.

    Args:
        beta: weight of the rate (Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl).
        free_bits: nats of the rate that cost nothing, for each latent dimension, but for all dimensions of a flow
            together (Kingma et al. 2016, eq. 15, https://arxiv.org/abs/1606.04934).
        antithetic: whether to decode two samples of each image with opposite noise, mean + std * noise and
            mean - std * noise. This reduces the variance of the gradient (Wu et al. 2019, "Differentiable antithetic
            sampling for variance reduction in stochastic variational inference", https://arxiv.org/abs/1810.02555).
    """
    terms = model(image, rows, 2, antithetic=True) if antithetic else model(image, rows)
    rate = terms.rate.mean(0)  # (B, D) -> (D,)
    if free_bits:  # don't clamp at 0: an estimated rate may be negative, and clamping would bias it
        rate = rate.clamp(min=free_bits)
    return _loss(terms, terms.distortion.mean() + kl_weight * beta * rate.sum())


def iwae(
    model: Model,
    image: Tensor,
    rows: Tensor | None,
    kl_weight: float,
    *,
    samples: Annotated[int, Interval(minimum=1, maximum=10_000)] = 5,
    dreg: bool = False,
) -> Loss:
    """Return the negative importance-weighted bound, which is tighter than the ELBO but needs K samples per image.

    Burda et al. 2015, eq. 8, https://arxiv.org/abs/1509.00519.

    Args:
        samples: number K of samples per image.
        dreg: whether to use the doubly reparameterized gradient for the encoder (Tucker et al. 2018, eq. 7,
            https://arxiv.org/abs/1810.04152). It has the same expectation, but its signal-to-noise ratio does not
            decrease with the number of samples.

    Raises:
        UsageError: If `dreg` is true and the latents are hierarchical.
    """
    terms = model(image, rows, samples)
    if dreg and terms.hierarchical:  # the gradient passes through several groups, and each group would weight it again
        raise UsageError(
            "objective.dreg=true needs a single group of latents, but this architecture has hierarchical latents; "
            "remove the option, or choose another --arch"
        )
    log_ratio = _keep_path_gradient(terms) if dreg else terms.log_ratio
    log_weight = (-terms.distortion - kl_weight * log_ratio).unflatten(0, (-1, samples))  # (B K,) -> (B, K)
    if dreg and terms.latent.requires_grad:
        # Autograd weights the gradient of a sample by its normalized weight w. Instead of w, the estimator needs
        # w (1 - k + k w), where k is `kl_weight`.
        weight = log_weight.detach().softmax(1)
        factor = torch.lerp(torch.ones_like(weight), weight, kl_weight).flatten()[:, None]  # (B, K) -> (B K, 1)
        terms.latent.register_hook(lambda gradient: gradient * factor)
    return _loss(terms, math.log(samples) - log_weight.logsumexp(1).mean())


def _keep_path_gradient(terms: Terms) -> Tensor:
    """Return `terms.log_ratio` (B,), with the gradient of log q(z | x) only through the sample."""
    mean, log_var = terms.mean.detach(), terms.log_var.detach()
    score = -0.5 * terms.log_var.sum(1)  # the terms of log q that depend on the parameters, for fixed noise
    path = -0.5 * ((terms.latent - mean).square() * torch.exp(-log_var)).sum(1)
    return terms.log_ratio - (score - score.detach()) + (path - path.detach())


def beta_tc(model: Model, image: Tensor, rows: Tensor | None, kl_weight: float, *, beta: NonNegative = 4.0) -> Loss:
    """Return the negative ELBO with weight `beta` on the total correlation, so that dimensions become independent.

    Chen et al. 2018, eq. 4, https://arxiv.org/abs/1802.04942, with minibatch-weighted sampling. The constant of that
    estimator, the logarithm of the data set's size, is omitted because it has no gradient. With hierarchical latents,
    each group of an image's posterior is conditioned on the groups before it in the sample from that image.

    Args:
        beta: weight of the total correlation.

    Raises:
        UsageError: If the batch has only one image.
    """
    terms = model(image, rows)
    return _loss(terms, (terms.distortion + kl_weight * terms.rate.sum(1)).mean() + kl_weight * (beta - 1) * _tc(terms))


def _tc(terms: Terms) -> Tensor:
    """Return the total correlation KL(q(z) || prod_d q(z_d)), where q(z) is the mean of the batch's posteriors."""
    _require_several_images(len(terms.latent))
    offset = terms.latent[:, None] - terms.mean  # (B, Z), (B, Z) -> (B, B, Z): sample i under the posterior of image j
    log_q = -0.5 * (offset.square() * torch.exp(-terms.log_var) + terms.log_var + math.log(2 * math.pi))
    count = math.log(len(offset))
    joint = log_q.sum(2).logsumexp(1) - count  # (B, B, Z) -> (B,)
    product = (log_q.logsumexp(1) - count).sum(1)  # (B, B, Z) -> (B, Z) -> (B,)
    return (joint - product).mean()


def info(
    model: Model,
    image: Tensor,
    rows: Tensor | None,
    kl_weight: float,
    *,
    alpha: Annotated[float, Interval(minimum=0, maximum=1)] = 0.5,
    mmd: NonNegative = 100.0,
) -> Loss:
    """Return the InfoVAE objective: less weight on the rate, and a penalty on the distance of q(z) from p(z).

    The latent then carries more information about the image and still follows the prior. Zhao, Song & Ermon 2017,
    eq. 6, https://arxiv.org/abs/1706.02262.

    Args:
        alpha: fraction of the rate that costs nothing.
        mmd: weight of the squared maximum mean discrepancy.

    Raises:
        UsageError: If the batch has only one image.
    """
    terms = model(image, rows)
    negative_elbo = (terms.distortion + kl_weight * (1 - alpha) * terms.rate.sum(1)).mean()
    return _loss(terms, negative_elbo + kl_weight * mmd * _mmd(terms.noise))


def _mmd(noise: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy between samples (B, Z) and the standard normal distribution.

    Gretton et al. 2012, eq. 3. With the kernel exp(-|a - b|^2 / Z), all expectations over the normal distribution have
    a closed form.
    """
    count, dim = noise.shape
    _require_several_images(count)
    # exp(-|a - b|^2 / 2 s) has the expectation (s / (s + v))^(Z / 2) exp(-|m|^2 / 2 (s + v)) for a - b ~ N(m, v).
    width = dim / 2
    kernel = torch.exp(-(noise[:, None] - noise).square().sum(2) / (2 * width))  # (B, Z) -> (B, B)
    within = (kernel.sum() - count) / (count * (count - 1))  # excludes the pair of each sample with itself
    across = (width / (width + 1)) ** (dim / 2) * torch.exp(-noise.square().sum(1) / (2 * (width + 1))).mean()
    return within - 2 * across + (width / (width + 2)) ** (dim / 2)


def _require_several_images(count: int) -> None:
    if count < 2:
        raise UsageError(
            "this objective compares the latents of several images, but a batch (or a part of it, with --accumulate) "
            "has only one; choose a larger --batch-size"
        )


def with_consistency(objective: Callable[..., Loss], weight: float) -> Callable[..., Loss]:
    """Return an objective for pairs of images that also keeps the posteriors of each pair close to each other.

    In the batch (2 B, C, H, W), each image x is followed by its transformed copy t(x). The loss of a pair is half of
    objective(x) + objective(t(x)) + weight * KL(q(z | t(x)) || q(z | x)). Sinha & Dieng 2021, eq. 3,
    https://arxiv.org/abs/2105.14859.

    Args:
        objective: objective of single images.
        weight: weight of the KL divergence.
    """

    def paired(model: Model, image: Tensor, rows: Tensor | None, kl_weight: float, **options: Any) -> Loss:
        divergences = []

        def record_divergence(image: Tensor, rows: Tensor | None, samples: int = 1, **options: bool) -> Terms:
            terms = model(image, rows, samples, **options)
            divergences.append(_pair_kl(terms, samples))
            return terms

        loss = objective(record_divergence, image, rows, kl_weight, **options)
        return loss._replace(loss=loss.loss + 0.5 * weight * kl_weight * torch.stack(divergences).mean())

    return paired


def _pair_kl(terms: Terms, samples: int) -> Tensor:
    """Return KL(q(z | t(x)) || q(z | x)), averaged over the pairs of a batch.

    With hierarchical latents, it is the sum over the groups, each conditioned on the groups before it in the sample
    from the same image.
    """
    mean, copy_mean = terms.mean.unflatten(0, (-1, 2, samples)).unbind(1)  # (2 B K, Z) -> (B, K, Z) each
    log_var, copy_log_var = terms.log_var.unflatten(0, (-1, 2, samples)).unbind(1)
    # A divergence is the same in coordinates in which q(z | x) is standard normal.
    return normal_kl((copy_mean - mean) * torch.exp(-0.5 * log_var), copy_log_var - log_var).sum(2).mean()


def _loss(terms: Terms, loss: Tensor) -> Loss:
    if terms.prior_loss is not None:
        loss = loss + terms.prior_loss
    return Loss(loss, terms.distortion.mean(), terms.rate.sum(1).mean())
