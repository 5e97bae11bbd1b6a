"""Everything that is measured of a model, as one report that says by which protocol."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cvae.config import Config, TrainConfig
from cvae.data import Split, load_dataset
from cvae.data.dataset import STATIC_SEED
from cvae.errors import UsageError
from cvae.evaluation.bounds import Scorer, batches, bounds, classify, mean_and_error
from cvae.evaluation.fidelity import density_and_coverage, frechet, psnr, ssim
from cvae.evaluation.judge import SHIPPED, Judge, judge

GENERATED = 10_000
"""Images drawn for the distances; the number is part of their protocol."""

Progress = Callable[[str, int, int], None]
"""Told the part, how far it is, and how far it will go."""


def data_of(path: Path, spec_data: str) -> TrainConfig:
    """What a run, or an exported file that lies in one, was trained on; else the set that the file names."""
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        return Config.read(folder / "config.json").training
    return TrainConfig(data=spec_data)


def evaluate(
    scorer: Scorer,
    data: TrainConfig,
    *,
    split: str = "test",
    limit: int | None = None,
    samples: int | None = None,
    generated: int = GENERATED,
    features: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a model on a split of a data set.

    Args:
        data: names the set, its size and its binarization, and what was held out of it.
        limit: only so many images, spread evenly over the split, which may be sorted.
        samples: for the importance-weighted bound too, with so many.
        generated: images to draw for the distances and the label accuracy; 0 leaves both out.
        features: a shipped classifier's name, or module:callable. By the name of the data set if it is one of these.
        seed: of all noise.

    Raises:
        UsageError: the split does not exist, or the images or labels are not those of the model.
        CvaeError: the data can't be had.
    """
    tell = progress or (lambda part, done, total: None)
    conditional = scorer.classes is not None
    dataset = load_dataset(replace(data, conditional=conditional, limit=None))
    part: Split | None = getattr(dataset, split)
    if part is None:
        raise UsageError(f"{data.data!r} has no {split} images; choose another --split")
    shape, classes = part.images.shape[1:], dataset.classes if conditional else None
    if shape != scorer.image_shape or classes != scorer.classes:
        raise UsageError(
            f"{data.data!r} has images {shape} and classes {classes}, {scorer.name!r} was made for "
            f"{scorer.image_shape} and {scorer.classes}; choose its own data with --data and --size"
        )
    part = spread(part, limit)
    images: np.ndarray = part.images[:]
    labels = part.labels if conditional else None
    if conditional and labels is None:
        raise UsageError(f"{scorer.name!r} has labels and the {split} images of {data.data!r} have none")
    report: dict[str, Any] = {
        "model": scorer.name,
        "backend": scorer.backend,
        "data": dataset.name,
        "protocol": {
            "split": split,
            "images": len(images),
            "pixels": _pixels(data.binarize),
            "seed": seed,
        },
    }
    report |= _likelihood(scorer, images, labels, samples, seed, tell)
    report["reconstruction"] = _reconstruction(scorer, images, labels, tell)
    if conditional:
        right = classify(scorer, images, seed=seed, progress=lambda *at: tell("labels by the bound", *at)) == labels
        report["labels"] = {"accuracy_of_the_bound_as_a_classifier": float(right.mean())}

    features = features or (dataset.name if dataset.name in SHIPPED else None)
    if features and generated:
        grey = dataset if data.binarize == "none" else load_dataset(replace(data, binarize="none", limit=None))
        by = judge(features)
        found = _distances(scorer, getattr(grey, split), grey.train, by, generated, seed, tell)
        if (accuracy := found.pop("label_accuracy", None)) is not None:
            report["labels"]["label_accuracy"] = accuracy
            report["labels"]["label_accuracy_of_real_images"] = by.accuracy
        report["generated"] = found
    return report


def spread(split: Split, limit: int | None) -> Split:
    """At most `limit` images, at equal distances: a split may be sorted by class."""
    if limit is None or limit >= len(split):
        return split
    rows = np.linspace(0, len(split) - 1, limit).astype(int)
    return Split(images=split.images[rows], labels=None if split.labels is None else split.labels[rows])


def _pixels(binarize: str) -> str:
    return {
        "none": "as they are",
        "dynamic": f"drawn black or white once, with seed {STATIC_SEED}; drawn anew for each training batch",
        "static": f"drawn black or white once, with seed {STATIC_SEED}",
    }[binarize]


