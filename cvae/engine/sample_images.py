"""Sample images of a model, during and after training: samples, interpolations and reconstructions."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cvae import imaging
from cvae.condition_rows import unknown_rows
from cvae.data import Split, condition_rows
from cvae.engine.randomness import reseed
from cvae.engine.validation import EVALUATION_SEED
from cvae.model_config import ModelConfig
from cvae.models import VAE
from cvae.run import RECONSTRUCTIONS, SAMPLE_GRID, sample_path

COLUMNS, MAX_ROWS = 8, 16

PAIRS = 4
"""Number of rows of originals in reconstructions.png. Below each is a row of reconstructions."""


@torch.no_grad()
def save_sample_images(model: VAE, config: ModelConfig, split: Split, run: Path, epoch: int) -> None:
    """Write the sample images of an epoch into a run folder, if the model's images are grey or colour.

    There are three grids: random images (a row per class for a conditional model), interpolations from the first random
    image of each row to the second, and images of `split` above their reconstructions. Every epoch uses the same noise.
    """
    if config.image_shape[0] not in (1, 3):
        return
    model.eval()
    noise, label = _draw_noise(model, config)
    starts, ends = noise[::COLUMNS].cpu().numpy(), noise[1::COLUMNS].cpu().numpy()  # (rows, Z) each
    weights = np.linspace(0, 1, COLUMNS)[:, None]
    paths = [imaging.slerp(start, end, weights) for start, end in zip(starts, ends, strict=True)]
    path_noise = torch.from_numpy(np.concatenate(paths, dtype=np.float32)).to(noise.device)  # (rows * COLUMNS, Z)
    images, reconstructions = _reconstruct(model, config, split, COLUMNS)
    grids = {
        "samples": _grid(model.decode(noise, label)),
        "interpolations": _grid(model.decode(path_noise, label)),
        "reconstructions": _grid(torch.cat([images, reconstructions]), len(images)),
    }
    model.train()
    for kind, grid in grids.items():
        imaging.save(grid, sample_path(run, epoch, kind))


@torch.no_grad()
def save_final_images(model: VAE, config: ModelConfig, split: Split, run: Path) -> None:
    """Write enlarged samples and reconstructions of a trained model into its run folder.

    The samples are decoded from the same noise as in `save_sample_images`, but with the saved weights.
    """
    if config.image_shape[0] not in (1, 3):
        return
    model.eval()
    samples = _grid(model.decode(*_draw_noise(model, config)))
    images, reconstructions = _reconstruct(model, config, split, COLUMNS * PAIRS)
    pairs = [torch.cat(pair) for pair in zip(images.split(COLUMNS), reconstructions.split(COLUMNS), strict=True)]
    rows = [_grid(pair, len(pair) // 2) for pair in pairs]
    imaging.save(imaging.magnify(samples), run / SAMPLE_GRID)
    imaging.save(imaging.magnify(_stack(rows, config.image_shape[1] // 4)), run / RECONSTRUCTIONS)


def _draw_noise(model: VAE, config: ModelConfig) -> tuple[Tensor, Tensor | None]:
    """Return the noise (rows * COLUMNS, Z) and the conditions of the samples. The noise is the same for each epoch.

    A model with classes gets a row for each class, and one with other conditions gets unknown conditions.
    """
    device = next(model.parameters()).device
    rows = COLUMNS if config.classes is None else min(len(config.classes), MAX_ROWS)
    reseed(device, EVALUATION_SEED, "pictures")
    noise = torch.randn(rows * COLUMNS, config.latent_dim, device=device)
    if config.classes is not None:
        return noise, torch.arange(rows, device=device).repeat_interleave(COLUMNS)
    unknown = unknown_rows(config.conditions, len(noise))
    return noise, None if unknown is None else torch.from_numpy(unknown).to(device)


def _reconstruct(model: VAE, config: ModelConfig, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Return the first images of a split, and their reconstructions, (N, C, H, W) each."""
    device = next(model.parameters()).device
    images = torch.from_numpy(split.images[:count]).to(device).float() / 255
    values = condition_rows(split) if config.conditions else None
    rows = None if values is None else torch.from_numpy(values[:count]).to(device)
    return images, model.decode(model.encode(images, rows)[0], rows)


def _grid(images: Tensor, columns: int = COLUMNS) -> Image.Image:
    return imaging.grid(images.float().cpu().numpy(), columns)


def _stack(rows: list[Image.Image], gap: int) -> Image.Image:
    """Stack images of the same height, with a white gap between them."""
    height = rows[0].height + gap
    canvas = Image.new(rows[0].mode, (rows[0].width, height * len(rows) - gap), "white")
    for i, row in enumerate(rows):
        canvas.paste(row, (0, i * height))
    return canvas
