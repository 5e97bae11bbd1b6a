"""Residual encoder and decoder for images of any size.

The blocks are pre-activation blocks (He et al. 2016, https://arxiv.org/abs/1603.05027), by default without
normalization. The second convolution of a block is initialized to zero, so each block starts as the identity (Zhang et
al. 2019, "Fixup", https://arxiv.org/abs/1901.09321; Child 2020, https://arxiv.org/abs/2011.10650, does the same in a
VAE). Without normalization, the network computes the same function in training and evaluation, and the gradient of a
large batch is the sum of the gradients of its parts. The option `batch_norm` adds batch norm after each convolution of
a block, which allows larger learning rates; an export fuses batch norm with the convolutions.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated

from torch import Tensor, nn
from torch.nn.functional import silu

from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.models.architectures.layers import (
    Level,
    Patchify,
    Unpatchify,
    Upsample,
    count_grid_latents,
    counts_latents,
    pyramid,
)
from cvae.models.conditioning import Conditioning


class Block(nn.Module):
    """Residual block: features + norm(conv(silu(modulation(norm(conv(silu(features))))))), (B, C, H, W)."""

    def __init__(self, channels: int, conditioning: Conditioning, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = conditioning.modulation(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        # The norm comes right after the convolution, so that an export can fuse them.
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        self.norm1, self.norm2 = norm(channels), norm(channels)
        for parameter in (self.norm2 if batch_norm else self.conv2).parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        residual = self.modulation(self.norm1(self.conv1(silu(features))), condition)
        return features + self.norm2(self.conv2(silu(residual)))


class Stage(nn.Module):
    """Optional resampling, followed by residual blocks."""

    def __init__(
        self, resample: nn.Module, channels: int, blocks: int, conditioning: Conditioning, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.resample = resample
        self.blocks = nn.ModuleList(Block(channels, conditioning, batch_norm=batch_norm) for _ in range(blocks))

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        features = self.resample(features)  # (B, c, h, w) -> (B, c', h', w')
        for block in self.blocks:
            features = block(features, condition)
        return features


class BottomUp(nn.Module):
    """Encoder (image (B, C, H, W), condition) -> feature maps (B, c, h, w) of each level, the largest first."""

    def __init__(
        self,
        image_channels: int,
        levels: list[Level],
        blocks: Sequence[int],
        patch: int,
        conditioning: Conditioning,
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.patchify = Patchify(patch)
        stem = nn.Conv2d(image_channels * patch**2, levels[0].channels, 3, padding=1)
        downsampling = [nn.Conv2d(a.channels, b.channels, 3, stride=2, padding=1) for a, b in pairwise(levels)]
        self.stages = nn.ModuleList(
            Stage(convolution, convolution.out_channels, count, conditioning, batch_norm=batch_norm)
            for convolution, count in zip((stem, *downsampling), blocks, strict=True)
        )

    def forward(self, image: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        features, outputs = self.patchify(image), []
        for stage in self.stages:
            features = stage(
                features, condition
            )  # (B, C, H, W) -> (B, c, H, W), then (B, c, h, w) -> (B, 2c, h/2, w/2)
            outputs.append(features)
        return tuple(outputs)


def latents_per_position(level: Level, latent_dim: int) -> int:
    """Return the number of latents at each position of the smallest feature maps.

    Raises:
        UsageError: If the latent dimension is not a multiple of the number of positions.
    """
    positions = level.height * level.width
    if latent_dim % positions:
        raise UsageError(
            f"option spatial: --latent-dim {latent_dim} is not a multiple of {positions}, the number of positions "
            f"({level.height} x {level.width}) in the smallest feature maps; use "
            f"{positions * (latent_dim // positions + 1)}, or set the option 'smallest'"
        )
    return latent_dim // positions


class Encoder(BottomUp):
    """Encoder (image (B, C, H, W), condition) -> mean, log-variance (B, Z)."""

    def __init__(
        self,
        image_channels: int,
        levels: list[Level],
        blocks: int,
        patch: int,
        batch_norm: bool,
        spatial: bool,
        latent_dim: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__(image_channels, levels, [blocks] * len(levels), patch, conditioning, batch_norm=batch_norm)
        smallest = levels[-1]
        self.spatial = spatial
        self.head = (
            conditioning.convolution(smallest.channels, 2 * latents_per_position(smallest, latent_dim), 1)
            if spatial
            else conditioning.linear(smallest.features, 2 * latent_dim)
        )

    def forward(self, image: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        features = silu(super().forward(image, condition)[-1])  # (B, c, h, w)
        if self.spatial:
            return self.head(features, condition).flatten(1).chunk(2, dim=1)  # (B, 2Z / hw, h, w) -> (B, Z), (B, Z)
        return self.head(features.flatten(1), condition).chunk(2, dim=1)  # (B, Z), (B, Z)


def upsampling_layers(levels: list[Level]) -> list[nn.Module]:
    """Create the layer before each level, the smallest level first: an identity, then upsampling layers.

    An upsampling layer maps (B, 2c, h/2, w/2) to (B, c, h, w).
    """
    # The 1 x 1 convolution comes before the upsampling: after it, the convolution would cost four times as much.
    layers = [nn.Sequential(nn.Conv2d(a.channels, b.channels, 1), Upsample(b)) for a, b in pairwise(levels)]
    return [nn.Identity(), *layers]


class Decoder(nn.Module):
    """Decoder (latent (B, Z), condition) -> likelihood parameters (B, P, H, W)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: list[Level],
        blocks: int,
        patch: int,
        batch_norm: bool,
        spatial: bool,
        latent_dim: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        self.smallest = levels[-1]
        self.spatial = spatial
        if spatial:
            self.latent_shape = (latents_per_position(self.smallest, latent_dim), *self.smallest[1:])
        self.spread = (
            conditioning.convolution(self.latent_shape[0], self.smallest.channels, 3)
            if spatial
            else conditioning.linear(latent_dim, self.smallest.features)
        )
        self.stages = nn.ModuleList(
            Stage(resample, level.channels, blocks, conditioning, batch_norm=batch_norm)
            for resample, level in zip(upsampling_layers(levels[::-1]), levels[::-1], strict=True)
        )
        self.head = nn.Conv2d(levels[0].channels, shape[0] * patch**2, 3, padding=1)
        self.unpatchify = Unpatchify(patch, *shape[1:])

    def forward(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        if self.spatial:
            features = self.spread(latent.unflatten(1, self.latent_shape), condition)  # (B, Z) -> (B, c, h, w)
        else:
            features = self.spread(latent, condition).unflatten(1, self.smallest)  # (B, Z) -> (B, c, h, w)
        for stage in self.stages:
            features = stage(features, condition)  # (B, 2c, h/2, w/2) -> (B, c, h, w)
        return self.unpatchify(self.head(silu(features)))  # (B, c, h, w) -> (B, P, H, W)


@counts_latents(count_grid_latents)
def resnet(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    param_channels: int,
    conditioning: Conditioning,
    *,
    width: Annotated[int, Interval(minimum=1)] = 16,
    max_width: Annotated[int, Interval(minimum=1)] = 64,
    blocks: Annotated[int, Interval(minimum=1)] = 1,
    patch: Annotated[int, Interval(minimum=1)] = 2,
    smallest: Annotated[int, Interval(minimum=1)] = 7,
    batch_norm: bool = False,
    latent_channels: Annotated[int, Interval(minimum=0)] = 0,
    spatial: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Create a residual encoder and decoder.

    Args:
        image_shape: shape (C, H, W) of the images.
        latent_dim: number of latent dimensions Z.
        param_channels: number of channels P of the likelihood parameters.
        conditioning: conditioning on the embedding of the conditions.
        width: number of channels at full resolution; each halving of the resolution doubles it.
        max_width: maximum number of channels.
        blocks: number of residual blocks at each resolution.
        patch: side, in pixels, of the square patches; each patch becomes one position of the largest feature maps.
        smallest: maximum side of the smallest feature maps; the resolution is halved until both sides fit.
        batch_norm: whether to use batch norm, which allows larger learning rates but makes the loss of an image depend
            on the other images of its batch.
        latent_channels: number of latents at each position of the smallest feature maps, instead of `--latent-dim`
            latents that are connected with all positions; 0 for the latter. With few training images, a grid of latents
            improves reconstructions, but worsens samples.
        spatial: whether to divide `--latent-dim` latents equally among the positions of the smallest feature maps; like
            `latent_channels`, except for how the number of latents is given.

    Returns:
        The encoder and the decoder.

    Raises:
        UsageError: If `latent_dim` can't be divided equally among the positions of a grid.
    """
    levels = pyramid(image_shape, width, max_width, smallest, patch)
    shape = (param_channels, *image_shape[1:])
    spatial = spatial or latent_channels > 0
    return (
        Encoder(image_shape[0], levels, blocks, patch, batch_norm, spatial, latent_dim, conditioning),
        Decoder(shape, levels, blocks, patch, batch_norm, spatial, latent_dim, conditioning),
    )


resnet_small = partial(resnet, width=8, max_width=32)
resnet_large = partial(resnet, width=32, max_width=128, blocks=2)
