"""Training config, built from a recipe and the flags that override it, and the name of its run."""

import os
from pathlib import Path
from typing import Any

from cvae.config import TrainConfig
from cvae.errors import UsageError
from cvae.flags import flags_of

DEFAULTS = vars(TrainConfig())

RESUMABLE = tuple(name for name, flag in flags_of(TrainConfig).items() if flag.resumable)
"""Flags that may change when a run is resumed. They are parameters of `cvae.resume`."""

LENGTH = ("epochs", "minutes")
"""Flags that set the length of a run. A run has only one of them."""

Overrides = dict[str, Any]
"""Flags that a user has set, by config field. The key "options" holds the options of the parts."""


def build_config(recipe: str | os.PathLike[str] | None, overrides: Overrides) -> TrainConfig:
    """Build a config from a recipe and the flags that override it.

    If `init` names a run to start from, the network and the size of the images are those of this run, unless a flag
    changes them.
    """
    return complete(combine_flags(recipe, overrides))


def complete(flags: Overrides) -> TrainConfig:
    """Return the config with these flags, and with defaults for all others."""
    from cvae.serialization import from_dict

    config: TrainConfig = from_dict(TrainConfig, {**DEFAULTS, **flags})
    return config


def combine_flags(recipe: str | os.PathLike[str] | None, overrides: Overrides) -> Overrides:
    """Merge the flags that rebuild the network of the `init` run, the flags of a recipe, and the overrides.

    Defaults are not filled in.
    """
    layers = read_layers(recipe, overrides)
    flags = merge_layers(layers)
    network = {} if (init := flags.get("init")) is None else _read_network(init)
    if network and flags.get("conditional") is False:
        network["options"].pop("conditioning", None)  # a model without conditions has no such part
    return merge_layers([network, *layers])


def read_layers(recipe: str | os.PathLike[str] | None, overrides: Overrides) -> list[Overrides]:
    """Return the flags of a recipe and the flags that override them."""
    from cvae import model_zoo
    from cvae.recipes import read_recipe

    return [{} if recipe is None else read_recipe(model_zoo.recipe(os.fspath(recipe))), overrides]


def merge_layers(layers: list[Overrides]) -> Overrides:
    """Merge layers of flags; later layers override earlier ones. Defaults are not filled in.

    If a later layer chooses a different part, the options of the earlier part are dropped. If it sets the length of the
    run, as a number of epochs or as a time budget, the earlier length is dropped.
    """
    merged: Overrides = {}
    for layer in layers:
        if any(layer.get(name) is not None for name in LENGTH):
            merged = {name: value for name, value in merged.items() if name not in LENGTH}
        merged |= layer
    options: dict[str, dict[str, Any]] = {}
    current = DEFAULTS
    for layer in layers:
        current = {**current, **layer}
        for part, values in layer.get("options", {}).items():
            if _selected(current, part) == _selected({**DEFAULTS, **merged}, part):
                options.setdefault(part, {}).update(values)
    return {**merged, "options": options}


def _selected(flags: Overrides, part: str) -> Any:
    """Return the name of the part that has the options `part`; for a loss, return whether it is used."""
    return flags[part] if part in flags else part in (flags["losses"] or ())


def _read_network(init: str) -> Overrides:
    """Return the flags that rebuild the network of a run, and the size of its images."""
    from cvae import model_zoo
    from cvae.run import read_config
    from cvae.runtime.find import find

    try:
        folder = find(init)
    except UsageError as error:
        if init not in model_zoo.recipes():
            raise
        raise UsageError(f"--init {init!r} is a recipe; train it first, with: cvae train --recipe {init}") from error
    config = read_config(folder)
    height, width = config.model.image_shape[1:]
    return {
        "size": height if height == width else f"{height}x{width}",
        **{name: part.name for name, part in config.model.parts.items()},
        "conditional": config.training.conditional,
        "latent_dim": config.training.latent_dim,
        "options": {name: dict(part.options) for name, part in config.model.parts.items()},
    }


def make_run_name(recipe: str | os.PathLike[str] | None, config: TrainConfig) -> str:
    """Return a name for a run folder: that of its recipe, or else one made of its data and architecture."""
    if recipe is None:
        return "-".join([config.data.partition(":")[0], config.arch, *["conditional"] * config.conditional])
    from cvae.run import CONFIG

    path = Path(recipe)
    return path.parent.name if path.name == CONFIG else path.stem
