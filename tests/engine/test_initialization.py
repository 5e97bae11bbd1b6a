"""Initial weights of a run."""

import numpy as np
import torch

from cvae.data import Split
from cvae.engine import initialization


def test_mean_image_is_that_of_the_first_images_and_is_read_in_parts(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (120, 1, 4, 5), dtype=np.uint8)
    sizes = []

    class Images(np.ndarray):
        def __getitem__(self, index):
            part = super().__getitem__(index)
            sizes.append(len(part))
            return part

    monkeypatch.setattr(initialization, "MEAN_IMAGES", 100)
    monkeypatch.setattr(initialization, "READ_IMAGES", 30)
    mean = initialization._mean_image(Split(images=images.view(Images)))
    assert sizes == [30, 30, 30, 10]
    assert torch.equal(mean, torch.from_numpy(images[:100].mean(0) / 255).float())
