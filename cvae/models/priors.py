"""p(z), as an invertible map between the latent space and standard normal noise.

A prior is made with the latent dimension Z.
"""

import torch
from torch import Tensor, nn


def normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) in nats, elementwise (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


class Prior(nn.Module):
    """What every prior has."""

    def rate(self, latent: Tensor, mean: Tensor, log_var: Tensor, label: Tensor | None) -> Tensor:
        """KL(q(z | x) || p(z)) in nats, (B, D): exact where there is a formula, else its estimate at `latent`."""
        raise NotImplementedError

    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        """Standard normal noise (B, Z) -> latent (B, Z)."""
        raise NotImplementedError

    def to_noise(self, mean: Tensor, log_var: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """A posterior in the latent space -> its mean and standard deviation (B, Z) in the space of the noise."""
        raise NotImplementedError


class Normal(Prior):
    """The standard normal prior: the latent space is the space of the noise."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()

    def rate(self, latent: Tensor, mean: Tensor, log_var: Tensor, label: Tensor | None) -> Tensor:
        return normal_kl(mean, log_var)  # (B, Z)

    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        return noise

    def to_noise(self, mean: Tensor, log_var: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        return mean, torch.exp(0.5 * log_var)
