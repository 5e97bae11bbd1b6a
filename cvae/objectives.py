"""What is minimized: pure functions of a model and a batch, in nats per image.

An objective is called as `objective(model, image, label, kl_weight, **options)`. `model(image, label)` gives the terms
of the bound for image (B, C, H, W) and label (B,) or None, or for each of these images repeated K times in a row
(K B, C, H, W); the engine supplies its noise. `kl_weight` is the engine's KL warm-up, from 0 to 1. The options are
keyword-only.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from cvae.models import Terms


class Loss(NamedTuple):
    """Scalars, averaged over the batch: the loss to minimize, and the two terms of the beta = 1 bound in nats."""

    loss: Tensor
    distortion: Tensor
    rate: Tensor


def elbo(
    model: Callable[[Tensor, Tensor | None], Terms],
    image: Tensor,
    label: Tensor | None,
    kl_weight: float,
    *,
    beta: float = 1.0,
    free_bits: float = 0.0,
) -> Loss:
    """The negative evidence lower bound, distortion + beta * rate.

    beta: Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl. free_bits: nats that cost
    nothing in each group of the rate (a latent dimension under the normal prior, all of them under a flow),
    Kingma et al. 2016, eq. 15, https://arxiv.org/abs/1606.04934.
    """
    distortion, rate = model(image, label)  # (B,), (B, D)
    paid = rate.mean(0)  # (B, D) -> (D,)
    if free_bits:  # an estimated rate may be below zero, so even a floor of zero would bias it
        paid = paid.clamp(min=free_bits)
    return Loss(distortion.mean() + kl_weight * beta * paid.sum(), distortion.mean(), rate.sum(1).mean())
