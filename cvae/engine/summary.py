"""Header and summary of a training run, as fields to print."""

from collections.abc import Sequence

import numpy as np
import psutil
import torch

from cvae.config import Config
from cvae.data import Dataset
from cvae.engine.display import NO_BREAK_SPACE
from cvae.engine.resolve import MAX_BATCH_SIZE, choose_batch_size
from cvae.engine.run_state import Record
from cvae.engine.validation_curve import ValidationCurve
from cvae.errors import count_of, one_line
from cvae.messages import format_nats, format_seconds

OVERFITTING = 0.02
"""Overfitting is reported if the last validation bound exceeds the best one by more than this fraction."""

MAX_USAGE = 0.4
"""Share of the processor that other programs can use before a warning says that they slow training down."""

USAGE_SECONDS = 0.2
"""Time over which the use of the processor is measured."""

MAX_CLASSES = 12
"""Maximum number of classes that are listed by name, each with its number of images."""


def describe_run(
    config: Config, dataset: Dataset, *, parameters: int, steps: int, device: torch.device, processes: int
) -> dict[str, str]:
    """Return the header of a run.

    Args:
        config: config of the run.
        dataset: data set of the run.
        parameters: number of parameters of the network.
        steps: number of steps in an epoch.
        device: device to train on.
        processes: number of processes.
    """
    training, (channels, height, width) = config.training, config.model.image_shape
    assert training.batch_size is not None  # filled in by configure()
    colours = {1: "grey", 3: "in colour"}.get(channels, f"with {channels} channels")
    splits = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    counts = [f"{len(split):,} {name}" for name, split in splits.items() if split is not None]
    is_small = training.batch_size == choose_batch_size(len(dataset.train)) < MAX_BATCH_SIZE
    patience = f"; ends after {count_of(training.patience, 'epoch')} without improvement" if training.patience else ""
    length = f"{count_of(training.epochs, 'epoch')} of" if training.epochs else f"{training.minutes:g} min, epochs of"
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    fields = {
        "model": f"{training.arch}{', conditional' if training.conditional else ''}, {parameters:,} parameters, "
        f"{count_of(config.model.latent_dim, 'latent dimension')}",
        "data": f"{one_line(dataset.name, 40)}: {' + '.join(counts)} images, {width}x{height} {colours}",
        "classes": _count_by_class(dataset),
        "conditions": _describe_conditions(config),
        "losses": _describe_losses(config),
        "training": f"{length} {count_of(steps, 'step')}, batches of "
        f"{min(training.batch_size, len(dataset.train)):,}{' for a small data set' if is_small else ''}{patience}",
        "device": f"{device.type}{name}, {training.precision}{', compiled' if training.compile else ''}"
        f"{f', {processes} processes' if processes > 1 else ''}",
    }
    return {name: text for name, text in fields.items() if text}


def describe_contention(device: torch.device, processes: int) -> str | None:
    """Return a warning if other programs use so much of the processor that they slow training down, else None.

    In a step, the threads wait for each other hundreds of times. If one has to share its core, all others wait for it.
    """
    if device.type != "cpu" or processes > 1 or torch.get_num_threads() == 1:
        return None
    usage = psutil.cpu_percent(USAGE_SECONDS) / 100
    if usage < MAX_USAGE:
        return None
    return (
        f"other programs use {usage:.0%} of the processor, which can make training ten times slower; a single thread "
        "suffers less: set OMP_NUM_THREADS=1 before Python starts, as in: OMP_NUM_THREADS=1 cvae train"
    )


def describe_result(
    config: Config, records: Sequence[Record], test_images: int, seconds: float, *, resumed: bool
) -> dict[str, str]:
    """Return the summary of a run.

    Args:
        config: config of the run.
        records: lines of metrics.jsonl.
        test_images: number of test images.
        seconds: duration of training in seconds; for a resumed run, the time since it was resumed.
        resumed: whether the run was resumed.
    """
    curve = ValidationCurve(records)
    last = max(record["epoch"] for record in records if "epoch" in record)
    fields = {}
    if config.training.losses:
        fields["saved"] = f"epoch {last}, the newest; {_describe_losses(config)}"
    elif curve.epochs:
        fields["best epoch"] = f"{curve.best_epoch} of {last}, validation bound {format_nats(curve.best)} nats"
        if curve.bounds[-1] > curve.best + OVERFITTING * abs(curve.best):
            fields["best epoch"] += (
                f"; it rose to {format_nats(curve.bounds[-1])} afterwards, so the network overfits: more images, "
                "--flip or --shift can help, and --patience 5 would stop such a run early"
            )
    for record in records:
        if "test" in record:
            fields["test"] = f"{format_bound(record['test'])} on {count_of(test_images, 'image')}"
    return {**fields, "time": f"{format_seconds(seconds)}{' since the run was resumed' if resumed else ''}"}


def _describe_losses(config: Config) -> str:
    """Say which losses the bound does not contain, or return "" if there are none."""
    if not config.training.losses:
        return ""
    return f"{' and '.join(config.training.losses)} in addition to the bound, which they make worse"


def describe_explosion(curve: ValidationCurve, num_images: int) -> str:
    """Return a warning that the validation bound has exploded, and what to do about it.

    Args:
        curve: validation bounds so far.
        num_images: number of training images.
    """
    return (
        f"the validation bound was {format_nats(curve.best)} nats at epoch {curve.best_epoch} and is now "
        f"{format_nats(curve.bounds[-1])}: the network overfits its {count_of(num_images, 'training image')}. Stop "
        "with Ctrl-C: the weights of the best epoch are saved. Then use more images, --patience, --flip or --shift, or "
        "a smaller network"
    )


def format_bound(metrics: dict[str, float]) -> str:
    """Format the bound with its terms, such as "99.10 nats (distortion 74.20 + rate 24.90)"."""
    bound, distortion, rate = (format_nats(metrics[term]) for term in ("bound", "distortion", "rate"))
    text = f"{bound} nats (distortion {distortion} + rate {rate})"
    if "importance_weighted" in metrics:
        text += f", {format_nats(metrics['importance_weighted'])} importance-weighted"
    return text


def _describe_conditions(config: Config) -> str:
    """List the conditions with their kinds, such as "age: number 3..92; smiling: attribute", or "" for labels alone."""
    if config.model.classes is not None:
        return ""
    return "; ".join(f"{condition.name}: {condition.describe()}" for condition in config.model.conditions)


def _count_by_class(dataset: Dataset) -> str:
    """List the number of training images in each class, or return "" without labels. Class names may be untrusted."""
    if dataset.classes is None or dataset.train.labels is None:
        return ""
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    names = [one_line(name, 20) for name in dataset.classes[:MAX_CLASSES]]
    shown = ", ".join(f"{name}{NO_BREAK_SPACE}{count:,}" for name, count in zip(names, counts, strict=False))
    others = counts[MAX_CLASSES:]
    if not len(others):
        return shown
    classes = f"{len(others):,} more class{'es' * (len(others) > 1)}"
    return f"{shown}, and {classes} of {others.min():,} to {others.max():,} images each"
