"""The evaluation report: all metrics of a model, and the protocol by which they were measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvae.condition_rows import make_rows, read_rows
from cvae.conditions import Condition
from cvae.config import DataConfig
from cvae.data import Dataset, DiskImages, Split, condition_rows, list_conditions, load_dataset
from cvae.data.dataset import STATIC_SEED
from cvae.errors import UsageError, count_of, one_line
from cvae.evaluation.bounds import (
    Scorer,
    as_float,
    batches,
    bounds,
    bounds_per_label,
    log_mean_exp,
    mean_and_standard_error,
)
from cvae.evaluation.condition_metrics import is_same
from cvae.evaluation.feature_extractor import CLASSIFIERS, FeatureExtractor, load_feature_extractor
from cvae.evaluation.fidelity import NEIGHBOURS, psnr, relative_sharpness, require_ssim, sharpness, ssim
from cvae.evaluation.generation import Progress, generation_metrics, subsample, take
from cvae.recorded_data import RecordedDataConfig
from cvae.run import is_run, read_config
from cvae.serialization import quote
from cvae.spec import Spec

NUM_GENERATED = 10_000
"""Default number of images to generate for the distances. Only distances of equally many images are comparable."""


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
    """Load a data set and one of its splits, and check that the model fits its images and conditions.

    Args:
        data: the data set and its settings.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        model: the model, for its image shape and conditions.
        labelled: whether to load the values of the conditions, if the model is conditional.
        note: function called with each message about the data, such as the number of files that were skipped.

    Returns:
        The data set, the name of the split, and its images with the rows of the model's conditions.

    Raises:
        UsageError: If the split does not exist, or its images or conditions do not fit the model.
        CvaeError: If the data can't be loaded.
    """
    if split not in ("test", "validation", "train", None):
        raise UsageError(f"unknown --split {split!r}; choose test, validation or train")
    conditional = labelled and model.classes is not None  # leaves out splits without labels
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
    images = _fit_images(images, data.data, model)
    rows = condition_rows(images) if labelled else None
    if rows is None or not model.conditions:
        if labelled and model.conditions:
            raise _missing_error(data.data, model, model.conditions[0])
        return dataset, name, replace(images, rows=None)
    return dataset, name, _fit_rows(images, rows, list_conditions(dataset), data.data, model, note)


def _fit_images(split: Split, data: str, model: Scorer | Spec) -> Split:
    """Return a split whose images have the shape that a model takes. Grey images become colour images."""
    if split.images.shape[1] == 1 and model.image_shape[0] == 3:  # as image files are read
        split = replace(split, images=_to_colour(split.images))
    shape, expected = split.images.shape[1:], model.image_shape
    if shape[0] != expected[0]:
        raise UsageError(
            f"{data!r} has images with {shape[0]} channels, but {model.name!r} takes {expected[0]} (1 is grey, 3 "
            "is colour); choose the model's own data with --data"
        )
    if shape != expected:
        raise UsageError(
            f"{data!r} has images of shape {shape}, but {model.name!r} takes {expected}; choose the model's own "
            "data with --data, or set --size"
        )
    return split


def _fit_rows(
    split: Split,
    rows: np.ndarray,
    conditions: Sequence[Condition],
    data: str,
    model: Scorer | Spec,
    note: Callable[[str], None] | None,
) -> Split:
    """Return a split with the rows of the conditions that a model has.

    The data may have further conditions. Images without a value that the model must know are left out.
    """
    names = [condition.name for condition in conditions]
    for condition in model.conditions:
        if condition.name not in names:
            raise _missing_error(data, model, condition)
        if not is_same(other := conditions[names.index(condition.name)], condition):
            raise UsageError(
                f"the condition {condition.name} of {data!r} is a {_describe(other, condition)}, but that of "
                f"{model.name!r} is a {_describe(condition, other)}; choose the model's own data with --data"
            )
    values, known = read_rows(conditions, rows)
    known = known[:, [names.index(condition.name) for condition in model.conditions]]
    split = replace(split, rows=make_rows(model.conditions, values, known))
    required = [i for i, condition in enumerate(model.conditions) if not condition.optional]
    indices = np.flatnonzero(known[:, required].all(1))
    if len(indices) == len(split):
        return split
    problem = f"{len(split) - len(indices):,} of {count_of(len(split), 'image')} of {data!r} without a value of "
    problem += f"{model.conditions[required[0]].name}, which {model.name!r} must know"
    if not len(indices):
        raise UsageError(f"{problem}; choose other data with --data")
    if note is not None:
        note(f"left out {problem}")
    return take(split, indices)


def _missing_error(data: str, model: Scorer | Spec, condition: Condition) -> UsageError:
    return UsageError(
        f"{data!r} has no condition {condition.name}, but {model.name!r} has: {condition.describe()}; choose the "
        "model's own data with --data"
    )


def _describe(condition: Condition, other: Condition) -> str:
    """Describe a condition, with the first value in which it differs from another one with as many values."""
    text = condition.describe()
    if condition.kind != other.kind or len(condition.values) != len(other.values):
        return text
    first = next(a for a, b in zip(condition.values, other.values, strict=True) if a != b)
    return f"{text} with {quote(first)}"


class PredictorImages(NamedTuple):
    """A data set whose conditions a classifier can learn, and its held-out images, which test the classifier."""

    dataset: Dataset
    held_out: Split


def load_predictor_images(data: DataConfig, flag: str) -> PredictorImages:
    """Load the grey or colour images that a classifier learns the conditions from.

    The held-out images are the test images or, if there are none, the validation images. With test images, the training
    images include the validation images, so that all models of a data set share a classifier.

    Raises:
        UsageError: If the data set has no labels or other conditions, or no held-out images, which `flag` needs.
    """
    config = replace(data, conditional=False, binarize="none", limit=None)
    dataset = load_dataset(replace(config, validation=0.0))
    if dataset.test is None:
        dataset = load_dataset(config)
    held_out = dataset.validation if dataset.test is None else dataset.test
    if condition_rows(dataset.train) is None:
        raise UsageError(f"{data.data!r} has no labels that a classifier can learn; remove {flag}")
    if held_out is None or condition_rows(held_out) is None:
        raise UsageError(f"{data.data!r} has no labelled images to test a classifier with; remove {flag}")
    return PredictorImages(dataset, held_out)


def load_labelled(data: DataConfig, flag: str) -> PredictorImages:
    """Load images like `load_predictor_images`, whose only condition is a category that is known for all of them.

    Raises:
        UsageError: If the data set has no such labels or no held-out images, which `flag` needs.
    """
    images = load_predictor_images(data, flag)
    if images.dataset.train.labels is None or images.held_out.labels is None:
        raise UsageError(
            f"{flag} needs images whose only condition is a category that is always known, unlike {data.data!r}; "
            f"remove {flag}"
        )
    return images


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
    features: str | FeatureExtractor | None = None,
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
        generated: number of images to generate for the distances and the accuracy of their conditions, limited to the
            number of real images; 0 skips these metrics.
        features: a feature extractor, the name of a bundled classifier, or `module:callable`; None for the bundled
            classifier of this data set, if there is one.
        seed: seed of all random numbers.
        progress: function called as the evaluation proceeds.
        note: function called with each message about the data, as in `load_split`.

    Returns:
        The report that `cvae evaluate --json` prints, with bounds in nats per image.

    Raises:
        UsageError: If the split or the features do not exist, or the images or conditions do not fit the model.
        CvaeError: If the data can't be loaded.
        MissingExtraError: If scikit-image is not installed.
    """
    progress = progress or (lambda stage, done, total: None)
    require_ssim()
    dataset, split, real = load_split(data, split, scorer, note=note)
    extractor = choose_extractor(features, dataset.name, scorer.image_shape) if generated else None
    if extractor is not None:  # check this now, because the evaluation may take hours
        if (count := min(generated, len(real), len(dataset.train))) <= NEIGHBOURS:
            raise UsageError(
                f"--generated: {count} images are too few for distances; use at least {NEIGHBOURS + 1}, or 0 to skip "
                "them"
            )
        extractor.features(as_float(real.images[:2]))
    full, real = real, subsample(real, limit)
    labelled = scorer.classes is not None and _count_unknown(scorer, real) == 0
    report: dict[str, Any] = {
        "model": scorer.name,
        "backend": scorer.backend,
        "data": dataset.name,
        "protocol": {
            "split": split,
            "images": len(real),
            "pixels": _describe_pixels(data.binarize),
            "likelihood": scorer.likelihood + _describe_conditions(scorer, real),
            "seed": seed,
        },
    }
    report |= _likelihood_metrics(scorer, real, samples, seed, progress)
    report["reconstruction"] = _reconstruction_metrics(scorer, real, progress)
    if labelled:
        report["labels"] = _label_metrics(scorer, real, seed, progress)
    if extractor is not None:
        # Generated images are compared with the original grey or colour images of the full split.
        if data.binarize != "none":
            dataset, split, full = load_split(replace(data, binarize="none"), split, scorer)
        # The training images need no comparison with themselves.
        train = None if split == "train" else _fit_images(dataset.train, data.data, scorer)
        metrics = generation_metrics(scorer, full, train, extractor, generated, seed, progress)
        conditions = metrics.pop("conditions", None)
        if conditions and labelled:
            (scores,) = conditions.values()
            report["labels"] |= {f"label_{name}": value for name, value in scores.items()}
        elif conditions:
            report["conditions"] = conditions
        report["generated"] = metrics
    return report


