"""Priors on the same latents: rate, Fréchet distance and label accuracy after the same time on one CPU core.

    python benchmarks/priors.py RUN [--priors flow flow-matching] [--seconds 120] [--seeds 3] [--data-dir DIR] [--json]

The images of the run's data set are encoded once. Each prior is then trained on samples from these posteriors, with the
encoder and the decoder unchanged, so that the distortion is the same for all. The rate is the KL divergence between the
posteriors of test images and the prior, in nats per image. The bound is the distortion plus the rate, so a difference
in rate is a difference in bound. Priors that need a grid of latents are skipped for a vector.

If the package has a classifier for the data, random images with the labels of the test images are compared with the
test images in its features. An option of a prior is given as PRIOR.OPTION=VALUE, as in --set flow.hidden=64.
"""

import argparse
import copy
import math
import sys
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from _timing import add_smoke, format_range, parse_args, report
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cvae.data import Split, load_dataset
from cvae.engine import load_model
from cvae.errors import UsageError
from cvae.evaluation.feature_extractor import CLASSIFIERS, FeatureExtractor, load_feature_extractor
from cvae.evaluation.fidelity import frechet_distance
from cvae.model_config import Part
from cvae.models import VAE, build
from cvae.models.priors import Prior
from cvae.recipes import parse_options
from cvae.registry import PRIORS
from cvae.runtime.find import find

BATCH_SIZE = 128
WARMUP_SECONDS = 1


class Codes(NamedTuple):
    """Posteriors of the images of a split, and their labels."""

    mean: Tensor  # (N, Z)
    log_var: Tensor  # (N, Z)
    label: Tensor | None  # (N,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="Trained run, or name of a run or of a zoo model.")
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), metavar="NAME", help="Priors to compare.")
    parser.add_argument("--set", action="append", default=[], metavar="PRIOR.OPTION=VALUE", help="Option of a prior.")
    parser.add_argument("--seconds", type=float, default=120, metavar="X", help="CPU time to train each prior.")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="Number of seeds.")
    parser.add_argument("--lr", type=float, default=2e-3, metavar="X", help="Learning rate.")
    parser.add_argument("--limit", type=int, metavar="N", help="Encode only the first N training images.")
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    add_smoke(parser)
    args = parse_args(parser, seconds=1, seeds=1, limit=200)
    torch.set_num_threads(1)
    model, config = load_model(find(args.run))
    model.eval().requires_grad_(False)
    data_dir = args.data_dir or config.training.data_dir
    dataset = load_dataset(replace(config.training.data_config, data_dir=data_dir))
    if dataset.test is None:
        parser.error(f"the data set {dataset.name!r} has no test images")
    labels = config.model.classes is not None
    train = encode(model, dataset.train, labels=labels, limit=args.limit)
    test = encode(model, dataset.test, labels=labels, limit=args.limit)
    extractor = load_feature_extractor(config.training.data) if config.training.data in CLASSIFIERS else None
    options = parse_options(args.set)
    results: dict[str, list[dict[str, float]]] = {}
    for name in args.priors:
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            try:
                prior = build(replace(config.model, prior=Part(name=name, options=options.get(name, {})))).prior
            except UsageError as error:
                print(f"{name} is skipped: {error}", file=sys.stderr)
                break
            steps = 0
            if [*prior.parameters()]:
                prior, steps = fit(prior, train, args.seconds, args.lr, seed)
            scores = {"steps": float(steps), "rate": compute_rate(prior.eval(), test, seed)}
            if extractor is not None:
                real = extractor.features(as_float(dataset.test.images[: args.limit]).numpy())
                scores |= compare_images(model, prior, test, extractor, real, seed)
            results.setdefault(name, []).append(scores)
            print(name, seed, scores, file=sys.stderr)
    if not results:
        parser.error("none of the priors suits the latents of this run")
    columns = list(next(iter(results.values()))[0])
    table: list[tuple[str, ...]] = [("prior", *columns)]
    for prior_name, scores_of_seeds in results.items():
        cells = (format_range([s[c] for s in scores_of_seeds], 0 if c == "steps" else 2) for c in columns)
        table.append((prior_name, *cells))
    report(args.json, {"seconds": args.seconds, "priors": results}, table, [])


