"""Resolution of a training config: settings that depend on the data and the machine are filled in."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from cvae import __version__
from cvae.condition_rows import read_category, read_rows
from cvae.conditions import CATEGORY, Condition, single_category
from cvae.config import Config, TrainConfig
from cvae.data import Dataset, DiskImages, condition_rows, list_conditions
from cvae.engine.schedule import default_warmup
from cvae.errors import UsageError
from cvae.model_config import ModelConfig, Part
from cvae.registry import (
    ARCHITECTURES,
    CONDITIONINGS,
    LIKELIHOODS,
    LOSSES,
    OBJECTIVES,
    OPTIMIZERS,
    PRIORS,
    Registry,
)

MIN_EPOCHS = 2
"""Minimum number of epochs of a run whose length is not configured."""

MIN_STEPS = 1000
"""Minimum number of steps of a run whose length is not configured; a small data set gets more epochs to reach it."""

MAX_BATCH_SIZE, MIN_BATCH_SIZE = 64, 8
"""Largest and smallest batch size of a run whose batch size is not configured."""

DEFAULT_DROP = 0.1
"""Default probability of dropping a condition, except that of a single category, which is always known by default."""


def configure(config: TrainConfig, dataset: Dataset) -> Config:
    """Return the config of a run: `config`, completed with defaults and with settings that depend on the data.

    These are the image shape, the conditions, the likelihood, the batch size, the number of epochs, the warm-up steps,
    and the options of all parts. A run with a time budget has no number of epochs, so its warm-up is not set here.

    Raises:
        UsageError: If a part or an option is unknown, or the value of an option is not valid.
    """
    images = dataset.train.images
    likelihood = config.likelihood or ("bernoulli" if nearly_binary(images) else "gaussian-optimal")
    batch_size = config.batch_size or choose_batch_size(len(images))
    steps = max(1, len(images) // batch_size)
    epochs, warmup = config.epochs, config.warmup
    if config.minutes is None:
        epochs = epochs or default_epochs(steps)
        warmup = default_warmup(epochs * steps) if warmup is None else warmup
    options = dict(config.options)
    CONDITIONINGS.get(config.conditioning)  # report an unknown name even without --conditional

    def resolve_part(registry: Registry, kind: str, name: str) -> Part:
        resolved: dict[str, Any] = registry.resolve(name, options.pop(kind, {}))
        return Part(name=name, options=resolved)

    objective = resolve_part(OBJECTIVES, "objective", config.objective)
    optimizer = resolve_part(OPTIMIZERS, "optimizer", config.optimizer)
    losses = {name: resolve_part(LOSSES, name, name).options for name in config.losses}
    architecture = resolve_part(ARCHITECTURES, "arch", config.arch)
    model = ModelConfig(
        image_shape=images.shape[1:],
        latent_dim=count_latents(architecture, images.shape[1:], config.latent_dim),
        conditions=choose_conditions(config, dataset),
        architecture=architecture,
        conditioning=resolve_part(CONDITIONINGS, "conditioning", config.conditioning) if config.conditional else None,
        likelihood=resolve_part(LIKELIHOODS, "likelihood", likelihood),
        prior=resolve_part(PRIORS, "prior", config.prior),
    )
    if options:
        kind = next(iter(options))
        fix = f"remove the option, or add --loss {kind}" if kind in LOSSES else "remove the option"
        raise UsageError(f"--set {kind}.*: this run has no {kind}; {fix}")
    _check_combinations(config, model, objective)
    part_options = {**config.options, "objective": objective.options, "optimizer": optimizer.options, **losses}
    drop_conditions = drop_probability(config, model.conditions) if model.conditions else config.drop_conditions
    training = replace(
        config,
        likelihood=likelihood,
        batch_size=batch_size,
        epochs=epochs,
        warmup=warmup,
        options=part_options,
        drop_conditions=drop_conditions,
    )
    return Config(
        cvae_version=__version__,
        data_license=dataset.data_license,
        model=model,
        training=training,
        fingerprint=dataset.fingerprint,
    )


def _check_combinations(config: TrainConfig, model: ModelConfig, objective: Part) -> None:
    """Check that no option cancels another one, or has no effect because another one is missing.

    Raises:
        UsageError: If an option does.
    """
    if not config.conditional and config.drop_conditions:
        raise UsageError(
            f"--drop-conditions {config.drop_conditions:g} has no effect without conditions; add --conditional, or "
            "set it to 0"
        )
    if not config.conditional and config.conditioning != TrainConfig.conditioning:
        raise UsageError(
            f"--conditioning {config.conditioning} has no effect without conditions; add --conditional, or leave it at "
            f"{TrainConfig.conditioning}"
        )
    changes_grey_levels = config.rotate or config.zoom or config.crop < 1 or config.jitter
    if config.binarize == "static" and changes_grey_levels:
        raise UsageError(
            "--binarize static samples pixels before --rotate, --zoom, --crop or --jitter, which make them grey again; "
            "use --binarize dynamic"
        )
    changes_images = changes_grey_levels or config.shift or config.flip or config.binarize == "dynamic"
    if config.consistency is not None and not changes_images:
        raise UsageError(
            f"--consistency {config.consistency:g} compares images with transformed copies, but none of them is "
            "transformed; add --shift 1, for example"
        )
    if config.losses and objective.options.get("dreg"):
        raise UsageError(
            f"objective.dreg=true weights all gradients of the latents, also those of --loss {config.losses[0]}, to "
            "which it does not apply; remove one of the two"
        )
    _check_grids(config, model)


def _check_grids(config: TrainConfig, model: ModelConfig) -> None:
    """Check the options of the grids of a `ladder`.

    Raises:
        UsageError: If an option has no effect, or does not fit the rest of the config.
    """
    options = model.architecture.options
    if options.get("grid_dropout") and not options.get("latent_channels"):
        raise UsageError("arch.grid_dropout has no effect without grids; set arch.latent_channels, or remove it")
    if "grid_dropout" in options and options.get("latent_channels") and model.latent_dim == config.latent_dim:
        raise UsageError(
            "arch.latent_channels has no effect, because no feature maps besides the smallest are small enough for "
            "grids; lower arch.smallest, or remove it"
        )
    if config.consistency and options.get("grid_dropout"):
        raise UsageError(
            "--consistency compares the posterior of an image with that of its copy, but arch.grid_dropout drops the "
            "grids of each of them independently; remove one of the two"
        )
    dims = model.prior.options.get("dims")
    if options.get("grid_dropout") and dims is not None and not 0 < dims <= config.latent_dim:
        raise UsageError(
            f"arch.grid_dropout replaces grids by standard normal noise, which the prior {model.prior.name!r} would "
            f"learn; set prior.dims={config.latent_dim}, or use --prior normal"
        )


def choose_conditions(config: TrainConfig, dataset: Dataset) -> tuple[Condition, ...]:
    """Return the conditions of a run. They are optional if values are dropped in training, or unknown in the data."""
    conditions = list_conditions(dataset) if config.conditional else ()
    flag = "--balance" if config.balance else "--impute" if config.impute else None
    if flag and not any(condition.kind == CATEGORY for condition in conditions):
        raise UsageError(
            f"{flag} needs images with classes, but this run has none; add --conditional and use data with labels, or "
            f"remove {flag}"
        )
    if not conditions:
        return ()
    rows = condition_rows(dataset.train)
    if config.impute and rows is not None:
        labels, count = read_category(conditions, rows)
        if not (labels < count).any():
            raise UsageError("--impute learns unknown labels from known ones, but no label is known; remove --impute")
    some_unknown = rows is not None and not read_rows(conditions, rows)[1].all()
    optional = drop_probability(config, conditions) > 0 or some_unknown or single_category(conditions) is None
    return tuple(replace(condition, optional=optional) for condition in conditions)


def drop_probability(config: TrainConfig, conditions: Sequence[Condition]) -> float:
    """Return the probability with which each condition of an image is unknown in training."""
    if config.drop_conditions is not None:
        return config.drop_conditions
    return 0.0 if single_category(conditions) and not config.impute else DEFAULT_DROP


def count_latents(architecture: Part, image_shape: tuple[int, int, int], latent_dim: int) -> int:
    """Return the number of latent dimensions of a model: `latent_dim`, unless its architecture counts them itself."""
    create = ARCHITECTURES.get(architecture.name)
    while isinstance(create, partial):
        create = create.func
    count = getattr(create, "count_latents", None)
    return latent_dim if count is None else count(image_shape, latent_dim, **architecture.options)


def default_epochs(steps: int) -> int:
    """Return the default number of epochs of a run with a number of steps per epoch."""
    return max(MIN_EPOCHS, math.ceil(MIN_STEPS / steps))


def choose_batch_size(num_images: int) -> int:
    """Return the batch size for a number of training images: the largest power of two up to a tenth of that number.

    It is at most `MAX_BATCH_SIZE`, and at least `MIN_BATCH_SIZE` unless an epoch would then have a single step.
    """
    size = min(max(num_images // 10, MIN_BATCH_SIZE), MAX_BATCH_SIZE, max(num_images // 2, 2))
    return 1 << (size.bit_length() - 1)


def check_batch_size(batch_size: int, processes: int, accumulate: int) -> None:
    """Check that a batch can be divided equally among the processes, and within each process into `accumulate` parts.

    Raises:
        UsageError: If it can't be divided equally.
    """
    parts = processes * accumulate
    if batch_size % parts:
        raise UsageError(
            f"--batch-size {batch_size} can't be divided into {parts} equal parts (processes: {processes}, "
            f"--accumulate {accumulate}); choose a multiple of {parts}"
        )


def check_patience(training: TrainConfig, dataset: Dataset) -> None:
    """Check that validation bounds say when to stop if `--patience` is used.

    Raises:
        UsageError: If there are no validation images, or losses on images, which worsen the bound.
    """
    patience = training.patience
    if patience and training.losses:
        raise UsageError(
            f"--patience {patience} waits for a better bound, which --loss {training.losses[0]} makes worse; remove "
            "--patience, and choose the length with --epochs"
        )
    if patience and dataset.validation is None:
        raise UsageError(
            f"--patience {patience} compares bounds on validation images, but there are none; set --validation to a "
            "fraction such as 0.1, or remove --patience"
        )


def nearly_binary(images: np.ndarray | DiskImages) -> bool:
    """Return whether grey images (N, 1, H, W) uint8 are mostly black and white, like ink on paper.

    Only such images suit the Bernoulli likelihood. For shades of grey, its cross-entropy hardly rewards sharp images:
    on 8x8 digits, the rate drops to 1 nat and the reconstructions are blurred.
    """
    sample = images[:1000]
    return sample.shape[1] == 1 and float(((sample < 26) | (sample > 229)).mean()) > 0.8


def choose_device(device: str) -> str:
    """Return `device`, or the best available device for "auto".

    Raises:
        UsageError: If `device` is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [name for name, is_available in available.items() if is_available]
    if device == "auto":
        return names[0]
    if device not in names:
        fix = "leave it out"
        if device == "cuda":
            need = "torch with CUDA (https://pytorch.org/get-started/locally)" if torch.version.cuda is None else ""
            fix += f"; an NVIDIA GPU needs {need or 'a driver (check it with nvidia-smi)'}"
        raise UsageError(
            f"device {device!r} is not available here (torch {torch.__version__} sees {', '.join(names)}); {fix}"
        )
    return device