def _count_unknown(scorer: Scorer, images: Split) -> int:
    """Return the number of values of conditions that are unknown."""
    return 0 if images.rows is None else int((~read_rows(scorer.conditions, images.rows)[1]).sum())


def _describe_conditions(scorer: Scorer, images: Split) -> str:
    """Return what the likelihood is conditioned on, for the report, or "" for a model without conditions."""
    if not scorer.conditions:
        return ""
    unknown = " that are known" if _count_unknown(scorer, images) else ""
    return ", given the label" if scorer.classes is not None and not unknown else f", given the conditions{unknown}"


def choose_extractor(
    features: str | FeatureExtractor | None, data: str, image_shape: tuple[int, int, int]
) -> FeatureExtractor | None:
    """Return a feature extractor for the images of a model.

    Args:
        features: the extractor, the name of a bundled classifier, or `module:callable`; None for the bundled classifier
            of the data set, if there is one that fits the model.
        data: name of the data set.
        image_shape: shape (C, H, W) of the model's images.

    Raises:
        UsageError: If there are no such features, or they do not fit the model.
    """
    if features is None:
        if data not in CLASSIFIERS or (extractor := load_feature_extractor(data)).image_shape != image_shape:
            return None
        return extractor
    extractor = load_feature_extractor(features) if isinstance(features, str) else features
    if extractor.image_shape not in (None, image_shape):
        raise UsageError(
            f"--features: {extractor.name} takes images of shape {extractor.image_shape}, but the model generates "
            f"{image_shape}; choose other features"
        )
    return extractor


