"""What the convolutional architectures share: how an image is halved, level by level, to a small map."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import interpolate

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


def pyramid(image_shape: tuple[int, int, int], width: int, max_width: int, smallest: int = 4) -> list[Level]:
    """The levels of a network for images (C, H, W), the largest first.

    Each level has half the height and width (rounded up) and twice the channels (at most `max_width`) of the one
    before, until no side is longer than `smallest`.
    """
    _, h, w = image_shape
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