COMPILE_STEPS = 30_000
"""Minimum number of steps for which compiling pays off.

Compiling takes up to a minute on two cores, and saves a few milliseconds per step.
"""


def choose_compile(compile: bool | None, steps: int, device: str) -> bool:
    """Return whether to compile the networks.

    If `compile` is None, they are compiled if the machine supports it and the run has at least `COMPILE_STEPS` steps.
    The choice does not depend on measured times, so that a seed always gives the same weights.

    Raises:
        UsageError: If `compile` is true, but the machine does not support it.
    """
    if compile is False or (compile is None and steps < COMPILE_STEPS):
        return False
    try:  # only inductor knows what may be missing: a C++ compiler, Python's headers, Triton
        torch.compile(lambda x: x.sin() + 1)(torch.ones(64, device=device))
    except Exception as error:
        if compile:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"--compile does not work here: {type(error).__name__}: {reason}") from error
        return False
    return True


def choose_precision(precision: str, device: str) -> str:
    """Return `precision`, or for "auto" the faster of "bf16" and "fp32" on this machine.

    Raises:
        UsageError: If the device does not support the precision.
    """
    if precision == "fp16" and device == "cpu":
        raise UsageError("precision 'fp16' needs a GPU; on a CPU use bf16 or fp32")
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "cpu":
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in torch 2.9
        # Measured: with AVX-512 BF16 alone, matrix products in bf16 are 4 times as fast as in fp32 on an AMD EPYC
        # (Zen 5), but half as fast on an Intel Xeon.
        is_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")
        return "bf16" if capabilities.get("amx_bf16") or (is_amd and capabilities.get("avx512_bf16")) else "fp32"
    return "fp32"
