"""Images that are reconstructed or restyled: their arrangement in a file, and the report that the command prints.

Importing this module is cheap: each function imports what it needs when it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.api.classes import Indices, Labels
from cvae.api.conditions import Conditions, choose_image_values, choose_values, combine, describe
from cvae.api.image_results import ModelLike, Result, describe_conditions
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from cvae.api.arguments import Note
    from cvae.runtime import Model
    from cvae.runtime.inputs import ImagesLike


def make_reconstructions(
    images: "ImagesLike",
    model: ModelLike,
    *,
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    conditions: Conditions | None,
    extrapolate: bool,
    device: str,
    note: "Note",
) -> Result:
    """Reconstruct images, and arrange them as rows of originals above their reconstructions."""
    from cvae import imaging

    arguments.check_image_files(images)
    autoencoder = arguments.open_model(model, device, note)
    flags = {"label": label, "digit": digit, "label_index": label_index}
    originals, rows = _read(images, autoencoder, conditions, extrapolate, note, flags)
    reconstructions = autoencoder.decode_rows(autoencoder.encode_rows(originals, rows).mean, rows)
    mse = ((reconstructions - originals) ** 2).mean(axis=(1, 2, 3))  # (N, C, H, W) -> (N,)
    report = {
        "model": autoencoder.spec.name,
        "labels": reconstructions.labels,
        "mean_squared_error": [round(float(value), 6) for value in mse],
        **describe_conditions(autoencoder.spec, rows),
    }
    return Result(images=reconstructions, draw=lambda: imaging.stack([originals, reconstructions]), report=report)


def make_restyled(
    images: "ImagesLike",
    model: ModelLike,
    *,
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    to: Labels | None,
    to_index: Indices | None,
    known: Conditions | None,
    conditions: Conditions | None,
    extrapolate: bool,
    device: str,
    note: "Note",
) -> Result:
    """Restyle images, and arrange them as a row of originals and a row for each combination of new values."""
    import numpy as np

    from cvae import imaging
    from cvae.runtime.array import as_images
    from cvae.runtime.conditions import replace_values

    arguments.check_image_files(images)
    autoencoder = arguments.open_model(model, device, note)
    spec = autoencoder.spec
    targets = choose_values(spec, conditions, extrapolate=extrapolate, to=to, to_index=to_index)
    flags: dict[str, Any] = {"label": label, "digit": digit, "label_index": label_index}
    choose_values(spec, known, option="--known", extrapolate=extrapolate, **flags)  # raises an error about a flag
    if not spec.conditions:
        raise UsageError(f"{spec.name!r} was trained without labels, so there is no class to change")
    if not targets:
        if spec.classes is None or spec.category is None:
            names = ", ".join(condition.name for condition in spec.conditions)
            raise UsageError(
                f"there is nothing to change; choose new values with --condition NAME=VALUE: {spec.name!r} has the "
                f"conditions {names}"
            )
        targets = {spec.category.name: list(spec.classes)}
    originals, rows = _read(images, autoencoder, known, extrapolate, note, flags, option="--known")
    codes = autoencoder.encode_rows(originals, rows)
    changes = combine(targets)
    new_rows = [replace_values(spec, rows, change, count=len(originals), extrapolate=extrapolate) for change in changes]
    restyled = [autoencoder.decode_rows(codes.mean, batch_rows) for batch_rows in new_rows]
    labels = [label for batch in restyled for label in batch.labels or []]
    columns = len(originals) if len(originals) > 1 else len(restyled)  # a single image gives one row
    result = as_images(np.concatenate(restyled), labels or None, columns=columns)
    is_class = spec.classes is not None
    report = {
        "model": spec.name,
        "labels": codes.labels or [],
        "to": [next(iter(change.values())) if is_class else describe(spec, change) for change in changes],
        **describe_conditions(spec, rows),
    }

    def draw() -> "Image.Image":
        if len(originals) == 1:  # a single image and its variants fit into one row
            return imaging.strip(np.concatenate([originals, *restyled]))
        return imaging.stack([originals, *restyled])

    return Result(images=result, draw=draw, report=report)


def _read(
    images: "ImagesLike",
    model: "Model",
    conditions: Conditions | None,
    extrapolate: bool,
    note: "Note",
    flags: dict[str, Any],
    *,
    option: str = "--condition",
) -> "tuple[np.ndarray, np.ndarray | None]":
    """Read images (N, C, H, W), and choose or infer the rows of their conditions."""
    # This raises an error about a flag before images are read.
    choose_values(model.spec, conditions, option=option, extrapolate=extrapolate, **flags)
    originals = arguments.read_images(images, model, note)
    sequence = list(images) if isinstance(images, list | tuple) else [images]
    names = [str(image) if isinstance(image, str | Path) else "image" for image in sequence]
    if len(names) != len(originals) or (len(names) > 1 and "image" in names):
        names = ["image"] if len(originals) == 1 else [f"image {i}" for i in range(1, len(originals) + 1)]
    values = choose_image_values(
        model.spec, len(originals), conditions, option=option, extrapolate=extrapolate, **flags
    )
    return originals, arguments.explain_images(model, originals, values, names, note, extrapolate=extrapolate)
