"""Images that functions and commands generate: their arrangement in a file, and the report that the command prints.

Importing this module is cheap: each function imports what it needs when it is called.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cvae.api import arguments
from cvae.api.classes import Indices, Labels
from cvae.api.conditions import Conditions, choose_values, combine, to_columns
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from cvae.api.arguments import Note
    from cvae.runtime import Model
    from cvae.runtime.array import Images
    from cvae.spec import Spec

ModelLike: TypeAlias = "str | Path | Model | None"
"""Run folder, exported file, name of a run or zoo model, open model, or None (newest run, or else default model)."""

Progress: TypeAlias = Callable[[str, int, int], None] | None
"""Function that is called with the name of a stage, the number of finished steps, and the total number."""

MAX_GRID_IMAGES = 10_000
"""Maximum number of images in a grid."""

MAX_DEFAULT_BYTES = 2**27
"""Maximum size of the images that are generated if the user chooses neither their number nor their classes."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Images that a function has made.

    Attributes:
        images: images (N, C, H, W).
        draw: function that arranges them in one image.
        animate: function that arranges them as frames of an animation, or None.
        report: values that the command prints as JSON.
    """

    images: "Images"
    draw: "Callable[[], Image.Image]"
    animate: "Callable[[], list[Image.Image]] | None" = None
    report: dict[str, Any]

    def save(self, out: Path, scale: int | None = None, fps: float = 12.0) -> "Image.Image | None":
        """Arrange the images in one image, enlarge it by `scale`, save it, and return it.

        If there is an animation and `out` is a .gif file, save the animation instead, and return None.
        """
        from cvae import imaging

        if self.animate is not None and out.suffix.lower() == ".gif":
            imaging.save_gif(self.animate(), out, fps, scale)
            return None
        image = imaging.enlarge(self.draw(), scale)
        imaging.save(image, out)
        return image

    def deliver(self, out: str | Path | None, scale: int | None, fps: float = 12.0) -> "Images | list[Path]":
        """Return the images or, if `out` is given, save them and return the path."""
        if out is None:
            return self.images
        self.save(Path(out), scale, fps)
        return [Path(out)]


def is_bulk(out: str | Path) -> bool:
    """Return whether `out` is an array or a folder of single images, rather than one image."""
    from cvae.runtime.image_writers import WRITERS

    return Path(out).suffix.lower() in WRITERS


def check_image_path(out: str | Path | None) -> None:
    """Check, before images are made, that the extension of `out` is that of a supported format.

    Raises:
        UsageError: If the format is unknown.
    """
    from cvae import imaging

    if out is not None:
        imaging.check_extension(out)


def describe_conditions(spec: "Spec", rows: "np.ndarray | None") -> dict[str, Any]:
    """Return the conditions of images for a report, or nothing for a model without conditions other than a class."""
    from cvae.runtime.conditions import describe_rows

    return {} if rows is None or spec.classes is not None else {"conditions": describe_rows(spec.conditions, rows)}


def make_images(
    model: ModelLike,
    *,
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    conditions: Conditions | None,
    extrapolate: bool,
    n: int | None,
    grid: bool,
    seed: int | None,
    temperature: float,
    device: str,
    time_limit: float | None,
    note: "Note",
) -> Result:
    """Generate images for a grid, with a row for each combination of values if there are several images of each."""
    from cvae.runtime.conditions import condition_rows

    decoder = arguments.open_model(model, device, note, time_limit)
    spec = decoder.spec
    values = choose_values(spec, conditions, extrapolate=extrapolate, label=label, digit=digit, label_index=label_index)
    is_default = n is None and not values
    if grid and spec.classes is not None and [len(items) for items in values.values()] == [1]:
        name = next(iter(values.values()))[0]
        raise UsageError(
            f"--grid shows several classes, but the label flags choose only {name!r}; remove --grid or these flags"
        )
    if not values and spec.classes is not None and spec.category is not None:
        if not grid:
            arguments.send(note, f"no label given: generating {n or 1} per class, for all {len(spec.classes)} classes")
        values = {spec.category.name: list(spec.classes)}
    elif not values and spec.conditions:
        arguments.send(note, "no condition given: every condition is unknown")
    combinations = combine(values)
    n = n or (1 if not grid else 64 if len(combinations) == 1 and spec.classes is None else 8)
    count = n * len(combinations)
    if is_default and (size := 4 * count * prod(decoder.image_shape)) > MAX_DEFAULT_BYTES:
        fix = "choose classes with --label or --label-index" if values else "choose their number with -n"
        raise UsageError(f"{count:,} images of shape {decoder.image_shape} take {size / 2**20:,.0f} MB; {fix}")
    if count > MAX_GRID_IMAGES:
        raise UsageError(
            f"{count:,} images are too many for a grid: at most {MAX_GRID_IMAGES:,} fit; use --out images.npy for more"
        )
    columns = to_columns(combinations, n)
    images = decoder.generate(
        count, seed=arguments.choose_seed(seed), temperature=temperature, extrapolate=extrapolate, **columns
    )
    lengths = [len(items) for items in values.values() if len(items) > 1]
    if lengths:
        images.columns = n if grid or n > 1 else lengths[-1] if len(lengths) > 1 else None
    report = {"model": spec.name, "images": count, "labels": images.labels, "seed": images.seed}
    report |= describe_conditions(spec, condition_rows(spec, count, values=columns, extrapolate=extrapolate))
    return Result(images=images, draw=images.to_pil, report=report)


def write_images(
    model: ModelLike,
    out: Path,
    *,
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    conditions: Conditions | None,
    extrapolate: bool,
    n: int | None,
    grid: bool,
    seed: int | None,
    temperature: float,
    device: str,
    progress: Progress,
    time_limit: float | None,
    note: "Note",
) -> tuple[list[Path], dict[str, Any]]:
    """Write single images, which cycle through the values, and return the paths and the report of the command."""
    from cvae.runtime import bulk
    from cvae.runtime.conditions import condition_rows

    decoder = arguments.open_model(model, device, note, time_limit)
    spec = decoder.spec
    values = choose_values(spec, conditions, extrapolate=extrapolate, label=label, digit=digit, label_index=label_index)
    if grid:
        raise UsageError(
            f"--grid makes one image file, but {str(out)!r} holds single images; remove --grid, or write an image file"
        )
    combinations = combine(values)
    columns = to_columns(combinations)
    files, seed = bulk.generate(
        decoder,
        n or 1,
        out,
        seed=seed,
        temperature=temperature,
        progress=None if progress is None else partial(progress, "images"),
        conditions=columns,
        extrapolate=extrapolate,
    )
    names = None
    if spec.classes is not None and spec.category is not None:
        names = columns.get(spec.category.name, list(spec.classes))
    report = {
        "out": [str(file) for file in files],
        "model": spec.name,
        "images": (n or 1) * len(combinations),
        "labels": names,
        "seed": seed,
    }
    if spec.classes is None:
        rows = condition_rows(spec, len(combinations), values=columns, extrapolate=extrapolate)
        report |= describe_conditions(spec, rows)
    return files, report