def _describe_pixels(binarize: str) -> str:
    return {
        "none": "as they are",
        "dynamic": f"sampled as black or white: once, with seed {STATIC_SEED}, for the evaluation, and again for each "
        "batch in training",
        "static": f"sampled as black or white once, with seed {STATIC_SEED}",
    }[binarize]


def _likelihood_metrics(
    scorer: Scorer, real: Split, samples: int | None, seed: int, progress: Progress
) -> dict[str, Any]:
    result = bounds(
        scorer,
        real.images,
        real.rows,
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
    per_label = bounds_per_label(scorer, real.images, seed=seed, progress=partial(progress, "all labels"))  # (N, K)
    return {
        "accuracy_of_the_bound_as_a_classifier": float((per_label.argmin(1) == real.rows).mean()),
        "bound_without_the_label": float(-log_mean_exp(-per_label).mean()),
    }


def _reconstruction_metrics(scorer: Scorer, real: Split, progress: Progress) -> dict[str, float | None]:
    psnrs, ssims, squared_errors, sharp, real_sharp = [], [], [], [], []
    for start, image, rows in batches(real.images, real.rows):
        reconstruction = scorer.reconstruct(image, rows)
        psnrs.append(psnr(image, reconstruction))
        ssims.append(ssim(image, reconstruction))
        squared_errors.append(((image - reconstruction) ** 2).mean(axis=(1, 2, 3)))  # (B, C, H, W) -> (B,)
        sharp.append(sharpness(reconstruction))
        real_sharp.append(sharpness(image))
        progress("reconstruction", start + len(image), len(real))
    return {
        "psnr": float(np.concatenate(psnrs).mean()),
        "ssim": float(np.concatenate(ssims).mean()),
        "mean_squared_error": float(np.concatenate(squared_errors).mean()),
        "sharpness": relative_sharpness(np.concatenate(sharp), np.concatenate(real_sharp)),
    }
