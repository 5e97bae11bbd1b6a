"""What the convolutional architectures share: how an image is halved, level by level, to a small map."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle, pixel_unshuffle

from cvae.errors import UsageError


def at_least_one(**options: int | tuple[int, ...]) -> None:
    """Refuse widths and depths that make no network.

    Raises:
        UsageError: an option, or an entry of it, is less than 1, or it has no entries.
    """
    for name, value in options.items():
        if not value or min(value if isinstance(value, tuple) else (value,)) < 1:
            raise UsageError(f"option {name}={value!r}: at least 1 is needed")


class Level(NamedTuple):
    """One resolution of a network: feature maps (channels, height, width)."""

    channels: int
    height: int
    width: int

    @property
    def features(self) -> int:
        return self.channels * self.height * self.width


def pyramid(
    image_shape: tuple[int, int, int], width: int, max_width: int, smallest: int = 4, patch: int = 1
) -> list[Level]:
    """The levels of a network for images (C, H, W), the largest first.

    The first has a position for each square of `patch` pixels' side. Each level has half the height and width (rounded
    up) and twice the channels (at most `max_width`) of the one before, until no side is longer than `smallest`.
    """
    h, w = (-(-side // patch) for side in image_shape[1:])
    levels = [Level(width, h, w)]
    while max(h, w) > smallest:
        h, w = (h + 1) // 2, (w + 1) // 2
        levels.append(Level(min(2 * levels[-1].channels, max_width), h, w))
    return levels


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a level's exact height and width, odd ones too."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.size = (level.height, level.width)

    def forward(self, features: Tensor) -> Tensor:
        return interpolate(features, size=self.size, mode="nearest")  # (B, C, h, w) -> (B, C, H, W)


class Fold(nn.Module):
    """Each square of `patch` pixels' side becomes one position: (B, C, H, W) -> (B, patch^2 C, H / patch, W / patch).

    Sides are rounded up, with black beyond the edge. A network that works on squares is quicker than one that works
    on pixels, by more than it is worse (Shi et al. 2016, https://arxiv.org/abs/1609.05158).
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, image: Tensor) -> Tensor:
        if self.patch == 1:
            return image
        height, width = image.shape[2:]
        return pixel_unshuffle(pad(image, (0, -width % self.patch, 0, -height % self.patch)), self.patch)


class Unfold(nn.Module):
    """The way back: (B, patch^2 C, h, w) -> (B, C, H, W)."""

    def __init__(self, patch: int, height: int, width: int) -> None:
        super().__init__()
        self.patch, self.height, self.width = patch, height, width

    def forward(self, features: Tensor) -> Tensor:
        if self.patch == 1:
            return features
        return pixel_shuffle(features, self.patch)[:, :, : self.height, : self.width]
