"""Residual blocks down, inverse residual blocks up, for images of any size.

Pre-activation blocks (He et al. 2016, https://arxiv.org/abs/1603.05027), by default without normalization: the second
convolution of a block starts at zero, so a deep network starts as a shallow one (Zhang et al. 2019, "Fixup",
https://arxiv.org/abs/1901.09321; Child 2020, https://arxiv.org/abs/2011.10650, does the same in a VAE). So
training and evaluation are one function, and a large batch is the sum of small ones. With batch norm, after each
convolution of a block, larger learning rates are borne. The exported graph is convolutions alone either way.
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import silu

from cvae.errors import UsageError
from cvae.models.architectures.layers import Fold, Level, Unfold, Upsample, at_least_one, pyramid
from cvae.models.conditioning import Conditioning


class Block(nn.Module):
    """features + norm(conv(silu(modulate(norm(conv(silu(features))))))); the shape stays (B, C, H, W)."""

    def __init__(self, channels: int, conditioning: Conditioning, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = conditioning.modulation(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        # A norm is next to its convolution, into which an export folds it.
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        self.norm1, self.norm2 = norm(channels), norm(channels)
        for start in (self.norm2 if batch_norm else self.conv2).parameters():
            nn.init.zeros_(start)

    def forward(self, features: Tensor, label: Tensor | None) -> Tensor:
        update = self.modulation(self.norm1(self.conv1(silu(features))), label)
        return features + self.norm2(self.conv2(silu(update)))


class Stage(nn.Module):
    """A change of resolution (or none), then residual blocks."""

    def __init__(
        self, resample: nn.Module, channels: int, blocks: int, conditioning: Conditioning, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.resample = resample
        self.blocks = nn.ModuleList(Block(channels, conditioning, batch_norm=batch_norm) for _ in range(blocks))

    def forward(self, features: Tensor, label: Tensor | None) -> Tensor:
        features = self.resample(features)  # (B, a, h, w) -> (B, b, h', w')
        for block in self.blocks:
            features = block(features, label)
        return features


class BottomUp(nn.Module):
    """Image (B, C, H, W) -> its features (B, c, h, w) at each level, the largest first."""

    def __init__(
        self,
        image_channels: int,
        levels: list[Level],
        blocks: int,
        patch: int,
        conditioning: Conditioning,
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.fold = Fold(patch)
        stem = nn.Conv2d(image_channels * patch**2, levels[0].channels, 3, padding=1)
        downs = [nn.Conv2d(a.channels, b.channels, 3, stride=2, padding=1) for a, b in pairwise(levels)]
        self.stages = nn.ModuleList(
            Stage(down, down.out_channels, blocks, conditioning, batch_norm=batch_norm) for down in (stem, *downs)
        )

    def forward(self, image: Tensor, label: Tensor | None) -> tuple[Tensor, ...]:
        features, seen = self.fold(image), []
        for stage in self.stages:
            features = stage(features, label)  # the first: (B, C, H, W) -> (B, c, H, W); then half the size
            seen.append(features)
        return tuple(seen)


def per_position(level: Level, latent_dim: int) -> int:
    """Numbers of a spatial code at each position of the smallest feature maps.

    Raises:
        UsageError: the latent dimension is no multiple of the positions.
    """
    positions = level.height * level.width
    if latent_dim % positions:
        raise UsageError(
            f"option spatial: --latent-dim {latent_dim} is no multiple of the {level.height} x {level.width} positions "
            f"of the smallest feature maps; say {positions * (latent_dim // positions + 1)}, or another 'smallest'"
        )
    return latent_dim // positions


class Encoder(BottomUp):
    """Image (B, C, H, W) -> mean, log-variance (B, Z)."""

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
        super().__init__(image_channels, levels, blocks, patch, conditioning, batch_norm=batch_norm)
        smallest = levels[-1]
        self.spatial = spatial
        self.head = (
            nn.Conv2d(smallest.channels, 2 * per_position(smallest, latent_dim), 1)
            if spatial
            else conditioning.linear(smallest.features, 2 * latent_dim)
        )

    def forward(self, image: Tensor, label: Tensor | None) -> tuple[Tensor, ...]:
        features = silu(super().forward(image, label)[-1])  # (B, c, h, w)
        if self.spatial:
            return self.head(features).flatten(1).chunk(2, dim=1)  # (B, 2Z / hw, h, w) -> (B, Z), (B, Z)
        return self.head(features.flatten(1), label).chunk(2, dim=1)  # (B, Z), (B, Z)


def enlargements(levels: list[Level]) -> list[nn.Module]:
    """What comes before each level, the smallest first: nothing, then (B, 2c, h/2, w/2) -> (B, c, h, w)."""
    # Channels are reduced before the enlargement, where that costs a quarter.
    ups = [nn.Sequential(nn.Conv2d(a.channels, b.channels, 1), Upsample(b)) for a, b in pairwise(levels)]
    return [nn.Identity(), *ups]


class Decoder(nn.Module):
    """Latent (B, Z) -> likelihood parameters (B, P, H, W)."""

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
        self.spread = (
            nn.Conv2d(per_position(self.smallest, latent_dim), self.smallest.channels, 3, padding=1)
            if spatial
            else conditioning.linear(latent_dim, self.smallest.features)
        )
        self.stages = nn.ModuleList(
            Stage(resample, level.channels, blocks, conditioning, batch_norm=batch_norm)
            for resample, level in zip(enlargements(levels[::-1]), levels[::-1], strict=True)
        )
        self.head = nn.Conv2d(levels[0].channels, shape[0] * patch**2, 3, padding=1)
        self.unfold = Unfold(patch, *shape[1:])

    def forward(self, latent: Tensor, label: Tensor | None) -> Tensor:
        if self.spatial:
            features = self.spread(latent.unflatten(1, (-1, *self.smallest[1:])))  # (B, Z / hw, h, w) -> (B, c, h, w)
        else:
            features = self.spread(latent, label).unflatten(1, self.smallest)  # (B, Z) -> (B, c, h, w)
        for stage in self.stages:
            features = stage(features, label)  # (B, 2c, h/2, w/2) -> (B, c, h, w)
        return self.unfold(self.head(silu(features)))  # (B, P, H, W)


def resnet(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    param_channels: int,
    conditioning: Conditioning,
    *,
    width: int = 16,
    max_width: int = 64,
    blocks: int = 1,
    patch: int = 1,
    smallest: int = 4,
    batch_norm: bool = False,
    spatial: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """`width` channels at full resolution, doubled at each halving up to `max_width`; `blocks` per resolution.

    The full resolution is that of squares of `patch` pixels' side; it is halved until no side is longer than
    `smallest`. `batch_norm` bears larger learning rates; the loss of an image then depends on the rest of its batch.
    The code sees all of the image, or is `spatial`: equally many numbers of it belong to each position of the smallest
    feature maps, which reconstructs better from few training images, and samples worse.
    """
    at_least_one(width=width, max_width=max_width, blocks=blocks, patch=patch, smallest=smallest)
    levels = pyramid(image_shape, width, max_width, smallest, patch)
    shape = (param_channels, *image_shape[1:])
    return (
        Encoder(image_shape[0], levels, blocks, patch, batch_norm, spatial, latent_dim, conditioning),
        Decoder(shape, levels, blocks, patch, batch_norm, spatial, latent_dim, conditioning),
    )


resnet_small = partial(resnet, width=8, max_width=32)
resnet_large = partial(resnet, width=32, max_width=128, blocks=2)
