"""Arguments that several functions share: models, classes, data sets and images.

Messages for the user, such as which model was chosen, are passed to the function `note`.
"""

import importlib.util
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.config import DataConfig
from cvae.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from cvae.runtime import Model
    from cvae.spec import Spec

Note = Callable[[str], None] | None
"""Function that is called with each message for the user."""

# -- models ------------------------------------------------------------------------------------------------------------


def find_model(name: str | Path | None, note: Note = None) -> Path:
    """Return the path of a model: without a name, that of the newest run or else of the zoo's default model."""
    from cvae.runtime.find import newest

    path, message = newest(name)
    if message:
        _send(note, message)
    return path


def open_model(name: str | Path | None, device: str = "cpu", note: Note = None) -> "Model":
    """Open the model that `find_model` finds."""
    from cvae.runtime import load

    return load(find_model(name, note), device=device)


def open_autoencoder(name: str | Path | None, device: str = "cpu", note: Note = None) -> "tuple[Model, Path]":
    """Open a model like `open_model`, check that it has an encoder, and return the model and its folder."""
    from cvae.run import ENCODER, exported_file
    from cvae.runtime import load

    path = find_model(name, note)
    model = load(path, device=device)
    exported_file(path, ENCODER)  # raises an error if there is no encoder, before any slow work
    return model, path if path.is_dir() else path.parent


def require_torch(feature: str) -> None:
    """Check that the packages for training are installed.

    Raises:
        MissingExtraError: If torch, which `feature` needs, is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(feature)


# -- classes and noise -------------------------------------------------------------------------------------------------


def choose_class(spec: "Spec", **flags: str | int | None) -> int | None:
    """Return the index of the class that the flags choose by name (str) or index (int), or None without flags.

    Raises:
        UsageError: If the model has no such class, or two flags contradict each other.
    """
    indices: dict[str, int] = {}
    for flag, value in flags.items():
        if value is not None:
            index = spec.check_index(value) if isinstance(value, int) else spec.label_index(value)
            indices[f"--{flag.replace('_', '-')} {value!r}"] = index
    if len(set(indices.values())) > 1:
        raise UsageError(f"{' and '.join(indices)} contradict each other; give one")
    return next(iter(indices.values()), None)


def choose_labels(
    model: "Model", images: Any, index: int | None, names: Sequence[str], note: Note = None
) -> list[int] | None:
    """Return the class index of each image: `index` if it is given, else the class that fits the image best.

    A message names each class that is chosen in this way. Return None for a model without labels.
    """
    if model.spec.classes is None:
        return None
    if index is not None:
        return [index] * len(images)
    labels = [int(i) for i in model.nearest_label(images)]
    for name, index in zip(names, labels, strict=True):
        _send(note, f"{name}: no label given; {model.spec.classes[index]!r} fits it best")
    return labels


def choose_seed(seed: int | None) -> int:
    """Return `seed`, or a random one if it is None."""
    return secrets.randbelow(2**31) if seed is None else seed


# -- data and images ---------------------------------------------------------------------------------------------------


def override_data(config: DataConfig, **flags: Any) -> DataConfig:
    """Override the data config of a model's training with the flags that are not None."""
    if flags.get("data") not in (None, config.data):
        config = replace(config, without=())  # a different data set has different classes
    return replace(config, **{name: value for name, value in flags.items() if value is not None})


def read_image(path: str | Path, model: "Model", note: Note = None) -> "np.ndarray":
    """Read an image file as (C, H, W) for the model, with a message if it is scaled, cropped or converted to grey."""
    from cvae import imaging

    return imaging.read(path, model.spec.image_shape, note=note)


def read_images(paths: Sequence[Path], model: "Model", note: Note = None) -> "np.ndarray":
    """Read image files like `read_image`, as (N, C, H, W), with the same bit depth for all images."""
    from cvae import imaging

    if len(paths) == 1:  # so that a message names the file rather than a count
        return read_image(paths[0], model, note)[None]
    images, message = imaging.read_set(paths, model.spec.image_shape, note=note)
    if message:
        _send(note, message)
    return images


def _send(note: Note, message: str) -> None:
    if note is not None:
        note(message)
