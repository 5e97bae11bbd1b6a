"""Everything that is measured of a model, as one report that says by which protocol."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cvae.config import DataConfig
from cvae.data import Dataset, Rows, Split, load_dataset
from cvae.data.dataset import STATIC_SEED
from cvae.errors import UsageError
from cvae.evaluation.bounds import Scorer, as_float, batches, bound_by_label, bounds, log_mean_exp, mean_and_error
from cvae.evaluation.feature_extractor import SHIPPED, FeatureExtractor, load_feature_extractor
from cvae.evaluation.fidelity import NEIGHBOURS, density_and_coverage, frechet, psnr, require_ssim, ssim
from cvae.run import is_run, read_config
from cvae.spec import Spec

GENERATED = 10_000
"""Images drawn for the distances; the number is part of their protocol."""

Progress = Callable[[str, int, int], None]
"""Told the part, how far it is, and how far it will go."""


def data_of(path: Path, spec_data: str) -> DataConfig:
    """What a run, or an exported file that lies in one, was trained on; else the set that the file names, as it is.

    Of a file alone nobody knows which images were held out, so that there are no validation images then.
    """
    folder = path if path.is_dir() else path.parent
    if is_run(folder):
        return read_config(folder).training.data_config
    return DataConfig(data=spec_data, validation=0.0)


def load_split(
    data: DataConfig,
    split: str,
    model: Scorer | Spec,
    *,
    labelled: bool = True,
    remark: Callable[[str], None] | None = None,
) -> tuple[Dataset, Split]:
    """The data set, and the images of one of its splits, which must be such as the model was made for.

    With `labelled` they have the labels that a conditional model was trained with. `remark` is told of the data what a
    user should know, such as the files that were skipped.

    Raises:
        UsageError: the split does not exist, or images or labels are not those of the model.
        CvaeError: the data can't be had.
    """
    if split not in ("test", "validation", "train"):
        raise UsageError(f"--split {split!r} is neither test, validation nor train")
    conditional = labelled and model.classes is not None
    dataset = load_dataset(replace(data, conditional=conditional, limit=None))
    if remark is not None:
        for text in dataset.remarks:
            remark(text)
    part: Split | None = getattr(dataset, split)
    if part is None:
        raise UsageError(f"{data.data!r} has no {split} images; choose another --split")
    shape, made_for = part.images.shape[1:], model.image_shape
    if shape[0] != made_for[0]:
        raise UsageError(
            f"{data.data!r} has images of {shape[0]} channels, {model.name!r} was made for {made_for[0]} (1 is grey, 3 "
            "colour); choose its own data with --data"
        )
    if shape != made_for:
        raise UsageError(
            f"{data.data!r} has images {shape}, {model.name!r} was made for {made_for}; choose its own data "
            "with --data, or a --size"
        )
    if conditional and dataset.classes != model.classes:
        raise UsageError(
            f"{data.data!r} has the classes {dataset.classes}, {model.name!r} those of {model.classes}; choose its own "
            "data with --data"
        )
    return dataset, part


def evaluate(
    scorer: Scorer,
    data: DataConfig,
    *,
    split: str = "test",
    limit: int | None = None,
    samples: int | None = None,
    generated: int = GENERATED,
    features: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score a model on a split of a data set.

    Args:
        data: names the set, its size and its binarization, and what was held out of it.
        limit: only so many images, spread evenly over the split, which may be sorted.
        samples: for the importance-weighted bound too, with so many.
        generated: images to draw for the distances and the label accuracy, at most as many as there are real ones; 0
            leaves both out.
        features: a shipped classifier's name, or module:callable. If the data set has the name of a classifier that
            fits, that one.
        seed: of all noise.
        remark: is told of the data what a user should know, as by `load_split`.

    Raises:
        UsageError: the split or the features do not exist, or images or labels are not those of the model.
        CvaeError: the data can't be had.
        MissingExtraError: scikit-image is not installed.
    """
    tell = progress or (lambda part, done, total: None)
    require_ssim()
    conditional = scorer.classes is not None
    dataset, part = load_split(data, split, scorer, remark=remark)
    extractor = _choose_extractor(features, dataset.name, scorer.image_shape) if generated else None
    if extractor is not None:  # what can't be is said before hours have gone by
        if (count := min(generated, len(part), len(dataset.train))) <= NEIGHBOURS:
            raise UsageError(f"--generated: {count} images are too few for distances; at least {NEIGHBOURS + 1}, or 0")
        extractor.features(as_float(part.images[:2]))
    part = spread(part, limit)
    labels = part.labels if conditional else None
    report: dict[str, Any] = {
        "model": scorer.name,
        "backend": scorer.backend,
        "data": dataset.name,
        "protocol": {
            "split": split,
            "images": len(part),
            "pixels": _pixels(data.binarize),
            "likelihood": f"{scorer.likelihood}, given the label" if conditional else scorer.likelihood,
            "seed": seed,
        },
    }
    report |= _likelihood(scorer, part, labels, samples, seed, tell)
    report["reconstruction"] = _reconstruction(scorer, part, labels, tell)
    if conditional:
        report["labels"] = _labels(scorer, part, seed, tell)
    if extractor is not None:
        grey = dataset if data.binarize == "none" else load_dataset(replace(data, binarize="none", limit=None))
        others = None if split == "train" else grey.train  # they would be compared with themselves
        found = _distances(scorer, getattr(grey, split), others, extractor, generated, seed, tell)
        if (accuracy := found.pop("label_accuracy", None)) is not None:
            report["labels"]["label_accuracy"] = accuracy
            report["labels"]["label_accuracy_of_real_images"] = extractor.accuracy
        report["generated"] = found
    return report


