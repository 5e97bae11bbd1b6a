"""Conversion of one or more images, of any supported type, to the array that a model takes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from cvae import imaging
from cvae.errors import UsageError, one_line

ImagesLike = str | Path | Image.Image | ArrayLike | Sequence[str | Path | Image.Image | ArrayLike]
"""Image file, Pillow image or array, or a list of them.

Files and Pillow images are scaled to cover the model's input size, and cropped. An array must have exactly this size:
(C, H, W), (H, W, C) or, for grey images, (H, W); a batch of images has a leading axis N. A shape that fits two of these
layouts is read as (C, H, W). Values are uint8 in 0..255, or floats in [0, 1]. Torch tensors on the CPU count as arrays.
"""


def to_batch(
    images: ImagesLike, image_shape: tuple[int, int, int], note: Callable[[str], None] | None = None
) -> np.ndarray:
    """Convert images to an array (N, C, H, W) float32 in [0, 1].

    Args:
        images: One or more images.
        image_shape: (C, H, W) of the model.
        note: Called with a message about image files that are scaled, cropped or converted to grey.

    Raises:
        UsageError: If an array does not have the model's shape, or its values are not in range.
        CvaeError: If a file can't be read as an image.
    """
    if not isinstance(images, list | tuple):
        return _convert(images, image_shape, note)
    if all(isinstance(image, str | os.PathLike) for image in images) and len(images) > 1:
        from cvae.imaging.stream import read_set  # not at the top, because it imports modules for processes

        batch, message = read_set(images, image_shape, note=note)
        if message and note is not None:
            note(message)
        return batch
    if any(_is_image(image) for image in images):
        return np.concatenate([_convert(image, image_shape, note) for image in images])
    return _convert(images, image_shape, note)  # nested lists of numbers


def _is_image(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | Image.Image) or hasattr(value, "__array__")


def _convert(image: Any, image_shape: tuple[int, int, int], note: Callable[[str], None] | None) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        return imaging.read(Path(image), image_shape, note=note)[None]
    if isinstance(image, Image.Image):
        return imaging.convert(image, image_shape)[None]
    try:
        values = np.asarray(image)
    except Exception as error:  # a tensor on a GPU or with a gradient, or lists of different lengths
        raise UsageError(f"images can't be converted to an array: {one_line(error)}") from error
    return _scale(_arrange(values, image_shape))


def _arrange(values: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Return an array of any supported layout as (N, C, H, W)."""
    channels, height, width = image_shape
    if values.size and values.ndim in (3, 4) and values.shape[-3:] == image_shape:
        return values.reshape(-1, *image_shape)
    if values.size and values.ndim in (3, 4) and values.shape[-3:] == (height, width, channels):
        return np.moveaxis(values.reshape(-1, height, width, channels), 3, 1)
    if values.size and channels == 1 and values.ndim in (2, 3) and values.shape[-2:] == (height, width):
        return values.reshape(-1, *image_shape)
    raise UsageError(
        f"images: the shape is {values.shape}, but should be (N, {channels}, {height}, {width}) or that of one image; "
        "scale the array, or give paths or Pillow images, which are scaled and cropped to fit"
    )


def _scale(values: np.ndarray) -> np.ndarray:
    """Convert uint8 in 0..255, or numbers in [0, 1], to contiguous float32 in [0, 1]."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values, np.float32) / 255
    if values.dtype.kind not in "biuf":
        raise UsageError(f"images: the values have the type {values.dtype}; use uint8 in 0..255, or floats in 0..1")
    if not np.isfinite(values).all():
        raise UsageError("images: some values are not finite")
    if values.min() < 0 or values.max() > 1:
        raise UsageError(f"images have values in {values.min():g}..{values.max():g}; scale them to 0..1, or use uint8")
    return np.ascontiguousarray(values, np.float32)
