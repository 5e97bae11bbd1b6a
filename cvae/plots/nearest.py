"""Plot of generated images above their nearest training images."""

import numpy as np
from matplotlib.figure import Figure

from cvae.data import Split
from cvae.evaluation.feature_extractor import FeatureExtractor
from cvae.evaluation.fidelity import nearest
from cvae.evaluation.generation import extract_features
from cvae.plots.image_grid import image_grid


def draw(images: np.ndarray, train: Split, extractor: FeatureExtractor, neighbours: int, title: str) -> Figure:
    """Draw generated images (N, C, H, W), each above its nearest training images in the features of the extractor."""
    assert extractor.features is not None
    indices = nearest(extractor.features(images), extract_features(extractor, train), neighbours).indices  # (N, K)
    rows = [images, *(train.images[column].astype(np.float32) / 255 for column in indices.T)]
    names = ["generated", *(f"nearest {rank}" for rank in range(1, neighbours + 1))]
    return image_grid(np.concatenate(rows), names, [""] * len(images), title)
