"""Augmentation of training images, one batch at a time."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cvae.config import TrainConfig
from cvae.engine.randomness import Shard


def augment(images: Tensor, config: TrainConfig, shard: Shard) -> Tensor:
    """Convert images (B, C, H, W) from uint8 to float32 in [0, 1], and flip, shift, crop and binarize them.

    A shift fills the uncovered margin with the edge pixels. "dynamic" binarization samples each pixel from
    Bernoulli(grey value), again in every epoch (Burda, Grosse & Salakhutdinov 2015, https://arxiv.org/abs/1509.00519).

    Args:
        images: images (B, C, H, W) uint8.
        config: training configuration, with the settings `flip`, `shift`, `crop` and `binarize`.
        shard: shard of the batch to which the images belong.

    Returns:
        Images (B, C, H, W) float32.
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
    if config.crop < 1:
        # Side of the crop as a fraction of the image's side, (B, 1).
        size = config.crop + (1 - config.crop) * shard.draw(torch.rand, batch_size, 1, device=device)
        centre = (1 - size) * (2 * shard.draw(torch.rand, batch_size, 2, device=device) - 1)  # (B, 2), in [-1, 1]
        zoom = torch.diag_embed(size.expand(batch_size, 2))  # (B, 2, 2)
        grid = affine_grid(torch.cat([zoom, centre[:, :, None]], dim=2), list(images.shape), align_corners=False)
        values = grid_sample(values, grid, padding_mode="border", align_corners=False).clamp_(0, 1)
    if config.binarize == "dynamic":
        values = (shard.draw(torch.rand, batch_size, *images.shape[1:], device=device) < values).float()
    return values
