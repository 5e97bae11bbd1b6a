"""Priors p(z), as invertible maps between the latent space and standard normal noise.

A prior is created with the latent dimension Z and the conditioning, so that it may depend on the label.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from cvae.errors import UsageError
from cvae.models.conditioning import Conditioning


def normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) || N(0, 1)) in nats, elementwise (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def normal_log_prob(noise: Tensor) -> Tensor:
    """Return log N(noise | 0, 1) in nats, elementwise."""
    return -0.5 * (noise.square() + math.log(2 * math.pi))


class Prior(nn.Module, ABC):
    """Base class of the priors: the map from latents to standard normal noise, and its inverse."""

    @abstractmethod
    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        """Map standard normal noise (B, Z) to latents (B, Z)."""

    @abstractmethod
    def to_noise(self, latent: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map latents (B, Z) to noise (B, Z).

        Returns:
            The noise, and the log-scale of each of its dimensions (B, Z). The log-scales add up to the log-determinant
            of the Jacobian.
        """

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
            The rate (B, D): D = Z if the prior factorizes, else D = 1.
        """
        negative_entropy = -0.5 * (1 + math.log(2 * math.pi) + log_var)
        return (negative_entropy - normal_log_prob(noise) - log_scale).sum(1, keepdim=True)  # (B, Z) -> (B, 1)


class Normal(Prior):
    """Standard normal prior, whose latent space is the noise space."""

    def __init__(self, latent_dim: int, conditioning: Conditioning) -> None:
        super().__init__()

    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        return noise

    def to_noise(self, latent: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        return latent, torch.zeros_like(latent)

    def rate(self, mean: Tensor, log_var: Tensor, noise: Tensor, log_scale: Tensor) -> Tensor:
        return normal_kl(mean, log_var)  # (B, Z)


class Coupling(nn.Module):
    """Affine coupling layer, initialized to the identity.

    It shifts and scales x2 (B, Z - K) by functions of x1 (B, K) and the label. See Dinh, Sohl-Dickstein & Bengio 2016,
    "RealNVP", eq. 7 and 8, https://arxiv.org/abs/1605.08803.
    """

    def __init__(self, in_features: int, out_features: int, hidden: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.first = conditioning.linear(in_features, hidden)
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * out_features))
        nn.init.zeros_(self.rest[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.rest[-1].bias)  # type: ignore[arg-type]

    def _scale_and_shift(self, x1: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.rest(self.first(x1, label)).chunk(2, dim=1)  # (B, K) -> (B, Z - K) each
        # Limit the scale to e^-2 ... e^2, so that the inverse is well conditioned.
        return 2 * torch.tanh(log_scale / 2), shift

    def forward(self, x1: Tensor, x2: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transform x2 in the direction from latents to noise, and return the result and log-scale, (B, Z - K) each."""
        log_scale, shift = self._scale_and_shift(x1, label)
        return (x2 + shift) * log_scale.exp(), log_scale

    def inverse(self, x1: Tensor, x2: Tensor, label: Tensor | None) -> Tensor:
        """Invert `forward`, and return the original x2 (B, Z - K)."""
        log_scale, shift = self._scale_and_shift(x1, label)
        return x2 * (-log_scale).exp() - shift


class Flow(Prior):
    """Learned prior: a normalizing flow, conditioned on the label, that transforms standard normal noise.

    On flows as priors, see Huang et al. 2017, https://arxiv.org/abs/1712.04569, and Xu et al. 2019,
    https://arxiv.org/abs/1905.13452.

    Args:
        latent_dim: number of latent dimensions Z, at least 2.
        conditioning: conditioning on the label.
        couplings: number of coupling layers.
        hidden: width of the two hidden layers of each coupling layer.
        dims: number of latent dimensions that the flow transforms, 0 for all; the dimensions after these are standard
            normal. In a hierarchy whose other latents are grids, transform only the vector at the top.

    Raises:
        UsageError: If an argument is out of range.
    """

    def __init__(
        self, latent_dim: int, conditioning: Conditioning, *, couplings: int = 8, hidden: int = 128, dims: int = 0
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise UsageError(f"the prior 'flow' needs a latent dimension of at least 2, not {latent_dim}")
        if couplings < 1 or hidden < 1:
            raise UsageError(f"options couplings={couplings} and hidden={hidden} must be at least 1")
        if dims not in (0, *range(2, latent_dim + 1)):
            raise UsageError(f"option dims={dims} must be 0 or in 2..{latent_dim}, the number of latent dimensions")
        self.dims = dims or latent_dim
        half = self.dims // 2
        self.split_sizes = half, self.dims - half
        self.couplings = nn.ModuleList(  # each layer transforms the half that the layer before it left unchanged
            Coupling(self.split_sizes[i % 2], self.split_sizes[(i + 1) % 2], hidden, conditioning)
            for i in range(couplings)
        )

    def to_noise(self, latent: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        x1, x2, rest = self._split(latent)
        log_scale1, log_scale2 = torch.zeros_like(x1), torch.zeros_like(x2)
        for coupling in self.couplings:
            x2, log_scale = coupling(x1, x2, label)
            x1, x2, log_scale1, log_scale2 = x2, x1, log_scale2 + log_scale, log_scale1
        if len(self.couplings) % 2:  # restore the order of the halves
            x1, x2, log_scale1, log_scale2 = x2, x1, log_scale2, log_scale1
        noise = torch.cat([x1, x2, *rest], dim=1)
        log_scale = torch.cat([log_scale1, log_scale2, *map(torch.zeros_like, rest)], dim=1)
        return noise, log_scale  # (B, Z) each

    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        x1, x2, rest = self._split(noise)
        if len(self.couplings) % 2:
            x1, x2 = x2, x1
        for coupling in reversed(self.couplings):
            x1, x2 = x2, coupling.inverse(x2, x1, label)  # type: ignore[operator]
        return torch.cat([x1, x2, *rest], dim=1)  # (B, Z)

    def rate(self, mean: Tensor, log_var: Tensor, noise: Tensor, log_scale: Tensor) -> Tensor:
        k = self.dims
        rate = super().rate(mean[:, :k], log_var[:, :k], noise[:, :k], log_scale[:, :k])  # (B, 1)
        if k == mean.shape[1]:
            return rate
        return rate + normal_kl(mean[:, k:], log_var[:, k:]).sum(1, keepdim=True)  # the rest has a closed form

    def _split(self, codes: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Split codes (B, Z) into the halves that the couplings transform, and the dimensions after them, if any."""
        x1, x2, *rest = codes.tensor_split((self.split_sizes[0], self.dims), dim=1)  # (B, K), (B, D - K), (B, Z - D)
        return x1, x2, tuple(rest) if self.dims < codes.shape[1] else ()
