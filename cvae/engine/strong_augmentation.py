"""Augmentation of the images that a classifier learns from, stronger than that of the images of a model."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

BLUR_RADIUS = 4
"""Radius of the blur's window, in pixels."""


def augment(images: Tensor, *, flip: bool) -> Tensor:
    """Transform images (B, C, H, W) in [0, 1] at random, each in its own way.

    Images are scaled, rotated, shifted, blurred and partly covered, and the colours of images in colour are changed.
    The blur makes the classifier, and the features of its last layer, less sensitive to the blur of reconstructed and
    generated images.

    Args:
        images: the images.
        flip: whether half of the images are also flipped horizontally.
    """
    images = _warp(images, flip=flip)
    if images.shape[1] == 3:
        images = _change_colours(images)
    return _cover(_blur(images))


def _uniform(images: Tensor, low: float, high: float, *shape: int) -> Tensor:
    """Return random numbers (B, *shape) between `low` and `high`."""
    return low + (high - low) * torch.rand(len(images), *shape, device=images.device)


def _warp(images: Tensor, *, flip: bool) -> Tensor:
    """Scale, rotate and shift images, and perhaps flip half of them."""
    height, width = images.shape[2:]
    angle = _uniform(images, -0.05, 0.05)
    x_scale, y_scale = _uniform(images, -0.1, 0.1, 2).exp().unbind(1)
    if flip:
        x_scale = x_scale * (2.0 * (_uniform(images, 0, 1) < 0.5) - 1)
    x_shift, y_shift = _uniform(images, -0.1, 0.1, 2).unbind(1)
    # Coordinates are in [-1, 1] along both sides, so an image that is not square needs the ratio of the sides.
    x_row = [x_scale * angle.cos(), -y_scale * angle.sin() * height / width, x_shift]
    y_row = [x_scale * angle.sin() * width / height, y_scale * angle.cos(), y_shift]
    matrix = torch.stack([torch.stack(x_row, 1), torch.stack(y_row, 1)], 1)  # (B, 2, 3)
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _change_colours(images: Tensor) -> Tensor:
    """Change the saturation, the contrast, the brightness and the tint of images (B, 3, H, W)."""
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * _uniform(images, 0.5, 1.5, 1, 1, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * _uniform(images, -0.2, 0.2, 1, 1, 1).exp()
    return (images + _uniform(images, -0.1, 0.1, 1, 1, 1) + _uniform(images, -0.05, 0.05, 3, 1, 1)).clamp(0, 1)


def _blur(images: Tensor) -> Tensor:
    """Blur half of the images with a Gaussian, whose standard deviation is at most a 32nd of the shorter side."""
    batch, channels, height, width = images.shape
    sigma = _uniform(images, 0.01, min(height, width) / 32) * (_uniform(images, 0, 1) < 0.5) + 1e-3
    distance = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=images.device)
    kernel = (-0.5 * (distance / sigma[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # (B C, window)
    flat = images.reshape(1, batch * channels, height, width)
    margin = (BLUR_RADIUS,) * 4
    flat = pad(flat, margin, mode="replicate")
    flat = conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    flat = conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return flat.reshape(images.shape)


def _cover(images: Tensor) -> Tensor:
    """Cover a square of half of the images with their mean (DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552).

    The side of the square is half of the shorter side of the image.
    """
    height, width = images.shape[2:]
    reach = min(height, width) / 4
    rows = (torch.arange(height, device=images.device) - _uniform(images, 0, height, 1)).abs() < reach  # (B, H)
    columns = (torch.arange(width, device=images.device) - _uniform(images, 0, width, 1)).abs() < reach  # (B, W)
    square = rows[:, None, :, None] & columns[:, None, None, :] & (_uniform(images, 0, 1, 1, 1, 1) < 0.5)
    return torch.where(square, images.mean((1, 2, 3), keepdim=True), images)
