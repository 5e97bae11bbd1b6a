"""Images that commands write, and those that torch decodes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cvae.engine import load_model

QUICK = ["train", "--arch", "mlp", "--epochs", "1", "--limit", "64", "--no-export"]


def noise(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8), dtype=np.float32)


def in_torch(run: Path, role: str, array: np.ndarray, labels: list[int] | None) -> np.ndarray:
    """Return what torch decodes from noise, or the means that it encodes from images."""
    with torch.inference_mode():
        result = getattr(load_model(run)[0], role)(
            torch.from_numpy(array), None if labels is None else torch.tensor(labels)
        )
    return (result if role == "decode" else result[0]).numpy()


def panels(path: str | Path, across: int, down: int) -> np.ndarray:
    """Return the images (N, 8, 8) of an enlarged grid of `across` times `down` cells with grey lines between them."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L")).astype(int)
    factor, rest = divmod(pixels.shape[1], across * 9 - 1)
    assert rest == 0 and pixels.shape[0] == factor * (down * 9 - 1) and max(pixels.shape) >= 280
    grid = pixels[::factor, ::factor]
    assert np.array_equal(pixels, np.kron(grid, np.ones((factor, factor), int)))
    assert set(grid[8::9].ravel()) | set(grid[:, 8::9].ravel()) <= {128}
    places = np.pad(grid, ((0, 1), (0, 1))).reshape(down, 9, across, 9).transpose(0, 2, 1, 3)
    return places[:, :, :8, :8].reshape(-1, 8, 8)


def panels_show(values: np.ndarray, images: np.ndarray) -> bool:
    """Return whether panels show these images (N, 1, 8, 8), rounded to bytes."""
    return values.shape[0] == len(images) and bool(np.abs(values - images[:, 0] * 255).max() <= 0.51)


def originals(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path))[None] / np.float32(255) for path in paths])


DIGITS = list(range(10))
