"""Functions that encode images and decode them again: reconstruct and restyle.

Importing this module is cheap: each function imports what it needs when it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, overload

from cvae.api import image_results, reconstruction_results
from cvae.api.classes import Indices, Labels
from cvae.api.conditions import Conditions
from cvae.api.image_results import ModelLike

if TYPE_CHECKING:
    from cvae.api.arguments import Note
    from cvae.runtime.array import Images
    from cvae.runtime.inputs import ImagesLike


@overload
def reconstruct(
    images: "ImagesLike",
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    out: None = None,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> "Images": ...


@overload
def reconstruct(
    images: "ImagesLike",
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    out: str | Path,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> list[Path]: ...


def reconstruct(
    images: "ImagesLike",
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    out: str | Path | None = None,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> "Images | list[Path]":
    """Encode and decode images, like `cvae reconstruct`.

    Args:
        images: One or more image files, Pillow images or arrays (see `cvae.runtime.inputs.ImagesLike`).
        model: Run folder, exported file, name of a run or zoo model, or an open model; by default the newest run, else
            the zoo's default model.
        label: Class of all images, or one for each image, by name; by default the class that explains an image best.
        digit: Same as `label`, for models of digits.
        label_index: Class of all images, or one for each image, by index from 0.
        conditions: Values of conditions by name: one for all images, or a list with one for each. Those that are left
            out are inferred: an image gets the values that explain it best.
        extrapolate: Accept numbers beyond the range of the training data.
        out: Image file to write, with the originals above their reconstructions.
        scale: Factor by which the file is enlarged; by default, a small image is enlarged to be visible.
        device: Device: cpu, cuda, auto or an onnxruntime provider.
        note: Function that is called with each message for the user.

    Returns:
        Reconstructions (N, C, H, W) float32 in [0, 1], with the class names in the attribute `labels`; or the path of
        the written file, if `out` is given.

    Raises:
        UsageError: If an argument does not fit the model.
        CvaeError: If the model or an image can't be read, or the file can't be written.
    """
    image_results.check_image_path(out)
    result = reconstruction_results.make_reconstructions(
        images,
        model,
        label=label,
        digit=digit,
        label_index=label_index,
        conditions=conditions,
        extrapolate=extrapolate,
        device=device,
        note=note,
    )
    return result.deliver(out, scale)


@overload
def restyle(
    images: "ImagesLike",
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    to: "Labels | None" = None,
    to_index: "Indices | None" = None,
    known: "Conditions | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    out: None = None,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> "Images": ...


@overload
def restyle(
    images: "ImagesLike",
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    to: "Labels | None" = None,
    to_index: "Indices | None" = None,
    known: "Conditions | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    out: str | Path,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> list[Path]: ...


def restyle(
    images: "ImagesLike",
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    to: "Labels | None" = None,
    to_index: "Indices | None" = None,
    known: "Conditions | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    out: str | Path | None = None,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> "Images | list[Path]":
    """Change the class or other conditions of images and keep their style, like `cvae restyle`.

    Args:
        images: One or more image files, Pillow images or arrays (see `cvae.runtime.inputs.ImagesLike`).
        model: Run folder, exported file, name of a run or zoo model, or an open model; by default the newest run, else
            the zoo's default model.
        label: Class of all images, or one for each image, by name; by default the class that explains an image best.
        digit: Same as `label`, for models of digits.
        label_index: Class of all images, or one for each image, by index from 0.
        to: New class or classes, by name; by default all classes of a model without other conditions.
        to_index: New class or classes, by index from 0.
        known: Known values of the images' own conditions by name: one for all images, or a list with one for each.
            Those that are left out are inferred.
        conditions: New values of conditions by name: `{"smiling": True}`. A list holds several values, and all
            combinations are made. The other conditions of an image keep their values.
        extrapolate: Accept numbers beyond the range of the training data.
        out: Image file to write: a row of originals, then a row for each new class.
        scale: Factor by which the file is enlarged; by default, a small image is enlarged to be visible.
        device: Device: cpu, cuda, auto or an onnxruntime provider.
        note: Function that is called with each message for the user.

    Returns:
        Images (N, C, H, W) float32 in [0, 1], one new class or combination of values after the other, with the class
        names in the attribute `labels`; or the path of the written file, if `out` is given.

    Raises:
        UsageError: If an argument does not fit the model, or the model was trained without labels.
        CvaeError: If the model or an image can't be read, or the file can't be written.
    """
    image_results.check_image_path(out)
    result = reconstruction_results.make_restyled(
        images,
        model,
        label=label,
        digit=digit,
        label_index=label_index,
        to=to,
        to_index=to_index,
        known=known,
        conditions=conditions,
        extrapolate=extrapolate,
        device=device,
        note=note,
    )
    return result.deliver(out, scale)
