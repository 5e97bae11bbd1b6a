"""p(z), as an invertible map between the latent space and standard normal noise.

A prior is made with the latent dimension Z and the conditioning, so that it may depend on the label.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from cvae.errors import UsageError
from cvae.models.conditioning import Conditioning


def normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) in nats, elementwise (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def normal_log_prob(noise: Tensor) -> Tensor:
    """log N(noise | 0, 1) in nats, elementwise."""
    return -0.5 * (noise.square() + math.log(2 * math.pi))


class Prior(nn.Module, ABC):
    """What every prior has: the map to standard normal noise, and back."""

    @abstractmethod
    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        """Standard normal noise (B, Z) -> latent (B, Z)."""

    @abstractmethod
    def to_noise(self, latent: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latent (B, Z) -> noise (B, Z), and the logarithm of each number's local scale (B, Z).

        The scales' logarithms add up to that of the Jacobian's determinant.
        """

    def rate(self, mean: Tensor, log_var: Tensor, noise: Tensor, log_scale: Tensor) -> Tensor:
        """KL(q(z | x) || p(z)) in nats, (B, D), for q = N(mean, exp(log_var)) and a sample as `to_noise` gives it.

        Exact where there is a formula. Here only the entropy of q has one; the rest is its estimate at the sample,
        and D = 1, since such a prior does not factorize.
        """
        negative_entropy = -0.5 * (1 + math.log(2 * math.pi) + log_var)
        return (negative_entropy - normal_log_prob(noise) - log_scale).sum(1, keepdim=True)  # (B, Z) -> (B, 1)


class Normal(Prior):
    """The standard normal prior: the latent space is the space of the noise."""

    def __init__(self, latent_dim: int, conditioning: Conditioning) -> None:
        super().__init__()

    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        return noise

    def to_noise(self, latent: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        return latent, torch.zeros_like(latent)

    def rate(self, mean: Tensor, log_var: Tensor, noise: Tensor, log_scale: Tensor) -> Tensor:
        return normal_kl(mean, log_var)  # (B, Z)


class Coupling(nn.Module):
    """An affine coupling layer: one half of the vector is shifted and scaled by functions of the other and the label.

    Dinh, Sohl-Dickstein & Bengio 2016, "RealNVP", eq. 7 and 8, https://arxiv.org/abs/1605.08803. It begins as the
    identity.
    """

    def __init__(self, kept: int, changed: int, hidden: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.first = conditioning.linear(kept, hidden)
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * changed))
        nn.init.zeros_(self.rest[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.rest[-1].bias)  # type: ignore[arg-type]

    def _scale_and_shift(self, kept: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.rest(self.first(kept, label)).chunk(2, dim=1)  # (B, K) -> (B, Z - K) each
        return 2 * torch.tanh(log_scale / 2), shift  # a scale within e^2 of 1 keeps the inverse well conditioned

    def forward(self, kept: Tensor, changed: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Towards the noise: (B, K), (B, Z - K) -> the second changed, and the logarithm of its scale (B, Z - K)."""
        log_scale, shift = self._scale_and_shift(kept, label)
        return (changed + shift) * log_scale.exp(), log_scale

    def inverse(self, kept: Tensor, changed: Tensor, label: Tensor | None) -> Tensor:
        """From the noise: (B, K), (B, Z - K) -> the second as it was."""
        log_scale, shift = self._scale_and_shift(kept, label)
        return changed * (-log_scale).exp() - shift


class Flow(Prior):
    """A learned prior: standard normal noise through an invertible network that sees the label.

    A flow in the prior rather than in the posterior: Huang et al. 2017, https://arxiv.org/abs/1712.04569; Xu et al.
    2019, https://arxiv.org/abs/1905.13452.
    """

    def __init__(self, latent_dim: int, conditioning: Conditioning, *, couplings: int = 8, hidden: int = 64) -> None:
        super().__init__()
        if latent_dim < 2:
            raise UsageError(f"the prior 'flow' needs a latent dimension of at least 2, not {latent_dim}")
        if couplings < 1 or hidden < 1:
            raise UsageError(f"options couplings={couplings}, hidden={hidden}: at least 1 is needed")
        first = latent_dim // 2
        self.halves = first, latent_dim - first  # each layer keeps the one that the layer before has changed
        self.couplings = nn.ModuleList(
            Coupling(self.halves[i % 2], self.halves[(i + 1) % 2], hidden, conditioning) for i in range(couplings)
        )

    def to_noise(self, latent: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        kept, changed = latent.split(self.halves, dim=1)  # (B, Z) -> (B, K), (B, Z - K)
        kept_log, changed_log = torch.zeros_like(kept), torch.zeros_like(changed)
        for coupling in self.couplings:
            changed, step = coupling(kept, changed, label)
            kept, changed, kept_log, changed_log = changed, kept, changed_log + step, kept_log
        if len(self.couplings) % 2:  # back to the order of the latent
            kept, changed, kept_log, changed_log = changed, kept, changed_log, kept_log
        return torch.cat([kept, changed], dim=1), torch.cat([kept_log, changed_log], dim=1)  # (B, Z) each

    def from_noise(self, noise: Tensor, label: Tensor | None) -> Tensor:
        kept, changed = noise.split(self.halves, dim=1)  # (B, Z) -> (B, K), (B, Z - K)
        if len(self.couplings) % 2:
            kept, changed = changed, kept
        for coupling in reversed(self.couplings):
            kept, changed = changed, coupling.inverse(changed, kept, label)  # type: ignore[operator]
        return torch.cat([kept, changed], dim=1)  # (B, Z)
