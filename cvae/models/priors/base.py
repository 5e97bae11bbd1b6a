"""Priors p(z), as invertible maps between the latent space and standard normal noise.

A prior is created with the shape of the latents and the conditioning, so that it may depend on the condition.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cvae.models.conditioning import Conditioning


def normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) || N(0, 1)) in nats, elementwise (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def normal_log_prob(noise: Tensor) -> Tensor:
    """Return log N(noise | 0, 1) in nats, elementwise."""
    return -0.5 * (noise.square() + math.log(2 * math.pi))


class PriorTerms(NamedTuple):
    """Terms of the bound that depend on the prior, in nats.

    Attributes:
        rate: KL(q(z | x) || p(z)), (B, D): D = Z if the prior factorizes. Otherwise, the first column is the rate of
            the first Z - D + 1 dimensions together, and each later dimension has a column of its own.
        log_prob: log p(z) of the sample, (B,).
        noise: the sample, mapped to noise, (B, Z).
        loss: training loss of the prior, a scalar, if the bound does not train it, else None.
    """

    rate: Tensor
    log_prob: Tensor
    noise: Tensor
    loss: Tensor | None = None


class Prior(nn.Module, ABC):
    """Base class of the priors: the map from latents to standard normal noise, and its inverse.

    A prior is created with the shape of the latents and the conditioning. The shape is (Z,) for a vector, and (k, h, w)
    for a grid of k latents at each of h x w positions. The maps take and return flat latents (B, Z) in either case.
    """

    has_unknown_label = False
    """Whether the conditioning has an extra feature, which stands for an unknown label K."""

    @abstractmethod
    def from_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map standard normal noise (B, Z) to latents (B, Z)."""

    @abstractmethod
    def to_noise(self, latent: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map latents (B, Z) to noise (B, Z).

        Returns:
            The noise, and the log-scale of each of its dimensions (B, Z). The log-scales add up to the log-determinant
            of the Jacobian.
        """

    def terms(self, mean: Tensor, log_var: Tensor, latent: Tensor, condition: Tensor | None) -> PriorTerms:
        """Return the terms of the bound for q(z | x) = N(mean, exp(log_var)).

        Args:
            mean: mean of q(z | x), (B, Z).
            log_var: log-variance of q(z | x), (B, Z).
            latent: sample from q(z | x), (B, Z).
            condition: embedding of the conditions (B, E) or indices (B,), or None.
        """
        noise, log_scale = self.to_noise(latent, condition)
        log_prob = (normal_log_prob(noise) + log_scale).sum(1)  # (B, Z) -> (B,)
        return PriorTerms(self.rate(mean, log_var, noise, log_scale), log_prob, noise)

    def training_terms(self, mean: Tensor, log_var: Tensor, latent: Tensor, condition: Tensor | None) -> PriorTerms:
        """Return the terms to use in training; by default, those of the bound.

        A prior with a loss of its own should detach the latents, so that this loss does not train the encoder.
        """
        return self.terms(mean, log_var, latent, condition)

    def rate(self, mean: Tensor, log_var: Tensor, noise: Tensor, log_scale: Tensor) -> Tensor:
        """Return KL(q(z | x) || p(z)) in nats for q(z | x) = N(mean, exp(log_var)).

        By default, the entropy of q is exact, and the cross-entropy is estimated from one sample. A prior whose KL has
        a closed form overrides this method.

        Args:
            mean: mean of q(z | x), (B, Z).
            log_var: log-variance of q(z | x), (B, Z).
            noise: sample from q(z | x), mapped to noise by `to_noise`, (B, Z).
            log_scale: log-scales that `to_noise` returned with the noise, (B, Z).

        Returns:
            The rate (B, D), with the columns of `PriorTerms.rate`.
        """
        return negative_entropy(log_var) - (normal_log_prob(noise) + log_scale).sum(1, keepdim=True)  # (B, 1)


def negative_entropy(log_var: Tensor) -> Tensor:
    """Return the negative entropy (B, 1) of normal distributions with log-variances (B, Z), in nats."""
    return -0.5 * (1 + math.log(2 * math.pi) + log_var).sum(1, keepdim=True)


class Normal(Prior):
    """Standard normal prior, whose latent space is the noise space."""

    def __init__(self, latent_shape: tuple[int, ...], conditioning: Conditioning) -> None:
        super().__init__()

    def from_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        return noise

    def to_noise(self, latent: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return latent, torch.zeros_like(latent)

    def rate(self, mean: Tensor, log_var: Tensor, noise: Tensor, log_scale: Tensor) -> Tensor:
        return normal_kl(mean, log_var)  # (B, Z)
