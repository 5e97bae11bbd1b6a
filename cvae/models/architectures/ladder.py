"""A hierarchy of latents, drawn and inferred from the top down, with convolutions.

The bottom-up network sees the image once; the top-down one is shared by generation and inference (Sønderby et al.
2016, https://arxiv.org/abs/1602.02282; Child 2020, https://arxiv.org/abs/2011.10650). A group of latents is standard
normal a priori: what the groups above have decided shows in the features that it is added to, and the posterior sees
these features. So to the outside all groups are one flat vector of noise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from cvae.errors import UsageError
from cvae.models.architectures.layers import Level, Unfold, at_least_one, pyramid
from cvae.models.architectures.resnet import Block, BottomUp, Stage, enlargements
from cvae.models.conditioning import Conditioning, Unconditional
from cvae.models.vae import Hierarchical, Posterior

LARGEST = 16
"""Side of the largest feature maps that latents enter; beyond it the layers between would be larger than all else."""


class Rung(nn.Module):
    """A change of resolution (or none), then one group of latents enters, then a residual block."""

    def __init__(
        self, resample: nn.Module, level: Level, latents: int, conditioning: Conditioning, *, first: bool
    ) -> None:
        super().__init__()
        self.resample = resample
        self.level = level
        self.look = nn.Conv2d(2 * level.channels, level.channels, 3, padding=1)
        self.posterior = conditioning.linear(level.features, 2 * latents)
        # One table of the size of a feature map is enough to tell the label; later the blocks adapt to it.
        self.enter = (conditioning if first else Unconditional()).linear(latents, level.features)
        self.block = Block(level.channels, conditioning)

    def infer(self, features: Tensor, seen: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Resampled features from above, and the image's at this level (B, c, h, w) -> mean, log-variance (B, z)."""
        both = silu(self.look(silu(torch.cat([features, seen], dim=1))))  # (B, 2c, h, w) -> (B, c, h, w)
        mean, log_var = self.posterior(both.flatten(1), label).float().chunk(2, dim=1)  # (B, z) each
        return mean, log_var

    def forward(self, features: Tensor, latent: Tensor, label: Tensor | None) -> Tensor:
        """Resampled features (B, c, h, w) and latents (B, z) -> features."""
        return self.block(features + self.enter(latent, label).unflatten(1, self.level), label)


class TopDown(Hierarchical):
    """Latent (B, Z) -> likelihood parameters (B, P, H, W), rung by rung."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: list[Level],
        blocks: int,
        patch: int,
        latent_dim: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        noisy = max(1, sum(max(level.height, level.width) <= LARGEST for level in levels))
        count = blocks * noisy
        if latent_dim < count:
            raise UsageError(f"the ladder has {count} groups of latents, so --latent-dim {latent_dim} is too small")
        # The top groups, which decide most, get what is left over.
        self.groups = tuple(latent_dim // count + (i < latent_dim % count) for i in range(count))
        levels = levels[::-1]  # from here on the smallest first
        self.start = nn.Parameter(torch.zeros(1, *levels[0]))
        resamples = enlargements(levels)
        self.level_of = [i // blocks for i in range(count)]
        self.rungs = nn.ModuleList(
            Rung(
                nn.Identity() if i % blocks else resamples[level],
                levels[level],
                latents,
                conditioning,
                first=i == 0,
            )
            for i, (level, latents) in enumerate(zip(self.level_of, self.groups, strict=True))
        )
        self.stages = nn.ModuleList(
            Stage(resample, level.channels, blocks, conditioning)
            for resample, level in zip(resamples[noisy:], levels[noisy:], strict=True)
        )
        self.head = nn.Conv2d(levels[-1].channels, shape[0] * patch**2, 3, padding=1)
        self.unfold = Unfold(patch, *shape[1:])

    def forward(self, latent: Tensor, label: Tensor | None) -> Tensor:
        features = self.start  # (1, c, h, w): the first latents that enter make it (B, c, h, w)
        for rung, part in zip(self.rungs, latent.split(self.groups, dim=1), strict=True):  # (B, Z) -> (B, z) each
            features = rung(rung.resample(features), part, label)  # type: ignore[operator]
        return self._end(features, label)

    def infer(self, seen: Sequence[Tensor], label: Tensor | None, noise: Tensor) -> Posterior:
        features = self.start.expand_as(seen[-1])  # (1, c, h, w) -> (B, c, h, w)
        parts = []
        for rung, level, drawn in zip(self.rungs, self.level_of, noise.split(self.groups, dim=1), strict=True):
            features = rung.resample(features)  # type: ignore[operator]
            mean, log_var = rung.infer(features, seen[-1 - level], label)  # type: ignore[operator]
            latent = mean + torch.exp(0.5 * log_var) * drawn  # (B, z)
            features = rung(features, latent, label)
            parts.append((mean, log_var, latent))
        mean, log_var, latent = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))  # (B, Z) each
        return Posterior(mean, log_var, latent, self._end(features, label))

    def _end(self, features: Tensor, label: Tensor | None) -> Tensor:
        for stage in self.stages:
            features = stage(features, label)  # (B, 2c, h/2, w/2) -> (B, c, h, w)
        return self.unfold(self.head(silu(features)))  # (B, c, h, w) -> (B, P, H, W)


def ladder(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    param_channels: int,
    conditioning: Conditioning,
    *,
    width: int = 32,
    max_width: int = 64,
    blocks: int = 2,
    patch: int = 2,
    smallest: int = 4,
) -> tuple[nn.Module, nn.Module]:
    """As `resnet`, with a group of latents before each residual block of the decoder at resolutions up to 16 x 16.

    The latent dimension is divided among all groups as evenly as it can be.
    """
    at_least_one(width=width, max_width=max_width, blocks=blocks, patch=patch, smallest=smallest)
    levels = pyramid(image_shape, width, max_width, smallest, patch)
    shape = (param_channels, *image_shape[1:])
    return (
        BottomUp(image_shape[0], levels, blocks, patch, conditioning),
        TopDown(shape, levels, blocks, patch, latent_dim, conditioning),
    )
