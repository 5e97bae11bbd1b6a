"""The evaluation report: all metrics of a model, and the protocol by which they were measured."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cvae.config import DataConfig
from cvae.data import Dataset, DiskImages, Split, load_dataset
from cvae.data.dataset import STATIC_SEED
from cvae.errors import UsageError, one_line
from cvae.evaluation.bounds import (
    Scorer,
    as_float,
    batches,
    bounds,
    bounds_per_label,
    log_mean_exp,
    mean_and_standard_error,
)
from cvae.evaluation.feature_extractor import CLASSIFIERS, FeatureExtractor, load_feature_extractor
from cvae.evaluation.fidelity import NEIGHBOURS, density_and_coverage, frechet_distance, psnr, require_ssim, ssim
from cvae.recorded_data import RecordedDataConfig
from cvae.run import is_run, read_config
from cvae.spec import Spec

NUM_GENERATED = 10_000
"""Default number of images to generate for the distances. Only distances of equally many images are comparable."""

Progress = Callable[[str, int, int], None]
"""Function called with the name of the stage, the number of finished items, and the total."""


def find_data_config(path: Path, spec_data: str) -> RecordedDataConfig:
    """Return the data config of the run that `path` belongs to; outside a run, a config for the data set `spec_data`.

    An exported file does not state which training images were held out, so outside a run there is no validation split.
    """
    folder = path if path.is_dir() else path.parent
    if is_run(folder):
        return RecordedDataConfig.of_run(read_config(folder))
    return RecordedDataConfig(data=spec_data, validation=0.0)


def load_split(
    data: DataConfig,
    split: str | None,
    model: Scorer | Spec,
    *,
    labelled: bool = True,
    note: Callable[[str], None] | None = None,
) -> tuple[Dataset, str, Split]:
    """Load a data set and one of its splits, and check that the model fits its images and labels.

    Args:
        data: the data set and its settings.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        model: the model, for its image shape and classes.
        labelled: whether to load the labels, if the model is conditional.
        note: function called with each message about the data, such as the number of files that were skipped.

    Returns:
        The data set, the name of the split, and its images and labels.

    Raises:
        UsageError: If the split does not exist, or its images or labels do not fit the model.
        CvaeError: If the data can't be loaded.
    """
    if split not in ("test", "validation", "train", None):
        raise UsageError(f"unknown --split {split!r}; choose test, validation or train")
    conditional = labelled and model.classes is not None
    dataset = load_dataset(replace(data, conditional=conditional, limit=None))
    if note is not None:
        for text in (*dataset.notes, dataset.description):
            note(text)
    name = split or ("validation" if dataset.test is None and dataset.validation is not None else "test")
    images: Split | None = getattr(dataset, name)
    if images is None:
        others = [other for other in ("test", "validation", "train") if getattr(dataset, other) is not None]
        raise UsageError(f"the data set {one_line(dataset.name, 40)!r} has no {name} images; use --split {others[0]}")
    if split is None and name == "validation" and note is not None:
        note(f"the data set {one_line(dataset.name, 40)!r} has no test images: using its validation images")
    if images.images.shape[1] == 1 and model.image_shape[0] == 3:  # as image files are read
        images = replace(images, images=_to_colour(images.images))
    shape, expected = images.images.shape[1:], model.image_shape
    if shape[0] != expected[0]:
        raise UsageError(
            f"{data.data!r} has images with {shape[0]} channels, but {model.name!r} takes {expected[0]} (1 is grey, 3 "
            "is colour); choose the model's own data with --data"
        )
    if shape != expected:
        raise UsageError(
            f"{data.data!r} has images of shape {shape}, but {model.name!r} takes {expected}; choose the model's own "
            "data with --data, or set --size"
        )
    if conditional and dataset.classes != model.classes:
        raise UsageError(
            f"{data.data!r} has the classes {dataset.classes}, but {model.name!r} has {model.classes}; choose the "
            "model's own data with --data"
        )
    return dataset, name, images


def _to_colour(images: np.ndarray | DiskImages) -> np.ndarray:
    """Repeat the channel of grey images (N, 1, H, W) three times, as a view (N, 3, H, W)."""
    count, _, height, width = images.shape
    return np.broadcast_to(images[:], (count, 3, height, width))


def evaluate(
    scorer: Scorer,
    data: DataConfig,
    *,
    split: str | None = None,
    limit: int | None = None,
    samples: int | None = None,
    generated: int = NUM_GENERATED,
    features: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on a split of a data set.

    Args:
        scorer: the model.
        data: the data set with its size, binarization and held-out images.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        limit: maximum number of images, spaced evenly over the split, which may be sorted by class.
        samples: number of samples for the importance-weighted bound; None skips this bound.
        generated: number of images to generate for the distances and the label accuracy, limited to the number of real
            images; 0 skips these metrics.
        features: name of a bundled classifier, or `module:callable`; None for the bundled classifier of this data set,
            if there is one.
        seed: seed of all random numbers.
        progress: function called as the evaluation proceeds.
        note: function called with each message about the data, as in `load_split`.

    Returns:
        The report that `cvae evaluate --json` prints, with bounds in nats per image.

    Raises:
        UsageError: If the split or the features do not exist, or the images or labels do not fit the model.
        CvaeError: If the data can't be loaded.
        MissingExtraError: If scikit-image is not installed.
    """
    progress = progress or (lambda stage, done, total: None)
    require_ssim()
    conditional = scorer.classes is not None
    dataset, split, real = load_split(data, split, scorer, note=note)
    extractor = _choose_extractor(features, dataset.name, scorer.image_shape) if generated else None
    if extractor is not None:  # check this now, because the evaluation may take hours
        if (count := min(generated, len(real), len(dataset.train))) <= NEIGHBOURS:
            raise UsageError(
                f"--generated: {count} images are too few for distances; use at least {NEIGHBOURS + 1}, or 0 to skip "
                "them"
            )
        extractor.features(as_float(real.images[:2]))
    real = subsample(real, limit)
    labels = real.labels if conditional else None
    report: dict[str, Any] = {
        "model": scorer.name,
        "backend": scorer.backend,
        "data": dataset.name,
        "protocol": {
            "split": split,
            "images": len(real),
            "pixels": _describe_pixels(data.binarize),
            "likelihood": f"{scorer.likelihood}, given the label" if conditional else scorer.likelihood,
            "seed": seed,
        },
    }
    report |= _likelihood_metrics(scorer, real, labels, samples, seed, progress)
    report["reconstruction"] = _reconstruction_metrics(scorer, real, labels, progress)
    if conditional:
        report["labels"] = _label_metrics(scorer, real, seed, progress)
    if extractor is not None:
        # Generated images are compared with the original grey or colour images of the full split.
        original = dataset if data.binarize == "none" else load_dataset(replace(data, binarize="none", limit=None))
        train = None if split == "train" else original.train  # the training images need no comparison with themselves
        metrics = _generation_metrics(scorer, getattr(original, split), train, extractor, generated, seed, progress)
        if (accuracy := metrics.pop("label_accuracy", None)) is not None:
            report["labels"]["label_accuracy"] = accuracy
            report["labels"]["label_accuracy_of_real_images"] = extractor.accuracy
        report["generated"] = metrics
    return report


