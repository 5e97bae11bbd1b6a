"""Classes by styles, and the manifold of a code of two numbers."""

from statistics import NormalDist

import numpy as np
from matplotlib.figure import Figure

from cvae.plots.image_grid import image_grid
from cvae.runtime import Model


def styles(model: Model, columns: int, seed: int, title: str) -> Figure:
    """A row for each class; down a column the noise is the same."""
    assert model.spec.classes is not None
    classes = model.spec.classes
    noise = np.tile(model.noise(columns, seed), (len(classes), 1))  # (K, Z) -> (classes*K, Z)
    images = model.decode(noise, label_index=np.arange(len(classes)).repeat(columns))
    return image_grid(images, classes, [""] * columns, title)


def quantiles(count: int) -> np.ndarray:
    """Values (count,) between which a standard normal number falls equally often, from low to high."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)], np.float32)


def manifold(model: Model, index: int | None, columns: int, title: str) -> Figure:
    """The images of a whole plane of codes, at the quantiles of their distribution.

    Kingma & Welling 2013, figure 4: https://arxiv.org/abs/1312.6114
    """
    values = quantiles(columns)
    right, down = np.meshgrid(values, values)  # (K, K) each
    images = model.decode(np.stack([right, down], axis=-1).reshape(-1, 2), label_index=index)
    step = -(-columns // 20)  # more names would run into each other
    names = [f"{value:+.1f}" if i % step == 0 else "" for i, value in enumerate(values)]
    return image_grid(images, names, names, title)
