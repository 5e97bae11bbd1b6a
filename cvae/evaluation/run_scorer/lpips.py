"""LPIPS of pairs of images."""

import math
from collections.abc import Callable

import numpy as np
import torch

from cvae.engine.resolve import choose_device
from cvae.models.feature_networks import LPIPS

MAX_POSITIONS = 2**18
"""Maximum number of pixels in a batch, so that the feature maps of a layer take at most 64 MB."""


def load_lpips(
    image_shape: tuple[int, int, int], device: str = "auto"
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function that computes the LPIPS (N,) of pairs of images (N, C, H, W) float32 in [0, 1].

    Raises:
        UsageError: If the images are neither grey nor colour, or too small.
        CvaeError: If the weights of VGG16 can't be downloaded, or their file is damaged.
    """
    network = LPIPS(image_shape)
    network.load()
    network.to(choose_device(device)).to(memory_format=torch.channels_last)
    size = max(1, MAX_POSITIONS // math.prod(image_shape[1:]))

    @torch.inference_mode()
    def compute(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
        distances = []
        for i in range(0, len(images), size):
            pair = [torch.from_numpy(array[i : i + size]).to(network.mean) for array in (images, reconstructions)]
            distances.append(network.distance(*map(network, pair)).cpu())
        return torch.cat(distances).numpy()

    return compute
