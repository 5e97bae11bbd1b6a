"""Functions that make images from noise: generate and interpolate.

Importing this module is cheap: each function imports what it needs when it is called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from cvae.api import image_results, interpolation_results
from cvae.api.classes import Indices, Labels
from cvae.api.conditions import Conditions
from cvae.api.image_results import ModelLike, Progress

if TYPE_CHECKING:
    from cvae.api.arguments import Note
    from cvae.runtime.array import Images
    from cvae.runtime.inputs import ImagesLike


@overload
def generate(
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    n: int | None = None,
    grid: bool = False,
    seed: int | None = None,
    temperature: float = 1.0,
    out: None = None,
    scale: int | None = None,
    device: str = "cpu",
    time_limit: float | None = None,
    progress: Progress = None,
    note: "Note" = None,
) -> "Images": ...


@overload
def generate(
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    n: int | None = None,
    grid: bool = False,
    seed: int | None = None,
    temperature: float = 1.0,
    out: str | Path,
    scale: int | None = None,
    device: str = "cpu",
    time_limit: float | None = None,
    progress: Progress = None,
    note: "Note" = None,
) -> list[Path]: ...


def generate(
    model: ModelLike = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    n: int | None = None,
    grid: bool = False,
    seed: int | None = None,
    temperature: float = 1.0,
    out: str | Path | None = None,
    scale: int | None = None,
    device: str = "cpu",
    time_limit: float | None = None,
    progress: Progress = None,
    note: "Note" = None,
) -> "Images | list[Path]":
    """Generate images, like `cvae generate`.

    Args:
        model: Run folder, exported file, name of a run or zoo model, or an open model; by default the newest run, else
            the zoo's default model.
        label: Class or classes, by name: `7`, `[3, 4]`, `"3,4"` or `"0-9"`; by default all classes of the model.
        digit: Same as `label`, for models of digits.
        label_index: Class or classes, by index from 0.
        conditions: Values of conditions by name: `{"age": 40, "smiling": True}`. A list holds several values; with
            lists for several conditions, images of all combinations are generated. None stands for an unknown value,
            as does a condition that is left out.
        extrapolate: Accept numbers beyond the range of the training data.
        n: Number of images per class or combination of values: 1 by default, or 8 with `grid` (64 if there is only one
            row). If `out` is an array or a folder and no class is chosen, it is the total number of images.
        grid: Make a grid with one row of images per class or combination of values.
        seed: Seed of the noise; random by default.
        temperature: Scale of the noise: below 1 for more typical images, above 1 for more varied images.
        out: File or folder to write: a grid of the images (.png, .jpg, ...), an array (.npy, .npz), or a folder of PNG
            files. An array or a folder from an earlier call that was interrupted or had a smaller n is continued.
        scale: Factor by which a written grid is enlarged; by default, a small grid is enlarged to be visible.
        device: Device: cpu, cuda, auto or an onnxruntime provider.
        time_limit: Maximum number of seconds for loading the model, and for the images of one chunk of a written array
            or folder, or all images otherwise. Set it for untrusted files; None for no limit.
        progress: Function that is called with ("images", done, total) while an array or a folder is written.
        note: Function that is called with each message for the user.

    Returns:
        Images (N, C, H, W) float32 in [0, 1], one class or combination of values after the other, with the attributes
        `labels` and `seed`; or the paths of the written files, if `out` is given.

    Raises:
        UsageError: If an argument does not fit the model.
        CvaeError: If the model can't be loaded, or a file can't be written.
    """
    options: dict[str, Any] = {
        "label": label,
        "digit": digit,
        "label_index": label_index,
        "conditions": conditions,
        "extrapolate": extrapolate,
        "n": n,
        "grid": grid,
        "seed": seed,
        "temperature": temperature,
        "device": device,
        "time_limit": time_limit,
        "note": note,
    }
    if out is not None and image_results.is_bulk(out):
        return image_results.write_images(model, Path(out), progress=progress, **options)[0]
    image_results.check_image_path(out)
    return image_results.make_images(model, **options).deliver(out, scale)


@overload
def interpolate(
    model: ModelLike = None,
    *,
    start: "int | ImagesLike" = 0,
    end: "int | ImagesLike | None" = None,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    to_label: "Labels | None" = None,
    to_label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    to_conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    via: "Sequence[int | ImagesLike] | None" = None,
    steps: int = 10,
    mode: str = "slerp",
    fps: float = 12.0,
    out: None = None,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> "Images": ...


@overload
def interpolate(
    model: ModelLike = None,
    *,
    start: "int | ImagesLike" = 0,
    end: "int | ImagesLike | None" = None,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    to_label: "Labels | None" = None,
    to_label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    to_conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    via: "Sequence[int | ImagesLike] | None" = None,
    steps: int = 10,
    mode: str = "slerp",
    fps: float = 12.0,
    out: str | Path,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> list[Path]: ...


def interpolate(
    model: ModelLike = None,
    *,
    start: "int | ImagesLike" = 0,
    end: "int | ImagesLike | None" = None,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    to_label: "Labels | None" = None,
    to_label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    to_conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    via: "Sequence[int | ImagesLike] | None" = None,
    steps: int = 10,
    mode: str = "slerp",
    fps: float = 12.0,
    out: str | Path | None = None,
    scale: int | None = None,
    device: str = "cpu",
    note: "Note" = None,
) -> "Images | list[Path]":
    """Interpolate between two images, like `cvae interpolate`.

    Args:
        model: Run folder, exported file, name of a run or zoo model, or an open model; by default the newest run, else
            the zoo's default model.
        start: First image: the seed (int) of a random one, an image file, a Pillow image or an array.
        end: Last image, like `start`; None for the seed 1 or, if a label or condition changes, for
            `start`.
        label: Class, by name. By default, an image has the class that explains it best, and an interpolation between
            seeds has one row of images per class.
        digit: Same as `label`, for models of digits.
        label_index: Class, by index from 0.
        to_label: Class at the end, by name; by default the class at the start.
        to_label_index: Class at the end, by index from 0.
        conditions: Values of conditions by name: `{"age": 20}`. Those that are left out are inferred from an image, and
            a seed has the values of the image at the other end, or unknown values.
        to_conditions: Values at the end, by name: `{"age": 70}`; those at the start by default. A number passes through
            all values in between. Between other values, images are blended.
        extrapolate: Accept numbers beyond the range of the training data.
        via: Stops between the first and the last image, each like `start`.
        steps: Number of images from one stop to the next, including both stops.
        mode: Path between latent codes: "slerp" (a great circle) or "lerp" (a straight line).
        fps: Frames per second of an animation.
        out: File to write: a strip (.png, .jpg, ...), or an animation that runs back and forth (.gif).
        scale: Factor by which the file is enlarged; by default, a small image is enlarged to be visible.
        device: Device: cpu, cuda, auto or an onnxruntime provider.
        note: Function that is called with each message for the user.

    Returns:
        Images (N, C, H, W) float32 in [0, 1], one row after the other; or the path of the written file, if `out` is
        given.

    Raises:
        UsageError: If an argument does not fit the model.
        CvaeError: If the model or an image can't be read, or the file can't be written.
    """
    image_results.check_image_path(out)
    result = interpolation_results.make_interpolation(
        model,
        start=start,
        end=end,
        label=label,
        digit=digit,
        label_index=label_index,
        to_label=to_label,
        to_label_index=to_label_index,
        conditions=conditions,
        to_conditions=to_conditions,
        extrapolate=extrapolate,
        via=via,
        steps=steps,
        mode=mode,
        device=device,
        note=note,
    )
    return result.deliver(out, scale, fps)
