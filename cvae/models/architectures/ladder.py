"""Convolutional ladder VAE: a hierarchy of latents, sampled and inferred from top to bottom.

A bottom-up network encodes the image once. Generation and inference share the top-down network (Sønderby et al. 2016,
https://arxiv.org/abs/1602.02282; Child 2020, https://arxiv.org/abs/2011.10650). The prior of every group of latents is
standard normal and independent of the other groups: the hierarchy is in the features to which each group is added, and
from which its posterior is computed. All groups together therefore form a single noise vector.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from cvae.errors import UsageError
from cvae.models.architectures.layers import Level, Unpatchify, pyramid, require_positive
from cvae.models.architectures.resnet import Block, BottomUp, Stage, upsampling_layers
from cvae.models.conditioning import Conditioning, Unconditional
from cvae.models.vae import Hierarchical, Posterior

MAX_LATENT_SIDE = 16
"""Maximum side of feature maps to which latents are added.

On larger maps, the layers between latents and features would have more parameters than the rest of the model.
"""


class Rung(nn.Module):
    """Optional resampling, addition of one group of latents, then a residual block."""

    def __init__(
        self, resample: nn.Module, level: Level, latents: int, conditioning: Conditioning, *, first: bool
    ) -> None:
        super().__init__()
        self.resample = resample
        self.level = level
        self.look = nn.Conv2d(2 * level.channels, level.channels, 3, padding=1)
        self.posterior = conditioning.linear(level.features, 2 * latents)
        # One label table of the size of a feature map is enough; on later rungs, the label only modulates the block.
        self.enter = (conditioning if first else Unconditional()).linear(latents, level.features)
        self.block = Block(level.channels, conditioning)

    def infer(self, features: Tensor, image_features: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the posterior mean and log-variance (B, z) of this group of latents.

        Args:
            features: resampled features (B, c, h, w) from the rung above.
            image_features: features (B, c, h, w) of the bottom-up network at this level.
            label: labels (B,) int64, or None.
        """
        joint = silu(self.look(silu(torch.cat([features, image_features], dim=1))))  # (B, 2c, h, w) -> (B, c, h, w)
        mean, log_var = self.posterior(joint.flatten(1), label).float().chunk(2, dim=1)  # (B, z) each
        return mean, log_var

    def forward(self, features: Tensor, latent: Tensor, label: Tensor | None) -> Tensor:
        """Add latents (B, z) to resampled features (B, c, h, w), and return the features after the block."""
        return self.block(features + self.enter(latent, label).unflatten(1, self.level), label)


class TopDown(Hierarchical):
    """Hierarchical decoder (latent (B, Z), label) -> likelihood parameters (B, P, H, W)."""

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
        latent_levels = max(1, sum(max(level.height, level.width) <= MAX_LATENT_SIDE for level in levels))
        count = blocks * latent_levels
        if latent_dim < count:
            raise UsageError(
                f"--latent-dim {latent_dim} is too small for the {count} groups of the ladder; use at least {count}"
            )
        # If the dimensions don't divide evenly, the top groups get one more, because they matter most.
        self.groups = tuple(latent_dim // count + (i < latent_dim % count) for i in range(count))
        levels = levels[::-1]  # from here on, the smallest level comes first
        self.start = nn.Parameter(torch.zeros(1, *levels[0]))
        resamples = upsampling_layers(levels)
        self.rung_levels = [i // blocks for i in range(count)]
        self.rungs = nn.ModuleList(
            Rung(
                nn.Identity() if i % blocks else resamples[level],
                levels[level],
                latents,
                conditioning,
                first=i == 0,
            )
            for i, (level, latents) in enumerate(zip(self.rung_levels, self.groups, strict=True))
        )
        self.stages = nn.ModuleList(
            Stage(resample, level.channels, blocks, conditioning)
            for resample, level in zip(resamples[latent_levels:], levels[latent_levels:], strict=True)
        )
        self.head = nn.Conv2d(levels[-1].channels, shape[0] * patch**2, 3, padding=1)
        self.unpatchify = Unpatchify(patch, *shape[1:])

    def forward(self, latent: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.start  # (1, c, h, w); adding the first group of latents broadcasts it to (B, c, h, w)
        for rung, group in zip(self.rungs, latent.split(self.groups, dim=1), strict=True):  # (B, Z) -> (B, z) each
            hidden = rung(rung.resample(hidden), group, label)  # type: ignore[operator]
        return self._to_params(hidden, label)

    def infer(self, features: Sequence[Tensor], label: Tensor | None, noise: Tensor) -> Posterior:
        hidden = self.start.expand_as(features[-1])  # (1, c, h, w) -> (B, c, h, w)
        groups = []
        for rung, level, group_noise in zip(self.rungs, self.rung_levels, noise.split(self.groups, dim=1), strict=True):
            hidden = rung.resample(hidden)  # type: ignore[operator]
            mean, log_var = rung.infer(hidden, features[-1 - level], label)  # type: ignore[operator]
            latent = mean + torch.exp(0.5 * log_var) * group_noise  # (B, z)
            hidden = rung(hidden, latent, label)
            groups.append((mean, log_var, latent))
        mean, log_var, latent = (torch.cat(tensors, dim=1) for tensors in zip(*groups, strict=True))  # (B, Z) each
        return Posterior(mean, log_var, latent, self._to_params(hidden, label))

    def _to_params(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        for stage in self.stages:
            hidden = stage(hidden, label)  # (B, 2c, h/2, w/2) -> (B, c, h, w)
        return self.unpatchify(self.head(silu(hidden)))  # (B, c, h, w) -> (B, P, H, W)


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
    """Create a residual encoder and decoder with a hierarchy of latents.

    The networks are the same as in `resnet`, except that a group of latents is added before each of the decoder's
    residual blocks at resolutions up to 16 x 16. The latent dimensions are divided among the groups as evenly as
    possible.

    Args:
        image_shape: shape (C, H, W) of the images.
        latent_dim: number of latent dimensions Z, at least one for each group.
        param_channels: number of channels P of the likelihood parameters.
        conditioning: conditioning on the label.
        width: number of channels at full resolution; each halving of the resolution doubles it.
        max_width: maximum number of channels.
        blocks: number of residual blocks at each resolution.
        patch: side, in pixels, of the square patches; each patch is one position of the largest feature maps.
        smallest: maximum side of the smallest feature maps; the resolution is halved until both sides fit.

    Returns:
        The encoder and the decoder.

    Raises:
        UsageError: If an option is out of range.
    """
    require_positive(width=width, max_width=max_width, blocks=blocks, patch=patch, smallest=smallest)
    levels = pyramid(image_shape, width, max_width, smallest, patch)
    shape = (param_channels, *image_shape[1:])
    return (
        BottomUp(image_shape[0], levels, blocks, patch, conditioning),
        TopDown(shape, levels, blocks, patch, latent_dim, conditioning),
    )
