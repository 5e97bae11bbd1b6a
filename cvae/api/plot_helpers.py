"""Helpers of the functions in `cvae.api.plot`."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from cvae.api import arguments
from cvae.api.arguments import Note
from cvae.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from cvae.config import DataConfig
    from cvae.runtime import Model

DESCRIPTIONS: "WeakKeyDictionary[Figure, dict[str, Any]]" = WeakKeyDictionary()
"""What each figure shows."""


def check_ready(out: str | Path | None) -> None:
    """Check, before any slow work, that the packages are installed and the extension of `out` is supported."""
    if not all(map(importlib.util.find_spec, ("matplotlib", "sklearn"))):
        raise MissingExtraError("cvae plot", "plot")
    from cvae.plots.style import check_suffix

    if out is not None:
        check_suffix(Path(out))


def finish(figure: "Figure", out: str | Path | None, description: Mapping[str, Any]) -> "Figure":
    """Save a figure if `out` is given, and store its description, so that `describe` can return it."""
    from cvae.plots import style

    if out is not None:
        style.save(figure, Path(out))
    DESCRIPTIONS[figure] = {"out": None if out is None else str(out), **description}
    return figure


def find_run(name: str | Path | None, note: Note) -> Path:
    """Return the folder of the model that `arguments.find_model` finds."""
    path = arguments.find_model(name, note)
    return path if path.is_dir() else path.parent


def open_with_data(
    name: str | Path | None, device: str, note: Note, **flags: str | int | None
) -> "tuple[Model, DataConfig]":
    """Open a model with an encoder, and return it with its data config, after the flags have overridden values."""
    from cvae.evaluation.evaluate import find_data_config

    model, folder = arguments.open_autoencoder(name, device, note)
    return model, arguments.override_data(find_data_config(folder, model.spec.data), **flags)


def choose_start(
    model: "Model",
    image: str | Path | None,
    seed: int | None,
    values: Mapping[str, Any],
    extrapolate: bool,
    note: Note,
) -> "tuple[np.ndarray, np.ndarray | None]":
    """Return the code (Z,) to start from, and the row (see `cvae.condition_rows`) to decode it with."""
    import numpy as np

    from cvae.runtime.conditions import condition_rows

    if image is not None:
        pixels = arguments.read_image(image, model, note)[None]  # (C, H, W) -> (1, C, H, W)
        row = arguments.explain_images(model, pixels, values, [str(image)], note, extrapolate=extrapolate)
        return model.encode_rows(pixels, row).mean[0], row
    code = np.zeros(model.spec.latent_dim, np.float32) if seed is None else model.noise(1, seed)[0]
    if not values and model.spec.classes is not None:
        if note is not None:
            note(f"no label given: using {model.spec.classes[0]!r}, the first class")
        return code, np.zeros(1, np.int64)
    return code, condition_rows(model.spec, 1, values=values, extrapolate=extrapolate)
