"""Metrics of generated images: their distance from real images, their labels, their sharpness, and copies."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cvae.data import DiskImages, Split
from cvae.evaluation.bounds import Scorer, batches
from cvae.evaluation.feature_extractor import FeatureExtractor
from cvae.evaluation.fidelity import (
    density_and_coverage,
    frechet_distance,
    memorization,
    precision_and_recall,
    relative_sharpness,
    sharpness,
)

Progress = Callable[[str, int, int], None]
"""Function called with the name of the stage, the number of finished items, and the total."""


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


def generation_metrics(
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

    Args:
        scorer: the model.
        real: grey or colour images of the split that generated images are compared with.
        train: training images, or None if they are the split.
        extractor: the features to compare.
        count: number of images to generate, limited to the number of real images and that of training images.
        seed: seed of the noise.
        progress: function called with the number of generated images.

    Returns:
        The metrics by their names in the report.
    """
    count = min(count, len(real), len(real if train is None else train))
    reference = subsample(real, count)
    binary = is_binary(reference.images)
    labels = reference.labels if scorer.classes is not None else None  # as many images per class as in `reference`
    features, sharp, correct, done = [], [], [], 0
    for image in generate_batches(scorer, labels, count, seed, binary):
        features.append(extractor.features(image))
        sharp.append(sharpness(image))
        if labels is not None and extractor.predict is not None and extractor.classes == scorer.classes:
            correct.append(extractor.predict(image) == labels[done : done + len(image)])
        progress("generated images", done := done + len(image), count)
    generated, real_features = np.concatenate(features), extract_features(extractor, reference)
    feature_sets = {"": generated}
    if train is not None:
        train_features = extract_features(extractor, train)
        feature_sets["_of_training_images"] = train_features[_spaced(len(train), count)]
    report: dict[str, Any] = {"features": extractor.name}
    if extractor.accuracy is not None:
        report["accuracy_of_the_classifier"] = extractor.accuracy
    report |= {"images": count, "pixels": "sampled as black or white" if binary else "grey or colour"}
    # In the JSON report, the keys for generated images are "frechet" and so on. Those for training images add a suffix.
    report |= {f"frechet{suffix}": frechet_distance(values, real_features) for suffix, values in feature_sets.items()}
    for suffix, values in feature_sets.items():
        density, coverage = density_and_coverage(real_features, values)
        precision, recall = precision_and_recall(real_features, values)
        metrics = {"density": density, "coverage": coverage, "precision": precision, "recall": recall}
        report |= {f"{name}{suffix}": value for name, value in metrics.items()}
    if train is not None:
        report["memorization"] = memorization(generated, train_features, real_features)
    real_sharpness = [sharpness(image) for _, image, _ in batches(reference.images, None)]
    report["sharpness"] = relative_sharpness(np.concatenate(sharp), np.concatenate(real_sharpness))
    if correct:
        report["label_accuracy"] = float(np.concatenate(correct).mean())
    return report


def extract_features(extractor: FeatureExtractor, images: Split) -> np.ndarray:
    """Return the features (N, D) of images."""
    return np.concatenate([extractor.features(image) for _, image, _ in batches(images.images, None)])


def subsample(split: Split, limit: int | None) -> Split:
    """Return at most `limit` images, evenly spaced over the split, because it may be sorted by class."""
    if limit is None or limit >= len(split):
        return split
    indices = _spaced(len(split), limit)
    return Split(images=split.images[indices], labels=None if split.labels is None else split.labels[indices])


def _spaced(total: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced indices of `total` items."""
    return np.linspace(0, total - 1, count).astype(int)
