"""The importance-weighted bound of a run, computed on the device."""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cvae.config import Config
from cvae.data import load_dataset
from cvae.engine import load_model

SAMPLES = 100
"""Number of samples per image (K) for the bound that `quality` and `likelihood` report."""

MAX_CHUNK = 100
"""Maximum number of samples per image in one decoder batch, so that the batch fits into memory."""


def importance_weighted(
    run: Path,
    args: argparse.Namespace,
    samples: int,
    *,
    split: str = "test",
    images: int | None = None,
    seconds: float = 1e9,
) -> dict[str, Any]:
    """Return the importance-weighted and the single-sample bound of a run on held-out images, computed in fp32.

    `cvae evaluate` reports the same bounds (Burda et al. 2015, eq. 8). Here, the noise is drawn on the device.

    Args:
        run: Folder of the run.
        args: Arguments of the benchmark.
        samples: Samples per image (K).
        split: "test" or "validation".
        images: Number of images; all by default.
        seconds: Time limit in seconds. No new batch starts after it.
    """
    torch.backends.cudnn.allow_tf32 = False
    model, _ = load_model(run)
    model = model.to(args.device)
    config = replace(Config.read(run / "config.json").training, data_dir=args.data_dir, limit=None)
    held_out = getattr(load_dataset(config), split)
    pixels = torch.from_numpy(held_out.images[:images])
    batch_size = 8 if args.smoke else 100
    torch.manual_seed(0)
    weighted_bounds, single_bounds = [], []
    started = time.monotonic()
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            image = pixels[start : start + batch_size].to(args.device).float() / 255
            features = model.encoder(image, None)
            log_weights, bounds = [], []
            for first in range(0, samples, MAX_CHUNK):
                chunk = min(MAX_CHUNK, samples - first)
                noise = torch.randn(len(image) * chunk, model.latent_dim, device=args.device)
                terms = model.terms(image, None, features, noise)
                log_weights.append((-terms.distortion.double() - terms.log_ratio.double()).view(len(image), chunk))
                bounds.append((terms.distortion.double() + terms.rate.double().sum(1)).view(len(image), chunk))
            weighted_bounds.append(math.log(samples) - torch.cat(log_weights, 1).logsumexp(1))  # (B, K) -> (B,)
            single_bounds.append(torch.cat(bounds, 1).mean(1))
            if time.monotonic() - started > seconds:
                break
    nats = torch.cat(weighted_bounds)
    torch.backends.cudnn.allow_tf32 = True
    return {
        "samples": samples,
        "nats": nats.mean().item(),
        "standard_error": nats.std().item() / math.sqrt(len(nats)),
        "single_sample": torch.cat(single_bounds).mean().item(),
        "images": len(nats),
        "seconds": round(time.monotonic() - started, 1),
    }
