"""Convolutional ladder VAE: a hierarchy of latents, sampled and inferred from top to bottom.

A bottom-up network encodes the image once. Generation and inference share the top-down network (Sønderby et al. 2016,
https://arxiv.org/abs/1602.02282; Child 2020, https://arxiv.org/abs/2011.10650). The prior of every group of latents is
standard normal and independent of the other groups, so all groups together form a single noise vector. The hierarchy
comes from the features: each group is added to features that depend on the groups above it, and the posterior of the
group is computed from these features and those of the image.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.models.architectures.layers import Level, Unpatchify, counts_latents, pyramid, require_positive
from cvae.models.architectures.resnet import Block, BottomUp, Stage, upsampling_layers
from cvae.models.conditioning import Conditioning, Unconditional
from cvae.models.vae import Hierarchical, Posterior

MAX_LATENT_SIDE = 16
"""Maximum side of the feature maps that latents are added to.

On larger maps, the layers between latents and features would have more parameters than the rest of the model.
"""

MAX_MEAN, MAX_LOG_VAR = 32.0, 10.0
"""Maximum absolute value of the posterior mean and log-variance of a latent.

No image needs larger values. Without these limits, an image unlike the training images may cause large values, which
grow from one group of latents to the next until they overflow.
"""


class Rung(nn.Module, ABC):
    """One step of the top-down network: optional resampling, addition of a group of latents, and a residual block."""

    latents: int
    """Number of latents z in the group."""

    def __init__(self, resample: nn.Module, level: Level, conditioning: Conditioning) -> None:
        super().__init__()
        self.resample = resample
        self.level = level
        self.look = nn.Conv2d(2 * level.channels, level.channels, 3, padding=1)
        self.block = Block(level.channels, conditioning)

    def infer(self, features: Tensor, image_features: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the posterior mean and log-variance (B, z) of this group of latents.

        Args:
            features: resampled features (B, c, h, w) from the rung above.
            image_features: features (B, c, h, w) of the bottom-up network at this level.
            condition: embedding of the conditions (B, E) or indices (B,), or None.
        """
        joint = silu(self.look(silu(torch.cat([features, image_features], dim=1))))  # (B, 2c, h, w) -> (B, c, h, w)
        mean, log_var = self._posterior(joint, condition).float().chunk(2, dim=1)  # (B, z) each
        return mean.clamp(-MAX_MEAN, MAX_MEAN), log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR)

    def forward(self, features: Tensor, latent: Tensor, condition: Tensor | None) -> Tensor:
        """Add latents (B, z) to resampled features (B, c, h, w), and return the features after the block."""
        return self.block(features + self._to_features(features, latent, condition), condition)

    @abstractmethod
    def _posterior(self, joint: Tensor, condition: Tensor | None) -> Tensor:
        """Map the joint features (B, c, h, w) of the image and of the rung above to mean and log-variance, (B, 2 z)."""

    @abstractmethod
    def _to_features(self, features: Tensor, latent: Tensor, condition: Tensor | None) -> Tensor:
        """Map latents (B, z) to features (B, c, h, w) that are added to `features`, which come from the rung above."""


class VectorRung(Rung):
    """Rung whose latents are a vector: every latent is connected to all positions of the feature map."""

    def __init__(
        self, resample: nn.Module, level: Level, latents: int, conditioning: Conditioning, *, first: bool
    ) -> None:
        super().__init__(resample, level, conditioning)
        self.latents = latents
        self.posterior = conditioning.linear(level.features, 2 * latents)
        # One table as large as a feature map is enough; on later rungs, the condition only modulates the block.
        self.enter = (conditioning if first else Unconditional()).linear(latents, level.features)

    def _posterior(self, joint: Tensor, condition: Tensor | None) -> Tensor:
        return self.posterior(joint.flatten(1), condition)

    def _to_features(self, features: Tensor, latent: Tensor, condition: Tensor | None) -> Tensor:
        return self.enter(latent, condition).unflatten(1, self.level)


class GridRung(Rung):
    """Rung whose latents are a grid (k, h, w): each position has k latents of its own.

    The features determine the scale of the latents at each position. Under a standard normal prior, this scale is the
    standard deviation of p(z | latents above). Initially, the posterior equals the prior.
    """

    def __init__(self, resample: nn.Module, level: Level, channels: int, conditioning: Conditioning) -> None:
        super().__init__(resample, level, conditioning)
        self.latents = channels * level.height * level.width
        self.posterior = nn.Conv2d(level.channels, 2 * channels, 1)
        self.scale = nn.Conv2d(level.channels, channels, 1)
        self.enter = nn.Conv2d(channels, level.channels, 3, padding=1)
        for layer in (self.posterior, self.scale):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def _posterior(self, joint: Tensor, condition: Tensor | None) -> Tensor:
        return self.posterior(joint).flatten(1)  # (B, c, h, w) -> (B, 2 k h w)

    def _to_features(self, features: Tensor, latent: Tensor, condition: Tensor | None) -> Tensor:
        grid = latent.unflatten(1, (-1, *self.level[1:]))  # (B, k h w) -> (B, k, h, w)
        return self.enter(grid * (1 + self.scale(features)))