def _choose_extractor(features: str | None, data: str, image_shape: tuple[int, int, int]) -> FeatureExtractor | None:
    """Load the extractor that `features` names; by default, the data set's bundled classifier, if it fits the model."""
    if features is None:
        if data not in CLASSIFIERS or (extractor := load_feature_extractor(data)).image_shape != image_shape:
            return None
        return extractor
    extractor = load_feature_extractor(features)
    if extractor.image_shape not in (None, image_shape):
        raise UsageError(
            f"--features {features!r} takes images of shape {extractor.image_shape}, but the model generates "
            f"{image_shape}; choose other features"
        )
    return extractor


def subsample(split: Split, limit: int | None) -> Split:
    """Return at most `limit` images, evenly spaced over the split, because it may be sorted by class."""
    if limit is None or limit >= len(split):
        return split
    indices = np.linspace(0, len(split) - 1, limit).astype(int)
    return Split(images=split.images[indices], labels=None if split.labels is None else split.labels[indices])


def _describe_pixels(binarize: str) -> str:
    return {
        "none": "as they are",
        "dynamic": f"sampled as black or white: once, with seed {STATIC_SEED}, for the evaluation, and again for each "
        "batch in training",
        "static": f"sampled as black or white once, with seed {STATIC_SEED}",
    }[binarize]


