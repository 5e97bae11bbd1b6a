"""Fit the prior of a trained model to its latents; with --conditional, make it depend on the label.

    python model_zoo/scripts/fit_prior.py mnist-ladder runs/fitted --conditional

This is `cvae train --init mnist-ladder --conditional --freeze encoder --freeze decoder`, but faster: the images are
encoded only a few times, and the prior is trained on these latents.
"""

import argparse
import copy
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cvae.atomic import atomic_folder
from cvae.config import Config, TrainConfig
from cvae.data import Split, condition_rows, load_dataset
from cvae.engine import load_model
from cvae.engine.augment import augment, binarize
from cvae.engine.checkpoint import save_weights
from cvae.engine.initialization import initialize
from cvae.engine.randomness import FULL_BATCH
from cvae.engine.resolve import configure
from cvae.errors import CvaeError, UsageError
from cvae.models import VAE, build
from cvae.models.priors import Prior
from cvae.run import CONFIG, WEIGHTS
from cvae.runtime.find import find

ENCODER_BATCH_SIZE = 200
"""Number of images to encode at a time."""

BATCH_SIZE, WARMUP, CLIP = 512, 200, 10.0
"""Number of latents per training step, steps of the warm-up, and maximum gradient norm."""

EMA_START, EMA = 500, 0.998
"""Step at which the moving average of the weights starts, and its decay."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Run or zoo model.")
    parser.add_argument("out", type=Path, help="Folder to create for the model with the new prior.")
    parser.add_argument("--conditional", action="store_true", help="Condition the prior on the label.")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="Latents per training image.")
    parser.add_argument("--steps", type=int, default=20_000, metavar="N", help="Training steps of the prior.")
    parser.add_argument("--lr", type=float, default=2e-3, metavar="X", help="Learning rate.")
    parser.add_argument("--limit", type=int, metavar="N", help="Use only the first N training images.")
    parser.add_argument("--data-dir", type=Path, metavar="PATH", help="Folder of the data sets.")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{str(args.out)!r} already exists; choose another folder")
    for name in ("samples", "steps", "lr", "limit"):
        if (value := getattr(args, name)) is not None and value <= 0:
            parser.error(f"--{name} {value} must be positive")
    torch.manual_seed(0)
    try:
        folder = find(args.model)
        _, trained = load_model(folder)
        conditional = args.conditional or trained.training.conditional
        data_dir = args.data_dir or trained.training.data_dir
        training = replace(trained.training, init=str(folder), conditional=conditional, data_dir=data_dir)
        training = replace(training, limit=args.limit or training.limit)
        model, config = fit_prior(training, args.samples, args.steps, args.lr)
        config = replace(config, training=replace(config.training, init=args.model, data_dir=None))
        with atomic_folder(args.out) as out:
            save_weights(out / WEIGHTS, model.state_dict())
            (out / CONFIG).write_text(config.to_json(), "utf-8")
    except CvaeError as error:
        parser.error(str(error))


def fit_prior(training: TrainConfig, samples: int, steps: int, lr: float) -> tuple[VAE, Config]:
    """Return the model that `training.init` names with a new prior, and its config.

    Args:
        training: configuration of the model.
        samples: number of latents per training image; before each of them, the image is binarized again.
        steps: training steps of the prior.
        lr: learning rate.

    Raises:
        UsageError: If the prior has no weights.
    """
    dataset = load_dataset(training.data_config)
    config = configure(training, dataset)
    model = build(config.model).eval()
    for note in initialize([model], config, dataset.train):
        print(note)
    if not [*model.prior.parameters()]:
        raise UsageError(f"the prior {config.model.prior.name!r} has no weights; choose a model with a learned prior")
    values = condition_rows(dataset.train)
    rows = None if values is None or model.conditions is None else torch.from_numpy(values)
    latents, conditions = [], []
    for number in range(samples):
        print(f"encoding: pass {number + 1} of {samples}", flush=True)
        if rows is not None:
            assert model.conditions is not None
            random = torch.rand(len(rows), len(config.model.conditions))
            conditions.append(model.conditions.drop(rows, random, config.training.drop_conditions or 0))
        latents.append(encode(model, dataset.train, conditions[-1] if conditions else None, config.training))
    model.prior = train_prior(model, torch.cat(latents), torch.cat(conditions) if conditions else None, steps, lr)
    return model, config


@torch.inference_mode()
def encode(model: VAE, split: Split, rows: Tensor | None, training: TrainConfig) -> Tensor:
    """Sample the latents (N, D) that the prior transforms, one vector for each image."""
    dims = getattr(model.prior, "dims", model.latent_dim)
    parts = []
    for start in range(0, len(split), ENCODER_BATCH_SIZE):
        index = slice(start, min(start + ENCODER_BATCH_SIZE, len(split)))
        image = augment(torch.from_numpy(split.images[index]), replace(training, consistency=None), FULL_BATCH)
        if training.binarize == "dynamic":
            image = binarize(image, 1, FULL_BATCH)
        parts.append(model.sample_posterior(image, None if rows is None else rows[index])[:, :dims])
    return torch.cat(parts).clone()  # a clone, because tensors of inference mode can't be trained on


def train_prior(model: VAE, latent: Tensor, rows: Tensor | None, steps: int, lr: float) -> Prior:
    """Train the prior on latents (N, D), and return the moving average of its weights."""
    prior = model.prior.train().requires_grad_(True)
    average = copy.deepcopy(prior)
    update = get_ema_multi_avg_fn(EMA)
    optimizer = torch.optim.AdamW(prior.parameters(), lr, weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        index = torch.randint(len(latent), (BATCH_SIZE,))
        z, condition = latent[index], None if rows is None else model.embed(rows[index])
        terms = prior.training_terms(z, torch.zeros_like(z), z, condition)
        loss = -terms.log_prob.mean() if terms.loss is None else terms.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), CLIP)
        optimizer.step()
        if step < EMA_START:
            average.load_state_dict(prior.state_dict())
        else:
            update([*average.parameters()], [*prior.parameters()], 0)
            for mean_buffer, buffer in zip(average.buffers(), prior.buffers(), strict=True):
                mean_buffer.copy_(buffer)
        if (step + 1) % 2000 == 0:
            print(f"step {step + 1:,} of {steps:,}, loss {loss.item():.2f}", flush=True)
    return average.eval()


if __name__ == "__main__":
    main()