def count_latent_levels(levels: list[Level]) -> int:
    """Return the number of levels that have latents. The smallest level always has latents."""
    return max(1, sum(max(level.height, level.width) <= MAX_LATENT_SIDE for level in levels))


def count_rung_latents(levels: list[Level], blocks: Sequence[int], latent_channels: int) -> int:
    """Return the number of latents in grids: `latent_channels` per position and block of each level but the smallest.

    Levels without latents do not count.

    Args:
        levels: levels of the network, the smallest first.
        blocks: number of residual blocks at each level, the smallest level first.
        latent_channels: number of latents at each position.
    """
    grids = list(zip(levels, blocks, strict=True))[1 : count_latent_levels(levels)]
    return latent_channels * sum(level.height * level.width * count for level, count in grids)


def blocks_per_level(levels: int, blocks: int, smallest_blocks: int) -> list[int]:
    """Return the number of residual blocks at each level, the largest level first.

    Args:
        levels: number of levels.
        blocks: number of blocks at each level but the smallest.
        smallest_blocks: number of blocks at the smallest level, 0 for `blocks`.
    """
    return [blocks] * (levels - 1) + [smallest_blocks or blocks]


class TopDown(Hierarchical):
    """Hierarchical decoder (latent (B, Z), condition) -> likelihood parameters (B, P, H, W)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: list[Level],
        blocks: list[int],
        patch: int,
        latent_dim: int,
        latent_channels: int,
        grid_dropout: float,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        self.grid_dropout = grid_dropout
        levels, blocks = levels[::-1], blocks[::-1]  # the smallest level comes first
        latent_levels = count_latent_levels(levels)
        grid_dim = count_rung_latents(levels, blocks, latent_channels)
        vectors = sum(blocks[: 1 if latent_channels else latent_levels])
        vector_dim = latent_dim - grid_dim
        if vector_dim < vectors:
            raise UsageError(
                f"--latent-dim {vector_dim} is too small for the {vectors} groups of the ladder; use at least {vectors}"
            )
        self.start = nn.Parameter(torch.zeros(1, *levels[0]))
        resamples = upsampling_layers(levels)
        self.rung_levels = [level for level in range(latent_levels) for _ in range(blocks[level])]
        rungs: list[Rung] = []
        for i, (above, level) in enumerate(pairwise([0, *self.rung_levels])):
            resample = nn.Identity() if level == above else resamples[level]
            if i < vectors:
                # If the dimensions don't divide evenly, the top groups get one more each, because they matter most.
                latents = vector_dim // vectors + (i < vector_dim % vectors)
                rungs.append(VectorRung(resample, levels[level], latents, conditioning, first=i == 0))
            else:
                rungs.append(GridRung(resample, levels[level], latent_channels, conditioning))
        self.rungs = nn.ModuleList(rungs)
        self.groups = tuple(rung.latents for rung in rungs)
        stages = list(zip(resamples, levels, blocks, strict=True))[latent_levels:]
        self.stages = nn.ModuleList(
            Stage(resample, level.channels, count, conditioning) for resample, level, count in stages
        )
        self.head = nn.Conv2d(levels[-1].channels, shape[0] * patch**2, 3, padding=1)
        self.unpatchify = Unpatchify(patch, *shape[1:])

    def forward(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        hidden = self.start  # (1, c, h, w); adding the first group of latents broadcasts it to (B, c, h, w)
        for rung, group in zip(self.rungs, latent.split(self.groups, dim=1), strict=True):  # (B, Z) -> (B, z) each
            hidden = rung(rung.resample(hidden), group, condition)  # type: ignore[operator]
        return self._to_params(hidden, condition)

    def infer(self, features: Sequence[Tensor], condition: Tensor | None, noise: Tensor) -> Posterior:
        hidden = self.start.expand_as(features[-1])  # (1, c, h, w) -> (B, c, h, w)
        groups = []
        dropped = self._choose_dropped(noise)
        for rung, level, group_noise in zip(self.rungs, self.rung_levels, noise.split(self.groups, dim=1), strict=True):
            hidden = rung.resample(hidden)  # type: ignore[operator]
            mean, log_var = rung.infer(hidden, features[-1 - level], condition)  # type: ignore[operator]
            latent = mean + torch.exp(0.5 * log_var) * group_noise  # (B, z)
            visible = latent
            if dropped is not None and isinstance(rung, GridRung):  # the posterior is the prior, so it costs no nats
                mean, log_var = mean.masked_fill(dropped, 0), log_var.masked_fill(dropped, 0)
                latent, visible = torch.where(dropped, group_noise, latent), latent.masked_fill(dropped, 0)
            hidden = rung(hidden, visible, condition)
            groups.append((mean, log_var, latent))
        mean, log_var, latent = (torch.cat(tensors, dim=1) for tensors in zip(*groups, strict=True))  # (B, Z) each
        return Posterior(mean, log_var, latent, self._to_params(hidden, condition))

    def _choose_dropped(self, noise: Tensor) -> Tensor | None:
        """Choose the images (B, 1) whose grids are dropped in this training step."""
        if not self.training or not self.grid_dropout:
            return None
        return torch.rand(len(noise), 1, device=noise.device) < self.grid_dropout

    def _to_params(self, hidden: Tensor, condition: Tensor | None) -> Tensor:
        for stage in self.stages:
            hidden = stage(hidden, condition)  # (B, 2c, h/2, w/2) -> (B, c, h, w)
        return self.unpatchify(self.head(silu(hidden)))  # (B, c, h, w) -> (B, P, H, W)


def count_latents(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    *,
    blocks: int,
    patch: int,
    smallest: int,
    smallest_blocks: int = 0,
    latent_channels: int,
    **options: float,
) -> int:
    """Return the number of latent dimensions: `latent_dim` in vectors, plus the dimensions in grids."""
    require_positive(blocks=blocks, patch=patch, smallest=smallest)  # otherwise, `pyramid` would not end
    levels = pyramid(image_shape, 1, 1, smallest, patch)
    counts = blocks_per_level(len(levels), blocks, smallest_blocks)
    return latent_dim + count_rung_latents(levels[::-1], counts[::-1], latent_channels)


@counts_latents(count_latents)
def ladder(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    param_channels: int,
    conditioning: Conditioning,
    *,
    width: Annotated[int, Interval(minimum=1)] = 32,
    max_width: Annotated[int, Interval(minimum=1)] = 64,
    blocks: Annotated[int, Interval(minimum=1)] = 2,
    patch: Annotated[int, Interval(minimum=1)] = 2,
    smallest: Annotated[int, Interval(minimum=1)] = 4,
    smallest_blocks: Annotated[int, Interval(minimum=0)] = 0,
    latent_channels: Annotated[int, Interval(minimum=0)] = 0,
    grid_dropout: Annotated[float, Interval(minimum=0, maximum=1)] = 0.0,
) -> tuple[nn.Module, nn.Module]:
    """Create a residual encoder and decoder with a hierarchy of latents.

    The networks are the same as in `resnet`, except that a group of latents is added before each of the decoder's
    residual blocks at resolutions up to 16 x 16. The latent dimensions are divided among the groups as evenly as
    possible. With `latent_channels`, they are divided only among the groups of the smallest feature maps, which
    represent the image as a whole. The groups of the larger feature maps are then grids, which represent the details.

    Args:
        image_shape: shape (C, H, W) of the images.
        latent_dim: number of latent dimensions Z, at least one for each group.
        param_channels: number of channels P of the likelihood parameters.
        conditioning: conditioning on the embedding of the conditions.
        width: number of channels at full resolution; each halving of the resolution doubles it.
        max_width: maximum number of channels.
        blocks: number of residual blocks at each resolution.
        patch: side, in pixels, of the square patches; each patch is one position of the largest feature maps.
        smallest: maximum side of the smallest feature maps; the resolution is halved until both sides fit.
        smallest_blocks: number of residual blocks at the smallest resolution, 0 for as many as at the others.
        latent_channels: number of latents at each position of a grid, 0 for vectors only. These latents are in addition
            to `--latent-dim`.
        grid_dropout: probability with which all grids of an image are zero in training, so that the vectors learn to
            represent the image without its details; needs a prior under which the grids are standard normal.

    Returns:
        The encoder and the decoder.

    Raises:
        UsageError: If `latent_dim` is less than the number of groups.
    """
    levels = pyramid(image_shape, width, max_width, smallest, patch)
    counts = blocks_per_level(len(levels), blocks, smallest_blocks)
    shape = (param_channels, *image_shape[1:])
    return (
        BottomUp(image_shape[0], levels, counts, patch, conditioning),
        TopDown(shape, levels, counts, patch, latent_dim, latent_channels, grid_dropout, conditioning),
    )
