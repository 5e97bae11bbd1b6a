"""The evaluation report: all metrics of a model, and the protocol by which they were measured."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cvae.condition_rows import read_rows
from cvae.config import DataConfig
from cvae.data import Split
from cvae.data.dataset import STATIC_SEED
from cvae.errors import UsageError
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
from cvae.evaluation.fidelity import (
    NEIGHBOURS,
    mean_squared_error,
    psnr,
    relative_sharpness,
    require_ssim,
    sharpness,
    ssim,
)
from cvae.evaluation.generation import Progress, generation_metrics, subsample
from cvae.evaluation.predictor import SUFFIX, load_predictor
from cvae.evaluation.splits import fit_images, load_split
from cvae.recorded_data import RecordedDataConfig
from cvae.run import is_run, read_config
from cvae.spec import Spec

NUM_GENERATED = 10_000
"""Default number of images to generate for the distances. Only distances of equally many images are comparable."""

PairMetric = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function that returns the metric (N,) of pairs of images (N, C, H, W) in [0, 1]."""


def find_data_config(path: Path, spec_data: str) -> RecordedDataConfig:
    """Return the data config of the run that `path` belongs to; outside a run, a config for the data set `spec_data`.

    An exported file does not state which training images were held out, so outside a run there is no validation split.
    """
    folder = path if path.is_dir() else path.parent
    if is_run(folder):
        return RecordedDataConfig.of_run(read_config(folder))
    return RecordedDataConfig(data=spec_data, validation=0.0)


def evaluate(
    scorer: Scorer,
    data: DataConfig,
    *,
    split: str | None = None,
    limit: int | None = None,
    samples: int | None = None,
    generated: int = NUM_GENERATED,
    features: str | FeatureExtractor | None = None,
    lpips: PairMetric | None = None,
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
        features: as in `choose_extractor`.
        lpips: function that computes LPIPS; None omits it.
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
    extractor = choose_extractor(features, dataset.name, scorer) if generated else None
    if extractor is not None:  # check this now, because the evaluation may take hours
        count = min(generated, len(real), len(dataset.train))
        if extractor.features is not None and count <= NEIGHBOURS:
            raise UsageError(
                f"--generated: {count} images are too few for distances; use at least {NEIGHBOURS + 1}, or 0 to skip "
                "them"
            )
        for function in filter(None, (extractor.features, extractor.outputs)):
            function(as_float(real.images[:2]))
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
    report["reconstruction"] = _reconstruction_metrics(scorer, real, lpips, progress)
    if labelled:
        report["labels"] = _label_metrics(scorer, real, seed, progress)
    if extractor is not None:
        # Generated images are compared with the original grey or colour images of the full split.
        if data.binarize != "none":
            dataset, split, full = load_split(replace(data, binarize="none"), split, scorer)
        # The training images need no comparison with themselves.
        train = None if split == "train" else fit_images(dataset.train, data.data, scorer)
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
    features: str | FeatureExtractor | None, data: str, model: Scorer | Spec
) -> FeatureExtractor | None:
    """Return a feature extractor for the images of a model.

    Args:
        features: the extractor, the name of a bundled classifier, `module:callable`, or the path of an ONNX file (see
            `load_predictor`); None for the bundled classifier of the data set, if there is one that fits the model.
        data: name of the data set.
        model: the model, for its image shape and conditions.

    Raises:
        UsageError: If there are no such features, or they do not fit the model.
        CvaeError: If a file can't be read.
    """
    image_shape = model.image_shape
    if features is None:
        if data not in CLASSIFIERS or (extractor := load_feature_extractor(data)).image_shape != image_shape:
            return None
        return extractor
    if isinstance(features, str) and features.endswith(SUFFIX):
        return load_predictor(features, model.conditions, image_shape, model.name)
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
    if result.rate.shape[1] > 1:
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


def _reconstruction_metrics(
    scorer: Scorer, real: Split, lpips: PairMetric | None, progress: Progress
) -> dict[str, float | None]:
    metrics: dict[str, PairMetric] = {"psnr": psnr, "ssim": ssim, "mean_squared_error": mean_squared_error}
    if lpips is not None:
        metrics["lpips"] = lpips
    values: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    sharp, real_sharp = [], []
    for start, image, rows in batches(real.images, real.rows):
        reconstruction = scorer.reconstruct(image, rows)
        for name, metric in metrics.items():
            values[name].append(metric(image, reconstruction))
        sharp.append(sharpness(reconstruction))
        real_sharp.append(sharpness(image))
        progress("reconstruction", start + len(image), len(real))
    report: dict[str, float | None] = {name: float(np.concatenate(parts).mean()) for name, parts in values.items()}
    return report | {"sharpness": relative_sharpness(np.concatenate(sharp), np.concatenate(real_sharp))}