def _likelihood(
    scorer: Scorer, images: np.ndarray, labels: np.ndarray | None, samples: int | None, seed: int, tell: Progress
) -> dict[str, Any]:
    def progress(done: int, total: int) -> None:
        tell("likelihood", done, total)

    found = bounds(scorer, images, labels, samples=samples or 1, seed=seed, progress=progress)
    nats, error = mean_and_error(found.bound)
    report: dict[str, Any] = {
        "bound": {
            "nats": nats,
            "standard_error": error,
            "distortion": float(found.distortion.mean()),
            "rate": float(found.rate.sum(1).mean()),
            "active_units": found.active_units,
            "latent_dim": scorer.latent_dim,
        }
    }
    if 1 < found.rate.shape[1] < scorer.latent_dim:
        report["bound"]["rate_per_level"] = [float(rate) for rate in found.rate.mean(0)]
    if samples is not None:
        nats, error = mean_and_error(found.importance_weighted)
        report["importance_weighted"] = {"samples": samples, "nats": nats, "standard_error": error}
    if scorer.likelihood == "logistic-mixture":  # probabilities of the 256 values; other nats are of another kind
        for part in report.values():
            part["bits_per_dimension"] = part["nats"] / math.log(2) / math.prod(scorer.image_shape)
    return report


def _reconstruction(scorer: Scorer, images: np.ndarray, labels: np.ndarray | None, tell: Progress) -> dict[str, float]:
    ratios, similarities, squares = [], [], []
    for start, image, label in batches(images, labels):
        again = scorer.reconstruct(image, label)
        ratios.append(psnr(image, again))
        similarities.append(ssim(image, again))
        squares.append(((image - again) ** 2).mean(axis=(1, 2, 3)))  # (B, C, H, W) -> (B,)
        tell("reconstruction", start + len(image), len(images))
    return {
        "psnr": float(np.concatenate(ratios).mean()),
        "ssim": float(np.concatenate(similarities).mean()),
        "mean_squared_error": float(np.concatenate(squares).mean()),
    }


def drawn(
    scorer: Scorer, labels: np.ndarray | None, count: int, seed: int, black_and_white: bool
) -> Iterator[np.ndarray]:
    """`count` images in batches (B, C, H, W); where the real ones are black and white, pixels drawn by their means."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, scorer.latent_dim), dtype=np.float32)
    for _, part, label in batches(noise, labels):
        image = scorer.decode(part, label)
        yield (random.random(image.shape, np.float32) < image).astype(np.float32) if black_and_white else image


def _distances(
    scorer: Scorer, real: Split, train: Split, by: Judge, count: int, seed: int, tell: Progress
) -> dict[str, Any]:
    """Distances of generated images from real ones, beside those of other real images, and their labels."""
    reference, others = real.images[:count], train.images[: len(real.images[:count])]
    binary = bool(np.isin(reference, (0, 255)).all())
    labels = None
    if scorer.classes is not None:
        assert real.labels is not None
        labels = np.resize(real.labels, count)  # the real images' labels, as often as need be
    features, classes, done = [], [], 0
    for image in drawn(scorer, labels, count, seed, binary):
        features.append(by.features(image))
        if by.predict is not None and labels is not None and by.classes == scorer.classes:
            classes.append(by.predict(image))
        tell("generated images", done := done + len(image), count)
    generated = np.concatenate(features)
    of_real, of_others = (
        np.concatenate([by.features(image) for _, image, _ in batches(each, None)]) for each in (reference, others)
    )
    near = density_and_coverage(of_real, generated)
    near_real = density_and_coverage(of_real, of_others)
    report: dict[str, Any] = {
        "features": by.name,
        "protocol": f"{count} generated images {'with drawn pixels ' * binary}against the first {len(reference)} of "
        f"the split; real: the first {len(others)} training images against the same",
        "frechet": frechet(generated, of_real),
        "frechet_of_real_images": frechet(of_others, of_real),
        "density": near.density,
        "density_of_real_images": near_real.density,
        "coverage": near.coverage,
        "coverage_of_real_images": near_real.coverage,
    }
    if classes:
        report["label_accuracy"] = float((np.concatenate(classes) == labels).mean())
    return report