def encode(model: VAE, split: Split, *, labels: bool, limit: int | None) -> Codes:
    """Encode the images of a split. In a hierarchy, each group is inferred from the means of the groups above it."""
    label = torch.from_numpy(split.labels[:limit]) if labels and split.labels is not None else None
    parts = []
    with torch.inference_mode():
        for start in range(0, len(split.images[:limit]), BATCH_SIZE):
            rows = slice(start, min(start + BATCH_SIZE, limit or len(split.images)))
            image = as_float(split.images[rows])
            batch_label = None if label is None else label[rows]
            terms = model(image, batch_label, torch.zeros(len(image), model.latent_dim))
            parts.append((terms.mean, terms.log_var))
    mean, log_var = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Codes(mean.clone(), log_var.clone(), label)  # clones, because tensors of inference mode can't be trained on


def as_float(images: np.ndarray) -> Tensor:
    """Convert images (N, C, H, W) from uint8 to float32 in [0, 1]."""
    return torch.from_numpy(images).float() / 255


def fit(prior: Prior, codes: Codes, seconds: float, lr: float, seed: int) -> tuple[Prior, int]:
    """Train a prior for a CPU time, and return the moving average of its weights and the number of steps."""
    torch.manual_seed(seed)
    average = copy.deepcopy(prior)
    update = get_ema_multi_avg_fn(0.998)
    optimizer = torch.optim.AdamW(prior.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    start, steps = time.process_time(), 0
    while (elapsed := time.process_time() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, elapsed / WARMUP_SECONDS) * (1 + math.cos(math.pi * elapsed / seconds)) / 2
        index = torch.randint(len(codes.mean), (BATCH_SIZE,))
        mean, log_var = codes.mean[index], codes.log_var[index]
        latent = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        label = None if codes.label is None else codes.label[index]
        terms = prior.training_terms(mean, log_var, latent, label)
        loss = terms.rate.sum(1).mean() if terms.loss is None else terms.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 50)
        optimizer.step()
        steps += 1
        with torch.no_grad():
            if steps <= 500:  # forget the initial weights
                average.load_state_dict(prior.state_dict())
            else:
                update([*average.parameters()], [*prior.parameters()], 0)
                for mean_buffer, buffer in zip(average.buffers(), prior.buffers(), strict=True):
                    mean_buffer.copy_(buffer)
    return average.eval(), steps


def compute_rate(prior: Prior, codes: Codes, seed: int) -> float:
    """Return the mean rate of the posteriors in nats, estimated with one sample from each."""
    torch.manual_seed(seed)
    total = 0.0
    with torch.inference_mode():
        for index in torch.arange(len(codes.mean)).split(BATCH_SIZE):
            mean, log_var = codes.mean[index], codes.log_var[index]
            latent = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            label = None if codes.label is None else codes.label[index]
            total += prior.terms(mean, log_var, latent, label).rate.sum().item()
    return total / len(codes.mean)


def compare_images(
    model: VAE, prior: Prior, codes: Codes, extractor: FeatureExtractor, real: np.ndarray, seed: int
) -> dict[str, float]:
    """Decode random images with the labels of the test images, and compare them with these."""
    torch.manual_seed(seed)
    images = []
    with torch.inference_mode():
        for index in torch.arange(len(codes.mean)).split(BATCH_SIZE):
            label = None if codes.label is None else codes.label[index]
            latent = prior.from_noise(torch.randn(len(index), model.latent_dim), label)
            images.append(model.likelihood.mean(model.decoder(latent, label)).numpy())
    generated = np.concatenate(images)
    scores = {"Fréchet distance": frechet_distance(extractor.features(generated), real)}
    if codes.label is not None and extractor.classes is not None:
        scores["label accuracy"] = 100 * float((extractor.predict(generated) == codes.label.numpy()).mean())
    return scores


if __name__ == "__main__":
    main()
