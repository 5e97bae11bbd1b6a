"""Interpolation between two codes, and between the conditions of both ends."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from cvae.conditions import single_category
from cvae.errors import UsageError
from cvae.imaging.interpolation import lerp, slerp
from cvae.runtime.arguments import Indices, check_array, check_count, check_memory, label_indices
from cvae.runtime.array import Images, as_images
from cvae.runtime.conditions import (
    Values,
    condition_rows,
    fill_unknown,
    interpolate_numbers,
    is_per_image,
    replace_values,
)
from cvae.runtime.inference import explain
from cvae.runtime.inputs import ImagesLike, to_batch
from cvae.spec import Spec

if TYPE_CHECKING:
    from cvae.runtime.model import Model


def interpolate(
    model: "Model",
    a: int | ImagesLike,
    b: int | ImagesLike,
    steps: int,
    mode: str,
    values: Values,
    label_index: Indices,
    *,
    extrapolate: bool,
) -> Images:
    """Return the images (steps, C, H, W) of `Model.interpolate`.

    Args:
        model: The model.
        a: Start: a seed, a code (Z,) or an image.
        b: End, like `a`.
        steps: Number of images.
        mode: "slerp" or "lerp".
        values: Values of the conditions by name, including the label: one value, or a pair.
        label_index: Index of the class or a pair, instead of a value.
        extrapolate: Whether to accept numbers beyond the range of the training data.
    """
    stops = [read_stop(model, a), read_stop(model, b)]
    rows = stop_rows(model, stops, _split(model.spec, values, label_index), extrapolate=extrapolate)
    return interpolate_rows(model, stops, rows, steps, mode)


def interpolate_rows(
    model: "Model", stops: Sequence[np.ndarray], rows: np.ndarray | None, steps: int, mode: str
) -> Images:
    """Return the images (steps, C, H, W) between two stops, each a code (Z,) or an image (1, C, H, W), and their rows.

    Raises:
        UsageError: If `steps` or `mode` is invalid.
    """
    conditions = model.spec.conditions
    steps = check_count("steps", steps, minimum=2)
    check_memory(model.spec, "steps", steps, "take fewer steps")
    if mode not in ("slerp", "lerp"):
        raise UsageError(f"mode {mode!r} is neither 'slerp' nor 'lerp'")
    positions = np.linspace(0, 1, steps, dtype=np.float32)[:, None]  # (steps, 1)
    start, end = (_code(model, stop, None if rows is None else rows[i : i + 1]) for i, stop in enumerate(stops))
    codes = {"slerp": slerp, "lerp": lerp}[mode](start, end, positions)
    if rows is None:
        images = model.decode_rows(codes, None)
    else:
        first = interpolate_numbers(conditions, rows[:1], rows[1:], positions)
        last = interpolate_numbers(conditions, rows[1:], rows[:1], 1 - positions)
        images = model.decode_rows(codes, first)  # (steps, C, H, W)
        if not np.allclose(first, last):  # a condition other than a number differs
            weight = positions[:, :, None, None]  # (steps, 1) -> (steps, 1, 1, 1)
            images = as_images((1 - weight) * images + weight * model.decode_rows(codes, last))
    images.columns = len(images)  # one row
    return images


def read_stop(model: "Model", stop: int | ImagesLike) -> np.ndarray:
    """Return the code (Z,) or the image (1, C, H, W) of a stop of an interpolation."""
    if isinstance(stop, int | np.integer):
        return model.noise(1, int(stop))[0]
    if np.ndim(stop) == 1:  # type: ignore[arg-type]
        return check_array(np.asarray(stop)[None], (model.spec.latent_dim,), "codes")[0]
    batch = to_batch(stop, model.spec.image_shape)
    if len(batch) > 1:
        raise UsageError(f"{len(batch)} images are given as one end of an interpolation; give one image")
    return batch


def stop_rows(
    model: "Model", stops: Sequence[np.ndarray], values: Sequence[Values], *, extrapolate: bool = False
) -> np.ndarray | None:
    """Return the rows of the conditions of stops, or None for a model without conditions.

    A condition without a value is inferred for an image. A code takes it from the first stop that has it.

    Args:
        model: The model.
        stops: Codes (Z,) and images (1, C, H, W).
        values: Values of the conditions of each stop by name, without None.
        extrapolate: Whether to accept numbers beyond the range of the training data.

    Raises:
        UsageError: If a value does not fit the model, or no stop has a class that must be known.
    """
    spec, rows = model.spec, []
    must_be_known = not all(condition.optional for condition in spec.conditions)
    for stop, own in zip(stops, values, strict=True):
        if stop.ndim > 1:
            rows.append(explain(model, stop, dict(own), extrapolate=extrapolate))
        else:
            is_missing = must_be_known and not own
            rows.append(None if is_missing else condition_rows(spec, 1, values=own, extrapolate=extrapolate))
    known = [row for row in rows if row is not None]
    if not spec.conditions or not known:
        return condition_rows(spec, len(stops))  # None, or an error about the missing class
    shared = reduce(partial(fill_unknown, spec.conditions), known)
    for i, (stop, own) in enumerate(zip(stops, values, strict=True)):
        if stop.ndim == 1:
            category = single_category(spec.conditions)
            if category is None:
                rows[i] = replace_values(spec, shared, own, count=1, extrapolate=extrapolate)
            elif not own:
                rows[i] = shared
    return np.concatenate([row for row in rows if row is not None])


def _split(spec: Spec, values: Values, label_index: Indices) -> list[dict[str, Any]]:
    """Return the values at both ends.

    Raises:
        UsageError: If there are neither one nor two values of a condition.
    """
    ends: list[dict[str, Any]] = [{}, {}]
    if label_index is not None and (category := single_category(spec.conditions)):
        indices = label_indices(spec, None, label_index, 2, "ends")
        assert indices is not None
        values = {category.name: [category.values[index] for index in indices]}
    for condition in spec.conditions:
        value = values.get(condition.name)
        if value is None:
            continue
        pair = value if is_per_image(condition, value) else [value] * 2
        if len(pair) != 2:
            what = "labels" if single_category(spec.conditions) else f"values of {condition.name}"
            raise UsageError(f"{len(pair)} {what} for 2 ends: give one, or one for each end")
        for end, item in zip(ends, pair, strict=True):
            end.update({} if item is None else {condition.name: item})
    return ends


def _code(model: "Model", stop: np.ndarray, row: np.ndarray | None) -> np.ndarray:
    """Return the code (Z,) of a stop."""
    return stop if stop.ndim == 1 else model.encode_rows(stop, row).mean[0]
