"""Normalizing flows as priors, for vectors and for grids of latents."""

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.models.architectures.resnet import Block
from cvae.models.conditioning import Conditioning
from cvae.models.priors.base import Prior, normal_kl


class Coupling(nn.Module, ABC):
    """Affine coupling layer, initialized to the identity.

    It shifts and scales x2 (B, Z - K) by functions of x1 (B, K) and the condition. See Dinh, Sohl-Dickstein & Bengio
    2016, "RealNVP", eq. 7 and 8, https://arxiv.org/abs/1605.08803.
    """

    @abstractmethod
    def _network(self, x1: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map x1 (B, K) to a log-scale and a shift, (B, Z - K) each. Both are zero initially."""

    def _scale_and_shift(self, x1: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._network(x1, condition)
        # Limit the scale to e^-2 ... e^2, so that the inverse is well conditioned.
        return 2 * torch.tanh(log_scale / 2), shift

    def forward(self, x1: Tensor, x2: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transform x2 in the direction from latents to noise, and return the result and log-scale, (B, Z - K) each."""
        log_scale, shift = self._scale_and_shift(x1, condition)
        return (x2 + shift) * log_scale.exp(), log_scale

    def inverse(self, x1: Tensor, x2: Tensor, condition: Tensor | None) -> Tensor:
        """Invert `forward`, and return the original x2 (B, Z - K)."""
        log_scale, shift = self._scale_and_shift(x1, condition)
        return x2 * (-log_scale).exp() - shift


class VectorCoupling(Coupling):
    """Coupling layer whose network is an MLP with two hidden layers."""

    def __init__(self, in_features: int, out_features: int, hidden: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.first = conditioning.linear(in_features, hidden)
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * out_features))
        nn.init.zeros_(self.rest[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.rest[-1].bias)  # type: ignore[arg-type]

    def _network(self, x1: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.rest(self.first(x1, condition)).chunk(2, dim=1)  # (B, K) -> (B, Z - K) each
        return log_scale, shift


class GridCoupling(Coupling):
    """Coupling layer whose network is convolutional: x1 is a grid (k1, h, w) and x2 a grid (k2, h, w).

    The mean of x1 over all positions, and the condition, add to the features of every position.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        hidden: int,
        blocks: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        self.in_shape = (in_channels, *size)
        self.enter = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.context = conditioning.linear(in_channels, hidden)
        self.blocks = nn.ModuleList(Block(hidden, conditioning) for _ in range(blocks))
        self.leave = nn.Conv2d(hidden, 2 * out_channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def _network(self, x1: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        grid = x1.unflatten(1, self.in_shape)  # (B, K) -> (B, k1, h, w)
        mean = grid.sum((2, 3)) / math.prod(self.in_shape[1:])  # (B, k1)
        features = self.enter(grid) + self.context(mean, condition)[:, :, None, None]
        for block in self.blocks:
            features = block(features, condition)
        log_scale, shift = self.leave(silu(features)).flatten(1).chunk(2, dim=1)  # (B, 2 k2, h, w) -> (B, Z - K) each
        return log_scale, shift


class CouplingFlow(Prior):
    """Base class of the flows: coupling layers that transform the two halves of the latents in turns.

    On flows as priors, see Huang et al. 2017, https://arxiv.org/abs/1712.04569, and Xu et al. 2019,
    https://arxiv.org/abs/1905.13452.
    """

    def __init__(self, split_sizes: tuple[int, int], couplings: list[Coupling]) -> None:
        super().__init__()
        self.split_sizes, self.dims = split_sizes, sum(split_sizes)
        self.couplings = nn.ModuleList(couplings)

    def to_noise(self, latent: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        x1, x2, rest = self._split(latent)
        log_scale1, log_scale2 = torch.zeros_like(x1), torch.zeros_like(x2)
        for coupling in self.couplings:
            x2, log_scale = coupling(x1, x2, condition)
            x1, x2, log_scale1, log_scale2 = x2, x1, log_scale2 + log_scale, log_scale1
        if len(self.couplings) % 2:  # restore the order of the halves
            x1, x2, log_scale1, log_scale2 = x2, x1, log_scale2, log_scale1
        noise = torch.cat([x1, x2, *rest], dim=1)
        log_scale = torch.cat([log_scale1, log_scale2, *map(torch.zeros_like, rest)], dim=1)
        return noise, log_scale  # (B, Z) each

    def from_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        x1, x2, rest = self._split(noise)
        if len(self.couplings) % 2:
            x1, x2 = x2, x1
        for coupling in reversed(self.couplings):
            x1, x2 = x2, coupling.inverse(x2, x1, condition)  # type: ignore[operator]
        return torch.cat([x1, x2, *rest], dim=1)  # (B, Z)

    def rate(self, mean: Tensor, log_var: Tensor, noise: Tensor, log_scale: Tensor) -> Tensor:
        k = self.dims
        rate = super().rate(mean[:, :k], log_var[:, :k], noise[:, :k], log_scale[:, :k])  # (B, 1)
        if k == mean.shape[1]:
            return rate
        rest = normal_kl(mean[:, k:], log_var[:, k:])  # in closed form
        return torch.cat([rate, rest], dim=1)  # (B, 1), (B, Z - D) -> (B, 1 + Z - D)

    def _split(self, codes: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Split codes (B, Z) into the halves that the couplings transform, and the dimensions after them, if any."""
        x1, x2, *rest = codes.tensor_split((self.split_sizes[0], self.dims), dim=1)  # (B, K), (B, D - K), (B, Z - D)
        return x1, x2, tuple(rest) if self.dims < codes.shape[1] else ()


class Flow(CouplingFlow):
    """Learned prior: a conditional normalizing flow that transforms standard normal noise.

    Args:
        latent_shape: shape of the latents, with at least 2 dimensions Z in total.
        conditioning: conditioning on the embedding of the conditions.
        couplings: number of coupling layers.
        hidden: width of the two hidden layers of each coupling layer.
        dims: number of latent dimensions that the flow transforms, 0 for all; the dimensions after these are standard
            normal. In a hierarchy whose other latents are grids, transform only the vector at the top.

    Raises:
        UsageError: If there are fewer than two latent dimensions, or `dims` does not fit them.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        conditioning: Conditioning,
        *,
        couplings: Annotated[int, Interval(minimum=1)] = 8,
        hidden: Annotated[int, Interval(minimum=1)] = 128,
        dims: Annotated[int, Interval(minimum=0)] = 0,
    ) -> None:
        latent_dim = math.prod(latent_shape)
        if latent_dim < 2:
            raise UsageError(f"the prior 'flow' needs a latent dimension of at least 2, not {latent_dim}")
        if dims not in (0, *range(2, latent_dim + 1)):
            raise UsageError(f"option dims={dims} must be 0 or in 2..{latent_dim}, the number of latent dimensions")
        dims = dims or latent_dim
        sizes = dims // 2, dims - dims // 2
        super().__init__(
            sizes,  # each layer transforms the half that the layer before it left unchanged
            [VectorCoupling(sizes[i % 2], sizes[(i + 1) % 2], hidden, conditioning) for i in range(couplings)],
        )


class GridFlow(CouplingFlow):
    """Learned prior for a grid of latents: a conditional flow whose coupling layers are convolutional.

    Each layer transforms half of the channels. Kolesnikov et al. 2024, "Jet", https://arxiv.org/abs/2412.15129, use
    vision transformers in this place.

    Args:
        latent_shape: shape (k, h, w) of the latents, with k of at least 2.
        conditioning: conditioning on the embedding of the conditions.
        couplings: number of coupling layers.
        hidden: number of channels of each coupling layer's network.
        blocks: number of residual blocks of each coupling layer's network.

    Raises:
        UsageError: If the latents are not a grid with at least two channels.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        conditioning: Conditioning,
        *,
        couplings: Annotated[int, Interval(minimum=1)] = 8,
        hidden: Annotated[int, Interval(minimum=1)] = 64,
        blocks: Annotated[int, Interval(minimum=1)] = 1,
    ) -> None:
        if len(latent_shape) != 3 or latent_shape[0] < 2:
            raise UsageError(
                "the prior 'flow-grid' needs a grid of latents with at least two channels; set arch.latent_channels to "
                "2 or more, with --arch conv or resnet, or choose --prior flow"
            )
        channels, size = latent_shape[0], latent_shape[1:]
        halves = channels // 2, channels - channels // 2
        super().__init__(
            (halves[0] * math.prod(size), halves[1] * math.prod(size)),
            [
                GridCoupling(halves[i % 2], halves[(i + 1) % 2], size, hidden, blocks, conditioning)
                for i in range(couplings)
            ],
        )
