"""Metrics of generated images: their distance from real images, their conditions, their sharpness, and copies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cvae.conditions import Condition
from cvae.data import DiskImages, Split
from cvae.evaluation.bounds import Scorer, batches
from cvae.evaluation.condition_metrics import Scores, is_same, score_conditions
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
        extractor: the features to compare; without features, there are no distances.
        count: number of images to generate, limited to the number of real images and that of training images.
        seed: seed of the noise.
        progress: function called with the number of generated images.

    Returns:
        The metrics by their names in the report. Under "conditions" are the metrics of the conditions that the
        extractor predicts, if there are any, beside those of its predictions for real images.
    """
    count = min(count, len(real), len(real if train is None else train))
    reference = subsample(real, count)
    binary = is_binary(reference.images)
    features, sharp, predictions, done = [], [], [], 0
    for image in generate_batches(scorer, reference.rows, count, seed, binary):
        if extractor.features is not None:
            features.append(extractor.features(image))
        sharp.append(sharpness(image))
        predictions.append(extractor.predict_conditions(image))
        progress("generated images", done := done + len(image), count)
    report: dict[str, Any] = {"features": extractor.name}
    if extractor.accuracy is not None:
        report["accuracy_of_the_classifier"] = extractor.accuracy
    report |= {"images": count, "pixels": "sampled as black or white" if binary else "grey or colour"}
    if features:
        report |= _distances(np.concatenate(features), reference, train, extractor)
    real_sharpness = [sharpness(image) for _, image, _ in batches(reference.images, None)]
    report["sharpness"] = relative_sharpness(np.concatenate(sharp), np.concatenate(real_sharpness))
    if reference.rows is not None and (conditions := _score(scorer.conditions, reference, predictions, extractor)):
        report["conditions"] = conditions
    return report


def _distances(
    generated: np.ndarray, reference: Split, train: Split | None, extractor: FeatureExtractor
) -> dict[str, float]:
    """Compare the features (N, D) of generated images, and those of as many training images, with N real images."""
    real = extract_features(extractor, reference)
    feature_sets = {"": generated}
    if train is not None:
        train_features = extract_features(extractor, train)
        feature_sets["_of_training_images"] = train_features[_spaced(len(train), len(generated))]
    # In the JSON report, the keys for generated images are "frechet" and so on. Those for training images add a suffix.
    report = {f"frechet{suffix}": frechet_distance(values, real) for suffix, values in feature_sets.items()}
    for suffix, values in feature_sets.items():
        density, coverage = density_and_coverage(real, values)
        precision, recall = precision_and_recall(real, values)
        metrics = {"density": density, "coverage": coverage, "precision": precision, "recall": recall}
        report |= {f"{name}{suffix}": value for name, value in metrics.items()}
    if train is not None:
        report["memorization"] = memorization(generated, train_features, real)
    return report


def _score(
    conditions: Sequence[Condition],
    reference: Split,
    predictions: Sequence[Mapping[str, np.ndarray]],
    extractor: FeatureExtractor,
) -> dict[str, dict[str, Any]]:
    """Compare the conditions that are predicted for generated images with the requested ones.

    Args:
        conditions: conditions of the model.
        reference: real images with the requested values in their rows.
        predictions: predictions for each batch of generated images.
        extractor: extractor that predicts conditions. If its scores on real images are not known, they are measured on
            the reference.
    """
    comparable = [a for a in conditions if any(is_same(a, b) for b in extractor.conditions)]
    rows = reference.rows
    assert rows is not None

    def score(batches: Sequence[Mapping[str, np.ndarray]]) -> Scores:
        predicted = {c.name: np.concatenate([batch[c.name] for batch in batches]) for c in comparable}
        return score_conditions(conditions, rows, predicted)

    scores, real_scores = score(predictions), extractor.scores
    if scores and not real_scores:
        real_scores = score([extractor.predict_conditions(image) for _, image, _ in batches(reference.images, None)])
    units = {condition.name: condition.unit for condition in conditions}
    return {
        name: {
            **metrics,
            **{f"{key}_of_real_images": value for key, value in real_scores.get(name, {}).items()},
            **({"unit": units[name]} if units[name] else {}),
        }
        for name, metrics in scores.items()
    }


def extract_features(extractor: FeatureExtractor, images: Split) -> np.ndarray:
    """Return the features (N, D) of images."""
    assert extractor.features is not None
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
