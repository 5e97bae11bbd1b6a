"""Interpolation between two codes, and between the conditions of both ends."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cvae.conditions import single_category
from cvae.errors import UsageError
from cvae.imaging.interpolation import lerp, slerp
from cvae.runtime.arguments import Indices, check_array, check_count, check_memory
from cvae.runtime.array import Images, as_images
from cvae.runtime.conditions import Values, condition_rows, interpolate_rows
from cvae.runtime.inputs import ImagesLike, to_batch

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
    spec = model.spec
    steps = check_count("steps", steps, minimum=2)
    check_memory(spec, "steps", steps, "take fewer steps")
    if mode not in ("slerp", "lerp"):
        raise UsageError(f"mode {mode!r} is neither 'slerp' nor 'lerp'")
    start, end = _read_end(model, a), _read_end(model, b)
    rows = None
    if single_category(spec.conditions) and not values and label_index is None:
        rows = _explain_ends(model, start, end)
    if rows is None:
        rows = condition_rows(spec, 2, None, label_index, values, extrapolate=extrapolate, what="ends")
    first, last = (None, None) if rows is None else (rows[:1], rows[1:])
    positions = np.linspace(0, 1, steps, dtype=np.float32)[:, None]  # (steps, 1)
    codes = {"slerp": slerp, "lerp": lerp}[mode](_code(model, start, first), _code(model, end, last), positions)
    if first is None or last is None:
        images = model.decode_rows(codes, None)
    else:
        rows = interpolate_rows(spec.conditions, first, last, positions)
        end_rows = interpolate_rows(spec.conditions, last, first, 1 - positions)
        images = model.decode_rows(codes, rows)  # (steps, C, H, W)
        if not np.allclose(rows, end_rows):  # a condition other than a number differs
            weight = positions[:, :, None, None]  # (steps, 1) -> (steps, 1, 1, 1)
            images = as_images((1 - weight) * images + weight * model.decode_rows(codes, end_rows))
    images.columns = len(images)  # one row
    return images


def _read_end(model: "Model", end: int | ImagesLike) -> np.ndarray:
    """Return the code (Z,) or the image (1, C, H, W) of an end of an interpolation."""
    if isinstance(end, int | np.integer):
        return model.noise(1, int(end))[0]
    if np.ndim(end) == 1:  # type: ignore[arg-type]
        return check_array(np.asarray(end)[None], (model.spec.latent_dim,), "codes")[0]
    batch = to_batch(end, model.spec.image_shape)
    if len(batch) > 1:
        raise UsageError(f"{len(batch)} images are given as one end of an interpolation; give one image")
    return batch


def _explain_ends(model: "Model", start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """Return the class indices (2,) that explain the images best; a code has the class of the other end."""
    if start.ndim == 1 and end.ndim == 1:
        return None
    first, last = (None if stop.ndim == 1 else model.nearest_label(stop) for stop in (start, end))
    known = last if first is None else first
    assert known is not None
    return np.concatenate([known if first is None else first, known if last is None else last])


def _code(model: "Model", end: np.ndarray, row: Any) -> np.ndarray:
    """Return the code (Z,) of an end of an interpolation."""
    return end if end.ndim == 1 else model.encode_rows(end, row).mean[0]