def _choose_extractor(features: str | None, data: str, image_shape: tuple[int, int, int]) -> FeatureExtractor | None:
    """The features that were asked for, or else the shipped classifier of this very data set."""
    if features is None:
        if data not in SHIPPED or (extractor := load_feature_extractor(data)).image_shape != image_shape:
            return None
        return extractor
    extractor = load_feature_extractor(features)
    if extractor.image_shape not in (None, image_shape):
        raise UsageError(f"--features {features!r} are of images {extractor.image_shape}, not {image_shape}")
    return extractor


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
    scorer: Scorer, part: Split, labels: np.ndarray | None, samples: int | None, seed: int, tell: Progress
) -> dict[str, Any]:
    def progress(done: int, total: int) -> None:
        tell("likelihood", done, total)

    found = bounds(scorer, part.images, labels, samples=1 if samples is None else samples, seed=seed, progress=progress)
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
    if found.rate.shape[1] == len(scorer.groups) > 1:
        report["bound"]["rate_per_group"] = [float(rate) for rate in found.rate.mean(0)]
    if samples is not None:
        nats, error = mean_and_error(found.importance_weighted)
        report["importance_weighted"] = {"samples": samples, "nats": nats, "standard_error": error}
    if scorer.discrete:
        for figures in report.values():
            figures["bits_per_dimension"] = figures["nats"] / math.log(2) / math.prod(scorer.image_shape)
    return report


def _labels(scorer: Scorer, part: Split, seed: int, tell: Progress) -> dict[str, float]:
    """The bound under every label: the best one as a classifier, and their sum, the bound without the label."""
    assert part.labels is not None
    each = bound_by_label(scorer, part.images, seed=seed, progress=lambda *at: tell("all labels", *at))  # (N, K)
    return {
        "accuracy_of_the_bound_as_a_classifier": float((each.argmin(1) == part.labels).mean()),
        "bound_without_the_label": float(-log_mean_exp(-each).mean()),
    }


def _reconstruction(scorer: Scorer, part: Split, labels: np.ndarray | None, tell: Progress) -> dict[str, float]:
    ratios, similarities, squares = [], [], []
    for start, image, label in batches(part.images, labels):
        again = scorer.reconstruct(image, label)
        ratios.append(psnr(image, again))
        similarities.append(ssim(image, again))
        squares.append(((image - again) ** 2).mean(axis=(1, 2, 3)))  # (B, C, H, W) -> (B,)
        tell("reconstruction", start + len(image), len(part))
    return {
        "psnr": float(np.concatenate(ratios).mean()),
        "ssim": float(np.concatenate(similarities).mean()),
        "mean_squared_error": float(np.concatenate(squares).mean()),
    }


def generate_batches(
    scorer: Scorer, labels: np.ndarray | None, count: int, seed: int, black_and_white: bool
) -> Iterator[np.ndarray]:
    """`count` images in batches (B, C, H, W); where the real ones are black and white, pixels drawn by their means."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, scorer.latent_dim), dtype=np.float32)
    for _, part, label in batches(noise, labels):
        image = scorer.decode(part, label)
        yield (random.random(image.shape, np.float32) < image).astype(np.float32) if black_and_white else image


def black_and_white(images: np.ndarray | Rows) -> bool:
    """Whether all pixels are 0 or 1."""
    return all(bool(((part == 0) | (part == 1)).all()) for _, part, _ in batches(images, None))


def _distances(
    scorer: Scorer, real: Split, train: Split | None, extractor: FeatureExtractor, count: int, seed: int, tell: Progress
) -> dict[str, Any]:
    """Distances of generated images from real ones, beside those of as many training images, and their labels."""
    count = min(count, len(real), len(real if train is None else train))
    reference = spread(real, count)
    binary = black_and_white(reference.images)
    labels = reference.labels if scorer.classes is not None else None  # as many of each class as there are real ones
    features, right, done = [], [], 0
    for image in generate_batches(scorer, labels, count, seed, binary):
        features.append(extractor.features(image))
        if labels is not None and extractor.predict is not None and extractor.classes == scorer.classes:
            right.append(extractor.predict(image) == labels[done : done + len(image)])
        tell("generated images", done := done + len(image), count)
    generated = np.concatenate(features)
    of_real = _features(extractor, reference)
    report: dict[str, Any] = {
        "features": extractor.name,
        "images": count,
        "pixels": "drawn black or white" if binary else "grey or colour",
    }
    compared = {"": generated}
    if train is not None:
        compared["_of_training_images"] = _features(extractor, spread(train, count))
    report |= {f"frechet{name}": frechet(each, of_real) for name, each in compared.items()}
    for name, each in compared.items():
        near = density_and_coverage(of_real, each)
        report |= {f"density{name}": near.density, f"coverage{name}": near.coverage}
    if right:
        report["label_accuracy"] = float(np.concatenate(right).mean())
    return report


def _features(extractor: FeatureExtractor, images: Split) -> np.ndarray:
    return np.concatenate([extractor.features(image) for _, image, _ in batches(images.images, None)])  # (N, D)
