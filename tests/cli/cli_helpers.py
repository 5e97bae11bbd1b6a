"""Helpers that read the images that commands write, and compute the expected images with torch."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cvae.engine import load_model

QUICK_TRAIN = ["train", "--arch", "mlp", "--epochs", "1", "--limit", "64", "--no-export"]
DIGITS = list(range(10))


def noise(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8), dtype=np.float32)


def run_torch(run: Path, method: str, array: np.ndarray, labels: list[int] | None) -> np.ndarray:
    """Return the images that torch decodes from noise, or the posterior means that it encodes from images."""
    with torch.inference_mode():
        result = getattr(load_model(run)[0], method)(
            torch.from_numpy(array), None if labels is None else torch.tensor(labels)
        )
    return (result if method == "decode" else result[0]).numpy()


def read_grid(path: str | Path, columns: int, rows: int) -> np.ndarray:
    """Return the images (N, 8, 8) of an enlarged grid that has grey lines between its cells."""
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("L")).astype(int)
    factor, remainder = divmod(pixels.shape[1], columns * 9 - 1)
    assert remainder == 0 and pixels.shape[0] == factor * (rows * 9 - 1) and max(pixels.shape) >= 280
    grid = pixels[::factor, ::factor]
    assert np.array_equal(pixels, np.kron(grid, np.ones((factor, factor), int)))
    assert set(grid[8::9].ravel()) | set(grid[:, 8::9].ravel()) <= {128}
    cells = np.pad(grid, ((0, 1), (0, 1))).reshape(rows, 9, columns, 9).transpose(0, 2, 1, 3)
    return cells[:, :, :8, :8].reshape(-1, 8, 8)


def same_images(cells: np.ndarray, images: np.ndarray) -> bool:
    """Return whether the cells (N, 8, 8) of a grid equal images (N, 1, 8, 8), except for rounding to bytes."""
    return cells.shape[0] == len(images) and bool(np.abs(cells - images[:, 0] * 255).max() <= 0.51)


def read_images(paths: list[Path]) -> np.ndarray:
    """Return images (N, 1, 8, 8) in [0, 1]."""
    return np.stack([np.asarray(Image.open(path))[None] / np.float32(255) for path in paths])
