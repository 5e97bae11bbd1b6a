"""Make a ladder from a trained `resnet` with two resolutions: add grids of latents at the larger one.

    python model_zoo/scripts/add_grids.py mnist-resnet-flow runs/with-grids --grids 3 --latent-channels 4

At first, the posterior of the grids equals their prior, and the bound is nearly that of the `resnet`. Then train the
ladder, at first with free bits, because otherwise the grids stay unused:

    cvae train --data mnist --binarize dynamic --init runs/with-grids --free-bits 0.01 --epochs 3 --out runs/used-grids
    cvae train --data mnist --binarize dynamic --init runs/used-grids --out runs/ladder
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cvae.atomic import atomic_folder
from cvae.config import Config
from cvae.engine import load_model
from cvae.engine.checkpoint import save_weights
from cvae.engine.resolve import count_latents
from cvae.errors import CvaeError, UsageError
from cvae.model_config import Part
from cvae.models import VAE, build
from cvae.models.architectures.ladder import MAX_LATENT_SIDE
from cvae.models.architectures.layers import require_positive
from cvae.models.architectures.resnet import Encoder
from cvae.registry import ARCHITECTURES
from cvae.runtime.find import find

GRID_SCALE = 0.2
"""Factor of the initial weights from the latents of a grid to the features."""

OFFSET = 6.0
"""Offset with which silu is nearly linear: silu(x + 6) = x + 6 to within 0.04 for x > -1."""

SUPPORTED = {"blocks": 1, "batch_norm": False, "latent_channels": 0, "spatial": False}
"""Options that the `resnet` must have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Run or zoo model of the architecture `resnet`.")
    parser.add_argument("out", type=Path, help="Folder to create for the ladder.")
    parser.add_argument("--grids", type=int, default=3, help="Number of grids, each before a block of its own.")
    parser.add_argument("--latent-channels", type=int, default=4, help="Latents at each position of a grid.")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{str(args.out)!r} already exists; choose another folder")
    torch.manual_seed(0)
    try:
        ladder, config = add_grids(*load_model(find(args.model)), args.grids, args.latent_channels)
        with atomic_folder(args.out) as folder:
            save_weights(folder / "model.safetensors", ladder.state_dict())
            (folder / "config.json").write_text(config.to_json(), "utf-8")
    except CvaeError as error:
        parser.error(str(error))


def add_grids(model: VAE, config: Config, grids: int, latent_channels: int) -> tuple[VAE, Config]:
    """Return a ladder that computes nearly the same function as a `resnet`, and its config.

    Args:
        model: VAE with the architecture `resnet`.
        config: its config.
        grids: number of grids.
        latent_channels: number of latents at each position of a grid.

    Raises:
        UsageError: If a number is less than 1, or the model can't be extended.
    """
    require_positive(grids=grids, latent_channels=latent_channels)
    architecture, prior = config.model.architecture, config.model.prior
    options = ARCHITECTURES.resolve(architecture.name, architecture.options)
    levels = len(model.encoder.stages) if isinstance(model.encoder, Encoder) else 0
    if levels != 2 or not SUPPORTED.items() <= options.items() or prior.name != "flow":
        raise UsageError(
            f"a {architecture.name} with the prior {prior.name} and the options {options} can't be extended; train a "
            f"resnet with two resolutions, the prior flow and the options {SUPPORTED}"
        )
    vector_dim = config.model.latent_dim
    new_options: dict[str, Any] = {name: options[name] for name in ("width", "max_width", "patch", "smallest")}
    new_options |= {"blocks": grids, "smallest_blocks": 1, "latent_channels": latent_channels}
    ladder_part = Part(name="ladder", options=ARCHITECTURES.resolve("ladder", new_options))
    latent_dim = count_latents(ladder_part, config.model.image_shape, vector_dim)
    if latent_dim == vector_dim:
        raise UsageError(
            f"the larger feature maps have more than {MAX_LATENT_SIDE} positions on a side, too many for grids; train "
            "a resnet with a larger arch.patch"
        )
    model_config = replace(
        config.model,
        architecture=ladder_part,
        latent_dim=latent_dim,
        prior=replace(prior, options={**prior.options, "dims": vector_dim}),
    )
    ladder = build(model_config).eval()
    copy_weights(model, ladder)
    training_options = {**config.training.options, "arch": new_options, "prior": model_config.prior.options}
    training = replace(config.training, arch="ladder", latent_dim=vector_dim, init=None, options=training_options)
    return ladder, replace(config, model=model_config, training=training)


@torch.no_grad()
def copy_weights(model: VAE, ladder: VAE) -> None:
    """Copy the weights of a `resnet` to a ladder with the same resolutions and widths, and initialize its grids."""
    new_prefixes = {
        "encoder.head.": "decoder.rungs.0.posterior.",
        "decoder.spread.": "decoder.rungs.0.enter.",
        "decoder.stages.0.blocks.0.": "decoder.rungs.0.block.",
        "decoder.stages.1.resample.": "decoder.rungs.1.resample.",
        "decoder.stages.1.blocks.0.": "decoder.rungs.1.block.",
    }
    state = ladder.state_dict()
    for name, value in model.state_dict().items():
        prefix = next((prefix for prefix in new_prefixes if name.startswith(prefix)), "")
        state[new_prefixes.get(prefix, "") + name.removeprefix(prefix)].copy_(value)
    # The posterior of a `resnet` is linear in silu(image features), and that of a rung in silu(look(silu(features))).
    # With an offset, the layer `look` and the silu after it are nearly the identity.
    look = state["decoder.rungs.0.look.weight"].zero_()
    look[:, len(look) :, 1, 1] = torch.eye(len(look))
    state["decoder.rungs.0.look.bias"].fill_(OFFSET)
    linear = "decoder.rungs.0.posterior." + ("" if ladder.conditions is None else "linear.")
    state[linear + "bias"] -= OFFSET * state[linear + "weight"].sum(1)
    for name, value in state.items():
        if name.endswith(".enter.weight") and value.ndim == 4:
            value *= GRID_SCALE
        elif name.endswith(".enter.bias") and not name.startswith("decoder.rungs.0."):
            value.zero_()


if __name__ == "__main__":
    main()
