"""Metrics of generated images: their distance from real images, their conditions, their sharpness, and copies."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cvae.data import DiskImages, Split
from cvae.evaluation.bounds import Scorer, batches
from cvae.evaluation.condition_metrics import is_same, score_conditions
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
    scorer: Scorer, rows: np.ndarray | None, count: int, seed: int, binary: bool
) -> Iterator[np.ndarray]:
    """Generate `count` images in batches (B, C, H, W). With `binary`, sample each pixel as black or white."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, scorer.latent_dim), dtype=np.float32)
    for _, batch, batch_rows in batches(noise, rows):
        image = scorer.decode(batch, batch_rows)
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
    """Measure the distance of generated images from real images, and how well they obey their conditions.

    The images are generated under the conditions of the real images. A condition that is unknown stays unknown.
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
        The metrics by their names in the report. Under "conditions" are the metrics of the conditions that the
        extractor predicts, if there are any, beside those of its predictions on real held-out images.
    """
    count = min(count, len(real), len(real if train is None else train))
    reference = subsample(real, count)
    binary = is_binary(reference.images)
    features, sharp, predictions, done = [], [], [], 0
    for image in generate_batches(scorer, reference.rows, count, seed, binary):
        features.append(extractor.features(image))
        sharp.append(sharpness(image))
        predictions.append(extractor.predict_conditions(image))
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
    if reference.rows is not None:
        predicted = {
            name: np.concatenate([batch[name] for batch in predictions])
            for name in predictions[0]
            if any(is_same(a, b) for a in scorer.conditions for b in extractor.conditions if a.name == name)
        }
        if scores := score_conditions(scorer.conditions, reference.rows, predicted):
            units = {condition.name: condition.unit for condition in scorer.conditions}
            report["conditions"] = {
                name: metrics
                | {f"{key}_of_real_images": value for key, value in extractor.scores.get(name, {}).items()}
                | ({"unit": units[name]} if units[name] else {})
                for name, metrics in scores.items()
            }
    return report


def extract_features(extractor: FeatureExtractor, images: Split) -> np.ndarray:
    """Return the features (N, D) of images."""
    return np.concatenate([extractor.features(image) for _, image, _ in batches(images.images, None)])


def subsample(split: Split, limit: int | None) -> Split:
    """Return at most `limit` images, evenly spaced over the split, because it may be sorted by class."""
    if limit is None or limit >= len(split):
        return split
    subset = take(split, _spaced(len(split), limit))
    return replace(subset, images=subset.images[:])  # in memory


def take(split: Split, indices: np.ndarray) -> Split:
    """Return the images of a split with some indices."""
    images = split.images.select(indices) if isinstance(split.images, DiskImages) else split.images[indices]
    labels, rows = (None if values is None else values[indices] for values in (split.labels, split.rows))
    return replace(split, images=images, labels=labels, rows=rows)


def _spaced(total: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced indices of `total` items."""
    return np.linspace(0, total - 1, count).astype(int)
