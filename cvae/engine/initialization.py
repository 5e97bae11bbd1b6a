"""Initial weights of a run: those of a trained model, or an output layer that fits the mean image."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cvae.config import Config
from cvae.data import Split
from cvae.engine.checkpoint import load_model
from cvae.errors import UsageError
from cvae.model_config import ModelConfig, describe_differences
from cvae.models import VAE
from cvae.models.vae import initialize_output
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
        note = _copy_weights(models, config.model, init)
        ignored = ["--mean-init has no effect, because --init sets the weights of the output"]
        return [*([note] if note else []), *ignored * config.training.mean_init]
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


def _copy_weights(models: Iterable[VAE], config: ModelConfig, init: str) -> str | None:
    """Copy the weights of a trained model into models.

    A prior whose weights differ in name or shape from those of the trained model's prior keeps its initial weights.

    Args:
        models: models to initialize.
        config: description of their network.
        init: run folder, or name of a run or of a zoo model.

    Returns:
        A note for the log if the prior keeps its initial weights.

    Raises:
        UsageError: If the trained model does not exist, or its network differs from that of `models`.
    """
    trained, trained_config = load_model(find(init))
    state, note = trained.state_dict(), None
    try:
        for model in models:
            if _shapes(model.prior) == _shapes(trained.prior):
                model.load_state_dict(state)
                continue
            prior = {f"prior.{name}": tensor for name, tensor in model.prior.state_dict().items()}
            others = {name: tensor for name, tensor in state.items() if not name.startswith("prior.")}
            model.load_state_dict(others | prior)
            note = f"the prior starts with new weights, because it differs from that of {init!r}"
    except RuntimeError as error:
        differences = describe_differences(trained_config.model, config)
        raise UsageError(
            f"--init {init!r} does not fit this run: {', '.join(differences) or 'their networks differ'}; choose data "
            "and flags that fit, or train without --init"
        ) from error
    return note


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