def _likelihood_metrics(
    scorer: Scorer, real: Split, labels: np.ndarray | None, samples: int | None, seed: int, progress: Progress
) -> dict[str, Any]:
    result = bounds(
        scorer,
        real.images,
        labels,
        samples=1 if samples is None else samples,
        seed=seed,
        progress=partial(progress, "likelihood"),
    )
    nats, error = mean_and_standard_error(result.bound)
    report: dict[str, Any] = {
        "bound": {
            "nats": nats,
            "standard_error": error,
            "distortion": float(result.distortion.mean()),
            "rate": float(result.rate.sum(1).mean()),
            "active_units": result.active_units,
            "latent_dim": scorer.latent_dim,
        }
    }
    if result.rate.shape[1] == len(scorer.groups) > 1:
        report["bound"]["rate_per_group"] = [float(rate) for rate in result.rate.mean(0)]
    if samples is not None:
        nats, error = mean_and_standard_error(result.importance_weighted)
        report["importance_weighted"] = {"samples": samples, "nats": nats, "standard_error": error}
    if scorer.discrete:
        for metrics in report.values():
            metrics["bits_per_dimension"] = metrics["nats"] / math.log(2) / math.prod(scorer.image_shape)
    return report


def _label_metrics(scorer: Scorer, real: Split, seed: int, progress: Progress) -> dict[str, float]:
    """Return the accuracy of choosing the label with the best bound, and the bound with the labels averaged out."""
    assert real.labels is not None
    per_label = bounds_per_label(scorer, real.images, seed=seed, progress=partial(progress, "all labels"))  # (N, K)
    return {
        "accuracy_of_the_bound_as_a_classifier": float((per_label.argmin(1) == real.labels).mean()),
        "bound_without_the_label": float(-log_mean_exp(-per_label).mean()),
    }


def _reconstruction_metrics(
    scorer: Scorer, real: Split, labels: np.ndarray | None, progress: Progress
) -> dict[str, float]:
    psnrs, ssims, squared_errors = [], [], []
    for start, image, label in batches(real.images, labels):
        reconstruction = scorer.reconstruct(image, label)
        psnrs.append(psnr(image, reconstruction))
        ssims.append(ssim(image, reconstruction))
        squared_errors.append(((image - reconstruction) ** 2).mean(axis=(1, 2, 3)))  # (B, C, H, W) -> (B,)
        progress("reconstruction", start + len(image), len(real))
    return {
        "psnr": float(np.concatenate(psnrs).mean()),
        "ssim": float(np.concatenate(ssims).mean()),
        "mean_squared_error": float(np.concatenate(squared_errors).mean()),
    }


def generate_batches(
    scorer: Scorer, labels: np.ndarray | None, count: int, seed: int, binary: bool
) -> Iterator[np.ndarray]:
    """Generate `count` images in batches (B, C, H, W). With `binary`, sample each pixel as black or white."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, scorer.latent_dim), dtype=np.float32)
    for _, batch, label in batches(noise, labels):
        image = scorer.decode(batch, label)
        yield (random.random(image.shape, np.float32) < image).astype(np.float32) if binary else image


def is_binary(images: np.ndarray | DiskImages) -> bool:
    """Return whether all pixels are 0 or 1."""
    return all(bool(((batch == 0) | (batch == 1)).all()) for _, batch, _ in batches(images, None))


def _generation_metrics(
    scorer: Scorer,
    real: Split,
    train: Split | None,
    extractor: FeatureExtractor,
    count: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the distance of generated images from real images, and how many generated images fit their label.

    For comparison, as many training images are measured too, unless `train` is None.
    """
    count = min(count, len(real), len(real if train is None else train))
    reference = subsample(real, count)
    binary = is_binary(reference.images)
    labels = reference.labels if scorer.classes is not None else None  # as many images per class as in `reference`
    features, correct, done = [], [], 0
    for image in generate_batches(scorer, labels, count, seed, binary):
        features.append(extractor.features(image))
        if labels is not None and extractor.predict is not None and extractor.classes == scorer.classes:
            correct.append(extractor.predict(image) == labels[done : done + len(image)])
        progress("generated images", done := done + len(image), count)
    real_features = _extract_features(extractor, reference)
    report: dict[str, Any] = {
        "features": extractor.name,
        "images": count,
        "pixels": "sampled as black or white" if binary else "grey or colour",
    }
    feature_sets = {"": np.concatenate(features)}
    if train is not None:
        feature_sets["_of_training_images"] = _extract_features(extractor, subsample(train, count))
    # In the JSON report, the keys for generated images are "frechet" and so on. Those for training images add a suffix.
    report |= {f"frechet{suffix}": frechet_distance(values, real_features) for suffix, values in feature_sets.items()}
    for suffix, values in feature_sets.items():
        density, coverage = density_and_coverage(real_features, values)
        report |= {f"density{suffix}": density, f"coverage{suffix}": coverage}
    if correct:
        report["label_accuracy"] = float(np.concatenate(correct).mean())
    return report


def _extract_features(extractor: FeatureExtractor, images: Split) -> np.ndarray:
    return np.concatenate([extractor.features(image) for _, image, _ in batches(images.images, None)])  # (N, D)
