"""Augmentation of training images."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cvae.config import TrainConfig
from cvae.engine.randomness import Shard


def augment(images: Tensor, config: TrainConfig, shard: Shard) -> Tensor:
    """Convert images (B, C, H, W) from uint8 to float32 in [0, 1], and transform them.

    Args:
        images: images (B, C, H, W) uint8.
        config: training configuration, with the settings `flip`, `shift`, `crop`, `rotate`, `zoom`, `jitter` and
            `consistency`.
        shard: the shard of the full batch that consists of these images.

    Returns:
        Images (B, C, H, W) float32. With `consistency`, (2 B, C, H, W): each image is followed by its transformed copy.
    """
    values = _transform(images, config, shard)
    if config.consistency is not None:
        values = torch.stack([images.float().div_(255), values], dim=1).flatten(0, 1)  # (B, 2, ...) -> (2 B, ...)
    return values


def binarize(images: Tensor, copies: int, shard: Shard) -> Tensor:
    """Sample each pixel from Bernoulli(grey value).

    Burda, Grosse & Salakhutdinov 2015, https://arxiv.org/abs/1509.00519.

    Args:
        images: images (copies * B, C, H, W) float32 in [0, 1].
        copies: number of consecutive images that belong to one image of the shard.
        shard: the shard of the full batch.
    """
    threshold = shard.draw(torch.rand, len(images) // copies, copies, *images.shape[1:], device=images.device)
    return (images > threshold.flatten(0, 1)).float()


def _transform(images: Tensor, config: TrainConfig, shard: Shard) -> Tensor:
    """Flip, shift, crop, rotate and scale images, and change their colours.

    Uncovered margins are filled with the values of the edge pixels.
    """
    device, (batch_size, _, height, width) = images.device, images.shape
    if config.flip:
        flip = shard.draw(torch.rand, batch_size, 1, 1, 1, device=device) < 0.5
        images = torch.where(flip, images.flip(3), images)
    if config.shift:
        offset = shard.draw(torch.rand, batch_size, 2, device=device)
        offset = (offset * (2 * config.shift + 1)).long() - config.shift  # (B, 2) in -shift ... shift
        y = (torch.arange(height, device=device) + offset[:, :1]).clamp(0, height - 1)  # (B, H)
        x = (torch.arange(width, device=device) + offset[:, 1:]).clamp(0, width - 1)  # (B, W)
        images = images.gather(2, y[:, None, :, None].expand_as(images))
        images = images.gather(3, x[:, None, None, :].expand_as(images))
    values = images.float().div_(255)
    if config.crop < 1 or config.rotate or config.zoom:
        values = _resample(values, config, shard)
    if config.jitter:
        values = _change_colours(values, config.jitter, shard)
    return values


def _resample(values: Tensor, config: TrainConfig, shard: Shard) -> Tensor:
    """Crop, rotate and scale images (B, C, H, W) float32."""
    batch_size, _, height, width = values.shape

    def uniform(count: int) -> Tensor:
        return shard.draw(torch.rand, batch_size, count, device=values.device)  # (B, count) in [0, 1)

    size = values.new_ones(batch_size, 1)  # side of the visible part, as a fraction of the image's side
    centre = values.new_zeros(batch_size, 2)  # centre of this part, in [-1, 1]
    angle = values.new_zeros(batch_size, 1)
    if config.crop < 1:
        size = config.crop + (1 - config.crop) * uniform(1)
        centre = (1 - size) * (2 * uniform(2) - 1)
    if config.rotate:
        angle = math.radians(config.rotate) * (2 * uniform(1) - 1)
    if config.zoom:
        size = size / (1 + config.zoom * (2 * uniform(1) - 1))
    cos, sin = size * angle.cos(), size * angle.sin()
    # Coordinates are in [-1, 1] along both sides, so an image that is not square needs the ratio of the sides.
    matrix = torch.cat([cos, -sin * (height / width), sin * (width / height), cos], dim=1).unflatten(1, (2, 2))
    grid = affine_grid(torch.cat([matrix, centre[:, :, None]], dim=2), list(values.shape), align_corners=False)
    # Bilinear interpolation would blur an image that is not enlarged. Not every version of torch has bicubic on MPS.
    mode = "bicubic" if (config.rotate or config.zoom) and values.device.type != "mps" else "bilinear"
    return grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False).clamp_(0, 1)


def _change_colours(values: Tensor, jitter: float, shard: Shard) -> Tensor:
    """Change the brightness of each channel, the contrast and the saturation of images (B, C, H, W) float32.

    Each is multiplied by a random factor between 1 - jitter and 1 + jitter.
    """
    batch_size, channels = values.shape[:2]
    factors = 1 + jitter * (2 * shard.draw(torch.rand, batch_size, channels + 2, 1, 1, device=values.device) - 1)
    brightness, contrast, saturation = factors.split([channels, 1, 1], dim=1)
    values = values * brightness
    mean = values.mean((1, 2, 3), keepdim=True)
    values = torch.lerp(mean, values, contrast)
    grey = values.mean(1, keepdim=True)
    return torch.lerp(grey, values, saturation).clamp_(0, 1)
