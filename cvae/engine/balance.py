"""Order of the training images in which each value of a category occurs equally often."""

import numpy as np
import torch
from torch import Tensor

MAX_REPEATS = 10
"""Maximum number of times that an image occurs in an epoch. It limits overfitting to values with few images."""


def count_draws(counts: np.ndarray, total: int) -> np.ndarray:
    """Return how many images to draw of each value, (K,), so that they add up to `total`.

    The numbers are equal, except that no image is drawn more than `MAX_REPEATS` times; the other values share the rest.

    Args:
        counts: number of images of each value, (K,).
        total: number of images to draw, at most `MAX_REPEATS` times the number of images.
    """
    limits = MAX_REPEATS * counts
    draws = np.zeros_like(counts)
    rest, open_values = total, np.flatnonzero(counts)
    while len(open_values):
        share = rest // len(open_values)
        full = open_values[limits[open_values] <= share]
        if not len(full):
            draws[open_values] = share
            draws[open_values[: rest - share * len(open_values)]] += 1
            break
        draws[full] = limits[full]
        rest -= limits[full].sum()
        open_values = np.setdiff1d(open_values, full)
    return draws


def balanced_order(values: Tensor, num_values: int, generator: torch.Generator) -> Tensor:
    """Return the indices (N,) of the images of an epoch in random order, with each value equally often.

    Args:
        values: index of each image's value, (N,) int64. Images of which the value is unknown, K, occur once.
        num_values: number K of values.
        generator: source of the random numbers.
    """
    counts = np.bincount(values.numpy(), minlength=num_values + 1)
    draws = [*count_draws(counts[:num_values], int(counts[:num_values].sum())), counts[num_values]]
    indices = []
    for value, count in enumerate(draws):
        images = torch.nonzero(values == value)[:, 0]
        while count > 0:  # every image of a value occurs before any of them is repeated
            part = images[torch.randperm(len(images), generator=generator)][:count]
            indices.append(part)
            count -= len(part)
    order = torch.cat(indices)
    return order[torch.randperm(len(order), generator=generator)]
