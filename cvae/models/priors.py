"""p(z), as an invertible map between the latent space and standard normal noise.

A prior is made with the latent dimension Z. `rate(latent, mean, log_var, label)` is KL(q(z | x) || p(z)) in nats,
(B, D): exact where there is a formula, else its one-sample estimate at `latent`. `from_noise(noise (B, Z), label)`
is the latent; `to_noise(mean, log_var, label)` is the mean and standard deviation (B, Z) of a posterior in the
space of the noise.
"""

import torch
from torch import Tensor, nn


def normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) in nats, elementwise (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


class Normal(nn.Module):
    """The standard normal prior: the latent space is the space of the noise."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()

    def rate(self, latent: Tensor, mean: Tensor, log_var: Tensor, label: Tensor | None) -> Tensor:
        return normal_kl(mean, log_var)  # (B, Z)

    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        return noise

    def to_noise(self, mean: Tensor, log_var: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        return mean, torch.exp(0.5 * log_var)
