"""Sample images of a model in training: samples, interpolations and reconstructions."""

from pathlib import Path

import numpy as np
import torch

from cvae import imaging
from cvae.config import ModelConfig
from cvae.data import Split
from cvae.engine.randomness import reseed
from cvae.engine.validation import EVALUATION_SEED
from cvae.models import VAE
from cvae.run import sample_path

COLUMNS, MAX_ROWS = 8, 16


@torch.no_grad()
def save_sample_images(model: VAE, config: ModelConfig, split: Split, run: Path, epoch: int) -> None:
    """Write the sample images of an epoch into a run folder, if the model's images are grey or colour.

    There are three grids: random images (a row per class for a conditional model), interpolations from the first image
    of each row to the second, and images of `split` above their reconstructions. The noise is the same for each epoch.
    """
    if config.image_shape[0] not in (1, 3):
        return
    device = next(model.parameters()).device
    model.eval()
    rows = COLUMNS if config.classes is None else min(len(config.classes), MAX_ROWS)
    reseed(device, EVALUATION_SEED, "pictures")
    noise = torch.randn(rows * COLUMNS, config.latent_dim, device=device)
    label = None if config.classes is None else torch.arange(rows, device=device).repeat_interleave(COLUMNS)
    starts, ends = noise[::COLUMNS].cpu().numpy(), noise[1::COLUMNS].cpu().numpy()  # (rows, Z) each
    weights = np.linspace(0, 1, COLUMNS)[:, None]
    paths = [imaging.slerp(start, end, weights) for start, end in zip(starts, ends, strict=True)]
    path_noise = torch.from_numpy(np.concatenate(paths, dtype=np.float32)).to(device)  # (rows * COLUMNS, Z)
    image = torch.from_numpy(split.images[:COLUMNS]).to(device).float() / 255
    labels = None if config.classes is None else split.labels
    image_label = None if labels is None else torch.from_numpy(labels[:COLUMNS]).to(device)
    reconstruction = model.decode(model.encode(image, image_label)[0], image_label)
    grids = {
        "samples": (model.decode(noise, label), COLUMNS),
        "interpolations": (model.decode(path_noise, label), COLUMNS),
        "reconstructions": (torch.cat([image, reconstruction]), len(image)),
    }
    model.train()
    for kind, (images, columns) in grids.items():
        imaging.save(imaging.grid(images.float().cpu().numpy(), columns), sample_path(run, epoch, kind))
