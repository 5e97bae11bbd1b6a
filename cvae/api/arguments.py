"""Arguments that several functions share: models, classes, data sets and images.

Messages for the user, such as which model was chosen, are passed to the function `note`.
"""

import errno
import importlib.util
import os
import secrets
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api.classes import choose_class as choose_class
from cvae.api.classes import choose_classes as choose_classes
from cvae.api.classes import choose_image_classes as choose_image_classes
from cvae.config import DataConfig
from cvae.errors import MissingExtraError, UsageError, count_of
from cvae.recorded_data import RecordedDataConfig

if TYPE_CHECKING:
    import numpy as np

    from cvae.runtime import Model
    from cvae.runtime.inputs import ImagesLike

MAX_COUNTS = 10
"""Maximum number of classes that the message about the best fit lists."""

Note = Callable[[str], None] | None
"""Function that is called with each message for the user."""

# -- models ------------------------------------------------------------------------------------------------------------


def find_model(name: "str | Path | Model | None", note: Note = None) -> Path:
    """Return the path of a model. Without a name, choose the newest run or, without runs, the zoo's default model."""
    from cvae.runtime.find import newest

    value: Any = name
    path, message = newest(getattr(value, "path", value))  # an open model has a path
    if message:
        send(note, message)
    return path


def open_model(
    name: "str | Path | Model | None", device: str = "cpu", note: Note = None, time_limit: float | None = None
) -> "Model":
    """Open the model that `find_model` finds. An open model is returned as it is.

    Raises:
        UsageError: If there is no such model, or `time_limit` is set for an open model. If the name is a class of the
            default model, the message suggests passing it as `label`.
    """
    from cvae.runtime import Model, load

    if isinstance(name, Model):
        if time_limit is not None:
            raise UsageError("an open model has its own time limit; set it with cvae.load(..., time_limit=...)")
        return name
    try:
        path = find_model(name, note)
    except UsageError:
        classes = load(find_model(None)).classes or ()
        if str(name) not in classes:
            raise
        raise UsageError(
            f"there is no run, file or zoo model {str(name)!r}; to choose a class, pass label={str(name)!r} "
            f"(--label {shlex.quote(str(name))})"
        ) from None
    return load(path, device=device, time_limit=time_limit)


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


def choose_labels(
    model: "Model",
    images: Any,
    indices: int | Sequence[int] | None,
    names: Sequence[str],
    note: Note = None,
) -> list[int] | None:
    """Return the class index of each image: `indices` if they are given, else those of the best-fitting classes.

    Args:
        model: model with an encoder.
        images: images (N, C, H, W) in [0, 1].
        indices: one class index for all images, or one for each image.
        names: names of the images, for the message about the class of a single image.
        note: called with this message.

    Returns:
        The indices, or None for a model without labels.
    """
    if model.classes is None:
        return None
    if indices is not None:
        return [indices] * len(images) if isinstance(indices, int) else list(indices)
    labels = [int(index) for index in model.nearest_label(images)]
    if len(labels) == 1:
        send(note, f"{names[0]}: no label given; {model.classes[labels[0]]!r} fits it best")
    else:
        counts = [f"{model.classes[i]!r} for {count_of(count, 'image')}" for i, count in Counter(labels).most_common()]
        more = f" and {len(counts) - MAX_COUNTS} other classes" * (len(counts) > MAX_COUNTS)
        send(note, f"no label given; best fit: {', '.join(counts[:MAX_COUNTS])}{more}")
    return labels


def choose_seed(seed: int | None) -> int:
    """Return `seed`, or a random one if it is None."""
    return secrets.randbelow(2**31) if seed is None else seed


# -- data and images ---------------------------------------------------------------------------------------------------


def override_data(config: DataConfig, **flags: Any) -> DataConfig:
    """Return the data config that a model was trained with, after overriding it with the flags that are not None."""
    if flags.get("data") not in (None, config.data):
        config = replace(config, without=())  # a different data set has different classes
    if isinstance(config, RecordedDataConfig):
        if flags.get("data") is not None:
            config = config.confirmed
        elif flags.get("size") not in (None, config.size):
            config = replace(config, fingerprint=None)  # it would differ
    return replace(config, **{name: value for name, value in flags.items() if value is not None})


def check_image_files(images: "ImagesLike") -> None:
    """Check that image files exist, so that a missing file is reported before any problem with the model.

    Raises:
        UsageError: If a path is that of a model.
        CvaeError: If a file does not exist.
    """
    from cvae.imaging.reader import ReadError

    for image in images if isinstance(images, list | tuple) else [images]:
        if isinstance(image, str | Path):
            if _is_model(Path(image)):
                raise UsageError(f"{str(image)!r} is a model, not an image; choose a model with: -m {image}")
            if not Path(image).exists():
                raise ReadError(image, os.strerror(errno.ENOENT))


def read_images(images: "ImagesLike", model: "Model", note: Note = None) -> "np.ndarray":
    """Convert images of any kind to (N, C, H, W), and report if files are scaled, cropped or converted to grey."""
    from cvae.runtime.inputs import to_batch

    check_image_files(images)
    return to_batch(images, model.image_shape, note)


def read_image(image: "ImagesLike", model: "Model", note: Note = None) -> "np.ndarray":
    """Convert one image to (C, H, W) like `read_images`."""
    batch: np.ndarray = read_images(image, model, note)
    return batch[0]


def _is_model(path: Path) -> bool:
    from cvae import model_zoo
    from cvae.run import DECODER, RUNS, is_run

    if path.exists():
        return is_run(path) or (path / DECODER).is_file() or path.suffix == ".onnx"
    return str(path) in model_zoo.models() or is_run(RUNS / path)


def send(note: Note, message: str) -> None:
    """Pass a message to the function `note`, if there is one."""
    if note is not None:
        note(message)
