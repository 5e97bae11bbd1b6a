"""Convolutional encoder and decoder with batch norm and LeakyReLU, for images of any size.

Strided convolutions downsample the image, fully connected layers map the features to the latent and back, and
transposed convolutions upsample, as in DCGAN (Radford et al. 2015, https://arxiv.org/abs/1511.06434). The encoder can
downsample by max pooling instead, and the latents can be a grid without fully connected layers.
"""

from functools import partial
from itertools import pairwise
from typing import Annotated

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from cvae.flags import Interval
from cvae.models.architectures.layers import Level, count_grid_latents, counts_latents, pyramid
from cvae.models.conditioning import Conditioning, NoModulation

SLOPE = 0.2
"""Negative slope of LeakyReLU, as in DCGAN."""


class Block(nn.Module):
    """(Transposed) convolution, batch norm, optional max pooling, modulation and LeakyReLU."""

    def __init__(
        self, convolution: nn.Conv2d | nn.ConvTranspose2d, conditioning: Conditioning, *, pool: bool = False
    ) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels)  # follows the convolution, so that an export can fuse them
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pool else nn.Identity()
        self.modulation = conditioning.modulation(convolution.out_channels)

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        return leaky_relu(self.modulation(self.pool(self.norm(self.convolution(features))), condition), SLOPE)


def downsampling_block(a: Level, b: Level, conditioning: Conditioning, *, pool: bool) -> Block:
    """Create a block from level a to the next smaller level b."""
    convolution = nn.Conv2d(a.channels, b.channels, 3, stride=1 if pool else 2, padding=1)
    return Block(convolution, conditioning, pool=pool)


def upsampling_block(a: Level, b: Level, conditioning: Conditioning) -> Block:
    """Create a block from level a to the next larger level b. A side of length n becomes 2n or 2n - 1."""
    padding = (b.height - 2 * a.height + 1, b.width - 2 * a.width + 1)
    convolution = nn.ConvTranspose2d(a.channels, b.channels, 3, stride=2, padding=1, output_padding=padding)
    return Block(convolution, conditioning)


class Encoder(nn.Module):
    """Encoder (image (B, C, H, W), condition) -> mean, log-variance (B, Z)."""

    def __init__(
        self,
        image_channels: int,
        levels: list[Level],
        hidden: int,
        dropout: float,
        pool: bool,
        latent_channels: int,
        latent_dim: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        stem = nn.Conv2d(image_channels, levels[0].channels, 3, padding=1)
        blocks = [downsampling_block(a, b, conditioning, pool=pool) for a, b in pairwise(levels)]
        self.blocks = nn.ModuleList([Block(stem, conditioning), *blocks])
        self.dropout = nn.Dropout(dropout)
        self.head: nn.Module
        if latent_channels:
            self.hidden = None
            self.head = conditioning.convolution(levels[-1].channels, 2 * latent_channels, 1)
        else:
            self.hidden = conditioning.linear(levels[-1].features, hidden)
            self.head = nn.Linear(hidden, 2 * latent_dim)

    def forward(self, image: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        features = image
        for block in self.blocks:
            features = block(
                features, condition
            )  # (B, C, H, W) -> (B, c, H, W), then (B, c, h, w) -> (B, 2c, h/2, w/2)
        features = self.dropout(features)
        if self.hidden is None:
            return self.head(features, condition).flatten(1).chunk(2, dim=1)  # (B, 2k, h, w) -> (B, k h w), (B, k h w)
        features = leaky_relu(self.hidden(features.flatten(1), condition), SLOPE)  # (B, c, h, w) -> (B, hidden)
        return self.head(self.dropout(features)).chunk(2, dim=1)  # (B, Z), (B, Z)


class Decoder(nn.Module):
    """Decoder (latent (B, Z), condition) -> likelihood parameters (B, P, H, W)."""

    def __init__(
        self,
        param_channels: int,
        levels: list[Level],
        hidden: int,
        dropout: float,
        latent_channels: int,
        latent_dim: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        self.smallest = levels[-1]
        self.dropout = nn.Dropout(dropout)
        self.spread: nn.Module
        if latent_channels:
            self.latent_shape = (latent_channels, *self.smallest[1:])
            self.hidden = None
            self.spread = conditioning.convolution(latent_channels, self.smallest.channels, 3)
            self.modulation = conditioning.modulation(self.smallest.channels) if len(levels) == 1 else NoModulation()
        else:
            self.hidden = conditioning.linear(latent_dim, hidden)
            self.spread = nn.Linear(hidden, self.smallest.features)
        self.blocks = nn.ModuleList(upsampling_block(a, b, conditioning) for a, b in pairwise(levels[::-1]))
        self.head = nn.Conv2d(levels[0].channels, param_channels, 3, padding=1)

    def forward(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        if self.hidden is None:
            features = self.spread(latent.unflatten(1, self.latent_shape), condition)  # (B, Z) -> (B, c, h, w)
            features = leaky_relu(self.modulation(features, condition), SLOPE)
        else:
            features = self.dropout(leaky_relu(self.hidden(latent, condition), SLOPE))  # (B, Z) -> (B, hidden)
            features = leaky_relu(self.spread(features), SLOPE).unflatten(1, self.smallest)  # -> (B, c, h, w)
        for block in self.blocks:
            features = block(features, condition)  # (B, 2c, h/2, w/2) -> (B, c, h, w)
        return self.head(features)  # (B, P, H, W)


@counts_latents(count_grid_latents)
def conv(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    param_channels: int,
    conditioning: Conditioning,
    *,
    width: Annotated[int, Interval(minimum=1)] = 32,
    max_width: Annotated[int, Interval(minimum=1)] = 128,
    hidden: Annotated[int, Interval(minimum=1)] = 256,
    dropout: Annotated[float, Interval(minimum=0, below=1)] = 0.0,
    pool: bool = False,
    smallest: Annotated[int, Interval(minimum=1)] = 4,
    latent_channels: Annotated[int, Interval(minimum=0)] = 0,
) -> tuple[nn.Module, nn.Module]:
    """Create a convolutional encoder and decoder.

    Args:
        image_shape: shape (C, H, W) of the images.
        latent_dim: number of latent dimensions Z.
        param_channels: number of channels P of the likelihood parameters.
        conditioning: conditioning on the embedding of the conditions.
        width: number of channels at full resolution; each halving of the resolution doubles it.
        max_width: maximum number of channels.
        hidden: width of the fully connected layers before and after the latent.
        dropout: dropout probability after the encoder's last convolution and after each hidden layer.
        pool: whether to halve the resolution by max pooling instead of strides.
        smallest: maximum side of the smallest feature maps; the resolution is halved until both sides fit.
        latent_channels: number of latents at each position of the smallest feature maps, instead of `--latent-dim`
            latents behind fully connected layers; 0 for the latter.

    Returns:
        The encoder and the decoder.
    """
    levels = pyramid(image_shape, width, max_width, smallest)
    return (
        Encoder(image_shape[0], levels, hidden, dropout, pool, latent_channels, latent_dim, conditioning),
        Decoder(param_channels, levels, hidden, dropout, latent_channels, latent_dim, conditioning),
    )


conv_small = partial(conv, width=16, max_width=64, hidden=128)
