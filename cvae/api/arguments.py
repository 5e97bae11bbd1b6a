"""Arguments that several functions share: models, conditions, data sets and images.

Messages for the user, such as which model was chosen, are passed to the function `note`.
"""

import errno
import importlib.util
import os
import secrets
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api.conditions import format_values
from cvae.data_config import DataConfig
from cvae.errors import MissingExtraError, UsageError, count_of
from cvae.recorded_data import RecordedDataConfig

if TYPE_CHECKING:
    import numpy as np

    from cvae.runtime import Model
    from cvae.runtime.inputs import ImagesLike

MAX_COUNTS = 10
"""Maximum number of classes or images that messages about the best fit list."""

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


# -- conditions and noise ----------------------------------------------------------------------------------------------


def explain_images(
    model: "Model",
    images: "np.ndarray",
    values: Mapping[str, Any],
    names: Sequence[str],
    note: Note = None,
    *,
    extrapolate: bool = False,
) -> "np.ndarray | None":
    """Return the rows of the conditions of images. Conditions without a value get the one that fits an image best.

    Args:
        model: model with an encoder.
        images: images (N, C, H, W) in [0, 1].
        values: values of conditions by name: one for all images, or one for each.
        names: names of the images, for messages.
        note: called with messages about the inferred values.
        extrapolate: whether to accept numbers beyond the range of the training data.
    """
    from cvae.runtime.inference import explain

    rows = explain(model, images, values, extrapolate=extrapolate)
    if rows is not None:
        report_inferred(model, rows, values, names, note)
    return rows


def report_inferred(
    model: "Model", rows: "np.ndarray", values: Mapping[str, Any], names: Sequence[str], note: Note
) -> None:
    """Report the conditions of images that are not in `values`, but were inferred."""
    from cvae.runtime.conditions import describe_rows

    missing = [condition for condition in model.spec.conditions if condition.name not in values]
    if not missing or note is None:
        return
    if model.classes is None:
        for name, described in zip(names[:MAX_COUNTS], describe_rows(model.spec.conditions, rows), strict=False):
            send(note, f"{name}: best fit: {format_values(missing, described)}")
        if len(names) > MAX_COUNTS:
            send(note, f"--json prints the best fit of the other {count_of(len(names) - MAX_COUNTS, 'image')}")
    elif len(rows) == 1:
        send(note, f"{names[0]}: no label given; {model.classes[rows[0]]!r} fits it best")
    else:
        common = Counter(rows.tolist()).most_common()
        counts = [f"{model.classes[i]!r} for {count_of(count, 'image')}" for i, count in common]
        more = f" and {len(counts) - MAX_COUNTS} other classes" * (len(counts) > MAX_COUNTS)
        send(note, f"no label given; best fit: {', '.join(counts[:MAX_COUNTS])}{more}")


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
