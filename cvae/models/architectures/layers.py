"""Layers and helpers shared by the architectures."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle, pixel_unshuffle

from cvae.errors import UsageError


def require_positive(**options: int | tuple[int, ...]) -> None:
    """Check that options such as widths and depths are positive.

    Raises:
        UsageError: If an option or one of its entries is less than 1, or if an option has no entries.
    """
    for name, value in options.items():
        if not value or min(value if isinstance(value, tuple) else (value,)) < 1:
            raise UsageError(f"option {name}={value!r} must be at least 1")


def counts_latents(count: Callable[..., int]) -> Callable[[Any], Any]:
    """Return a decorator for an architecture whose number of latent dimensions Z depends on its options.

    Args:
        count: function (image_shape (C, H, W), configured latent_dim, **options) -> Z.
    """

    def decorate(architecture: Any) -> Any:
        architecture.count_latents = count
        return architecture

    return decorate


def count_grid_latents(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    *,
    smallest: int,
    patch: int = 1,
    latent_channels: int,
    **options: Any,
) -> int:
    """Return the number of latents in a grid at the smallest level, or `latent_dim` if the latents are a vector."""
    if not latent_channels:
        return latent_dim
    require_positive(smallest=smallest, patch=patch)  # otherwise, `pyramid` would not end
    level = pyramid(image_shape, 1, 1, smallest, patch)[-1]
    return latent_channels * level.height * level.width


class Level(NamedTuple):
    """Shape (channels, height, width) of the feature maps at one resolution of a network."""

    channels: int
    height: int
    width: int

    @property
    def features(self) -> int:
        return self.channels * self.height * self.width


def pyramid(
    image_shape: tuple[int, int, int], width: int, max_width: int, smallest: int = 4, patch: int = 1
) -> list[Level]:
    """Return the levels of a network for images (C, H, W), from the largest to the smallest.

    Each level has half the height and width of the previous level, rounded up, and twice the channels, up to
    `max_width`.

    Args:
        image_shape: shape (C, H, W) of the images.
        width: number of channels of the first level.
        max_width: maximum number of channels.
        smallest: maximum side of the last level, in positions.
        patch: side in pixels of the square patch that makes up one position of the first level.
    """
    h, w = (-(-side // patch) for side in image_shape[1:])
    levels = [Level(width, h, w)]
    while max(h, w) > smallest:
        h, w = (h + 1) // 2, (w + 1) // 2
        levels.append(Level(min(2 * levels[-1].channels, max_width), h, w))
    return levels


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to the size of a level, whose height and width may be odd."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.size = (level.height, level.width)

    def forward(self, features: Tensor) -> Tensor:
        return interpolate(features, size=self.size, mode="nearest")  # (B, C, h, w) -> (B, C, H, W)


class Patchify(nn.Module):
    """Rearrangement of square patches into channels: (B, C, H, W) -> (B, patch^2 C, H / patch, W / patch).

    The image is padded with black on the right and at the bottom, so that its sides are multiples of `patch`. A network
    that works on patches is much faster than a network that works on pixels, and only slightly worse (Shi et al. 2016,
    https://arxiv.org/abs/1609.05158).
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, image: Tensor) -> Tensor:
        if self.patch == 1:
            return image
        height, width = image.shape[2:]
        return pixel_unshuffle(pad(image, (0, -width % self.patch, 0, -height % self.patch)), self.patch)


class Unpatchify(nn.Module):
    """Inverse of `Patchify`, including its padding: (B, patch^2 C, h, w) -> (B, C, H, W)."""

    def __init__(self, patch: int, height: int, width: int) -> None:
        super().__init__()
        self.patch, self.height, self.width = patch, height, width

    def forward(self, features: Tensor) -> Tensor:
        if self.patch == 1:
            return features
        return pixel_shuffle(features, self.patch)[:, :, : self.height, : self.width]
