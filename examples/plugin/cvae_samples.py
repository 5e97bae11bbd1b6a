"""Exporter for cvae that writes a NumPy archive of random images, for programs that can't run a model."""

from pathlib import Path

import numpy as np

import cvae
from cvae.atomic import atomic_write


def export(model: Path, *, count: int = 16, seed: int = 0, out: str = "samples.npz") -> list[Path]:
    """Write random images (N, C, H, W) in [0, 1] and, for a conditional model, their labels (N,).

    Args:
        model: folder of exported files, or path of a decoder.
        count: number of images.
        seed: seed of the noise.
        out: file to write.
    """
    decoder = cvae.load(model)
    arrays = {"images": decoder.generate(count, seed=seed)}
    if decoder.spec.classes is not None:  # without a label, `generate` cycles through the classes
        arrays["labels"] = np.arange(count) % len(decoder.spec.classes)
    with atomic_write(out) as temporary_path, temporary_path.open("wb") as file:
        np.savez(file, **arrays)
    return [Path(out)]
