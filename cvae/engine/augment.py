"""Random changes of training images, for the whole batch at once."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cvae.config import TrainConfig
from cvae.engine.randomness import Shard


def augment(images: Tensor, asked: TrainConfig, shard: Shard) -> Tensor:
    """uint8 images (B, C, H, W) -> float32 in [0, 1], flipped, shifted, cropped and binarized as asked.

    What a shift moves in is the image's edge, repeated. `dynamic` binarization draws each pixel from
    Bernoulli(grey value) anew, every time it is seen (Burda, Grosse & Salakhutdinov 2015, https://arxiv.org/abs/1509.00519).
    """
    device, (rows, _, height, width) = images.device, images.shape
    if asked.flip:
        mirrored = shard.draw(torch.rand, rows, 1, 1, 1, device=device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    if asked.shift:
        moves = shard.draw(torch.rand, rows, 2, device=device)
        moves = (moves * (2 * asked.shift + 1)).long() - asked.shift  # (B, 2) in -shift ... shift
        y = (torch.arange(height, device=device) + moves[:, :1]).clamp(0, height - 1)  # (B, H)
        x = (torch.arange(width, device=device) + moves[:, 1:]).clamp(0, width - 1)  # (B, W)
        images = images.gather(2, y[:, None, :, None].expand_as(images))
        images = images.gather(3, x[:, None, None, :].expand_as(images))
    values = images.float().div_(255)
    if asked.crop < 1:
        size = asked.crop + (1 - asked.crop) * shard.draw(torch.rand, rows, 1, device=device)  # (B, 1), of the side
        centre = (1 - size) * (2 * shard.draw(torch.rand, rows, 2, device=device) - 1)  # (B, 2), in [-1, 1]
        zoom = torch.diag_embed(size.expand(rows, 2))  # (B, 2, 2)
        grid = affine_grid(torch.cat([zoom, centre[:, :, None]], dim=2), list(images.shape), align_corners=False)
        values = grid_sample(values, grid, padding_mode="border", align_corners=False).clamp_(0, 1)
    if asked.binarize == "dynamic":
        values = (shard.draw(torch.rand, rows, *images.shape[1:], device=device) < values).float()
    return values
