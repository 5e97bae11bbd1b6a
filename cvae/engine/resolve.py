"""From what was asked, and the data at hand, to the full description of a run."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cvae import __version__
from cvae.config import Config, ModelConfig, Part, TrainConfig, flag
from cvae.data import Dataset, DiskImages
from cvae.errors import UsageError
from cvae.registry import ARCHITECTURES, CONDITIONINGS, LIKELIHOODS, OBJECTIVES, PRIORS, Registry

LEAST_EPOCHS, LEAST_STEPS = 10, 1500
"""How long a run is by default: so many epochs, and on a small set more, for so many steps."""

RANGES = {
    "beta": (0.0, math.inf),
    "free_bits": (0.0, math.inf),
    "samples": (1, 10_000),
    "alpha": (0.0, 1.0),
    "mmd": (0.0, math.inf),
}
"""Of the objectives' options, by name."""


def configure(asked: TrainConfig, dataset: Dataset) -> Config:
    """Fill in what was left to the data: image shape, classes, likelihood, epochs, and the options of every part.

    Raises:
        UsageError: a part or an option is unknown.
    """
    images = dataset.train.images
    likelihood = asked.likelihood or ("bernoulli" if nearly_binary(images) else "gaussian-optimal")
    steps = max(1, len(images) // asked.batch_size)
    epochs = asked.epochs or max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps))
    options = {kind: dict(values) for kind, values in asked.options.items()}
    for name in ("beta", "free_bits"):
        value = getattr(asked, name)
        if value is None:
            continue
        if name not in OBJECTIVES.options(asked.objective):
            raise UsageError(f"{flag(name)} {value}: the objective {asked.objective!r} has no such option")
        options.setdefault("objective", {})[name] = value
    for name, value in options.get("objective", {}).items():
        least, most = RANGES.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not (least <= value <= most and math.isfinite(value)):
            raise UsageError(f"objective.{name} {value} must be a number from {least} to {most}")
    CONDITIONINGS.get(asked.conditioning)  # a wrong name is an error without --conditional too

    def part(registry: Registry, kind: str, name: str) -> Part:
        resolved: dict[str, Any] = registry.resolve(name, options.pop(kind, {}))
        return Part(name=name, options=resolved)

    objective = part(OBJECTIVES, "objective", asked.objective)
    model = ModelConfig(
        image_shape=images.shape[1:],
        latent_dim=asked.latent_dim,
        classes=dataset.classes if asked.conditional else None,
        architecture=part(ARCHITECTURES, "arch", asked.arch),
        conditioning=part(CONDITIONINGS, "conditioning", asked.conditioning) if asked.conditional else None,
        likelihood=part(LIKELIHOODS, "likelihood", likelihood),
        prior=part(PRIORS, "prior", asked.prior),
    )
    if options:
        raise UsageError(f"--set {next(iter(options))}.*: this run has no such part")
    training = replace(
        asked,
        likelihood=likelihood,
        epochs=epochs,
        beta=None,  # it is among the options now
        free_bits=None,
        options={**asked.options, "objective": objective.options},
    )
    return Config(cvae_version=__version__, data_terms=dataset.data_license, model=model, training=training)


def nearly_binary(images: np.ndarray | DiskImages) -> bool:
    """Whether grey images (N, 1, H, W) uint8 are mostly black and white, as ink on paper is, rather than shades.

    On shades the cross-entropy hardly rewards a sharp image: 8x8 digits then get 1 nat of code and a blur.
    """
    sample = images[:1000]
    return sample.shape[1] == 1 and float(((sample < 26) | (sample > 229)).mean()) > 0.8


def choose_device(device: str) -> str:
    """ "auto" -> the best that is here; anything else must be here.

    Raises:
        UsageError: it is not.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, available in here.items() if available)
    if not here[device]:
        raise UsageError(
            f"--device {device!r} is not available here (torch {torch.__version__} sees "
            f"{', '.join(name for name, available in here.items() if available)}); leave the flag out"
        )
    return device


COMPILE_STEPS = 30_000
"""Steps from which compiling pays: it takes up to a minute on two cores, and saves some milliseconds a step."""


def choose_compile(compile: bool | None, steps: int, device: str) -> bool:
    """None -> whether a run of so many steps pays back the start-up, and the machine can: a function of the run and
    the machine, not of a measurement, so that a seed gives the same weights each time.

    Raises:
        UsageError: it is asked for, and the machine can't.
    """
    if compile is False or (compile is None and steps < COMPILE_STEPS):
        return False
    try:  # inductor finds out by itself what is missing: a C++ compiler, Python's headers, Triton
        torch.compile(lambda x: x.sin() + 1)(torch.ones(64, device=device))
    except Exception as error:
        if compile:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"--compile does not work here: {type(error).__name__}: {reason}") from error
        return False
    return True


def choose_precision(precision: str, device: str) -> str:
    """ "auto" -> "bf16" where the machine multiplies it faster than fp32, else "fp32"."""
    if precision == "fp16" and device == "cpu":
        raise UsageError("--precision 'fp16' needs a GPU; on a CPU use bf16 or fp32")
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "cpu":
        can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 has none
        return "bf16" if can.get("amx_bf16") or can.get("avx512_bf16") else "fp32"
    return "fp32"
