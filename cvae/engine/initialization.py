"""Initial weights of a run: those of a trained model, or an output layer that fits the mean image."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cvae.config import Config
from cvae.data import Split
from cvae.engine.checkpoint import load_model
from cvae.errors import UsageError
from cvae.model_config import ModelConfig, Part, describe_differences, describe_values
from cvae.models import VAE
from cvae.models.conditioning import add_conditions
from cvae.models.vae import initialize_output
from cvae.registry import LIKELIHOODS
from cvae.runtime.find import find

MEAN_IMAGES, READ_IMAGES = 10_000, 500
"""Number of training images whose mean initializes the output of the decoder, and number to read at a time."""


def initialize(models: Iterable[VAE], config: Config, split: Split) -> list[str]:
    """Initialize models as `--init` and `--mean-init` say, and return notes for the log.

    Args:
        models: models to initialize, which have the same network.
        config: config of the run.
        split: training images.

    Raises:
        UsageError: If the model that `--init` names does not exist or does not fit, or the architecture or the
            likelihood does not support `--mean-init`.
    """
    if (init := config.training.init) is not None:
        notes = _copy_weights(models, config.model, init)
        ignored = ["--mean-init has no effect, because --init sets the weights of the output"]
        return [*notes, *ignored * config.training.mean_init]
    if config.training.mean_init:
        mean = _mean_image(split)
        for model in models:
            initialize_output(model, mean.to(next(model.parameters()).device))
    return []


def _mean_image(split: Split) -> Tensor:
    """Return the mean (C, H, W) in [0, 1] of the first images of a split."""
    count = min(len(split), MEAN_IMAGES)
    starts = range(0, count, READ_IMAGES)
    total = sum(split.images[start : min(start + READ_IMAGES, count)].sum(0, dtype="int64") for start in starts)
    return torch.from_numpy(total / count / 255).float()


def _copy_weights(models: Iterable[VAE], config: ModelConfig, init: str) -> list[str]:
    """Copy the weights of a trained model into models.

    A prior whose weights differ in name or shape from those of the trained model's prior keeps its initial weights, and
    a likelihood with options that the trained model's likelihood does not have keeps its standard deviation. If only
    the new models have conditions, these have no effect at first.

    Args:
        models: models to initialize.
        config: description of their network.
        init: run folder, or name of a run or of a zoo model.

    Returns:
        Notes for the log.

    Raises:
        UsageError: If the trained model does not exist, or its network differs from that of `models`.
    """
    trained, trained_config = load_model(find(init))
    adds_conditions = bool(config.conditions) and not trained_config.model.conditions
    _, options = likelihood = _resolve(config.likelihood)
    keeps_likelihood = bool(options) and likelihood != _resolve(trained_config.model.likelihood)
    has_new_prior = False
    try:
        for model in models:
            state = trained.state_dict()
            if adds_conditions:
                state = add_conditions(state, model)
            initial = model.state_dict()
            if _shapes(_select(state, "prior.")) != _shapes(_select(initial, "prior.")):
                state, has_new_prior = _replace(state, initial, "prior."), True
            same_names = _select(state, "likelihood.").keys() == _select(initial, "likelihood.").keys()
            if keeps_likelihood and same_names:
                state = _replace(state, initial, "likelihood.")
            model.load_state_dict(state)
    except RuntimeError as error:
        differences = describe_differences(trained_config.model, config)
        raise UsageError(
            f"--init {init!r} does not fit this run: {', '.join(differences) or 'their networks differ'}; choose data "
            "and flags that fit, or train without --init"
        ) from error
    notes = [f"the conditions have no effect at first, because {init!r} has none"] * adds_conditions
    ours, theirs = ([replace(c, optional=True) for c in part.conditions] for part in (config, trained_config.model))
    if ours and theirs and ours != theirs:
        notes.append(f"the conditions are {describe_values(ours)}; those of {init!r} are {describe_values(theirs)}")
    return [*notes, *[f"the prior starts with new weights, because it differs from that of {init!r}"] * has_new_prior]


def _resolve(likelihood: Part) -> tuple[str, dict[str, Any]]:
    """Return the name of a likelihood and all of its options."""
    return likelihood.name, LIKELIHOODS.resolve(likelihood.name, likelihood.options)


def _select(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a state whose names start with `prefix`."""
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _replace(state: dict[str, Tensor], other: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Replace the tensors of a state whose names start with `prefix` by those of another state."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)} | _select(other, prefix)


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
