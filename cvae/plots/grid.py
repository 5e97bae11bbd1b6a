"""Grids of generated images: a row for each class, or the manifold of a two-dimensional latent space."""

from statistics import NormalDist

import numpy as np
from matplotlib.figure import Figure

from cvae.plots.image_grid import image_grid
from cvae.runtime import Model


def class_grid(model: Model, columns: int, seed: int, title: str) -> Figure:
    """Draw a row of images for each class, with the same noise in each column."""
    assert model.spec.classes is not None
    classes = model.spec.classes
    noise = np.tile(model.noise(columns, seed), (len(classes), 1))  # (K, Z) -> (classes*K, Z)
    images = model.decode(noise, label_index=np.arange(len(classes)).repeat(columns))
    return image_grid(images, classes, [""] * columns, title)


def normal_quantiles(count: int) -> np.ndarray:
    """Return the medians of `count` equally probable intervals of the standard normal distribution, smallest first."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)], np.float32)


def manifold(model: Model, index: int | None, columns: int, title: str) -> Figure:
    """Draw a grid of images that are decoded from the quantiles of a two-dimensional prior.

    Kingma & Welling 2013, figure 4, https://arxiv.org/abs/1312.6114
    """
    values = normal_quantiles(columns)
    x, y = np.meshgrid(values, values)  # (K, K) each
    images = model.decode(np.stack([x, y], axis=-1).reshape(-1, 2), label_index=index)
    tick_step = -(-columns // 20)  # more tick labels would overlap
    ticks = [f"{value:+.1f}" if i % tick_step == 0 else "" for i, value in enumerate(values)]
    return image_grid(images, ticks, ticks, title)
