"""Images that functions and commands make: their arrangement in a file, and the report that the command prints.

Importing this module is cheap: each function imports what it needs when it is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cvae.api import arguments
from cvae.api.classes import Indices, Labels, choose_class, choose_classes, choose_image_classes
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from cvae.api.arguments import Note
    from cvae.runtime import Model
    from cvae.runtime.array import Images
    from cvae.runtime.inputs import ImagesLike

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


def make_images(
    model: ModelLike,
    *,
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    n: int | None,
    grid: bool,
    seed: int | None,
    temperature: float,
    device: str,
    time_limit: float | None,
    note: "Note",
) -> Result:
    """Generate images for a grid, with a row for each class if there are several images per class."""
    decoder = arguments.open_model(model, device, note, time_limit)
    classes = decoder.classes
    indices = choose_classes(decoder.spec, label=label, digit=digit, label_index=label_index)
    if grid and classes is not None and indices is not None and len(indices) == 1:
        name = classes[indices[0]]
        raise UsageError(
            f"--grid shows several classes, but the label flags choose only {name!r}; remove --grid or these flags"
        )
    rows = None
    if classes is not None:
        rows = list(range(len(classes))) if indices is None else indices
    is_default = n is None and indices is None
    n = n or (1 if not grid else 64 if rows is None else 8)
    count = n if rows is None else n * len(rows)
    if is_default and (size := 4 * count * prod(decoder.image_shape)) > MAX_DEFAULT_BYTES:
        fix = "choose their number with -n" if rows is None else "choose classes with --label or --label-index"
        raise UsageError(f"{count:,} images of shape {decoder.image_shape} take {size / 2**20:,.0f} MB; {fix}")
    if count > MAX_GRID_IMAGES:
        raise UsageError(
            f"{count:,} images are too many for a grid: at most {MAX_GRID_IMAGES:,} fit; use --out images.npy for more"
        )
    labels = None if rows is None else [index for index in rows for _ in range(n)]
    columns = n if rows is not None and len(rows) > 1 and (grid or n > 1) else None
    if rows is not None and indices is None and not grid:
        arguments.send(note, f"no label given: generating {n} per class, for all {len(rows)} classes")
    images = decoder.generate(count, seed=arguments.choose_seed(seed), temperature=temperature, label_index=labels)
    images.columns = columns
    report = {"model": decoder.spec.name, "images": count, "labels": images.labels, "seed": images.seed}
    return Result(images=images, draw=images.to_pil, report=report)


def write_images(
    model: ModelLike,
    out: Path,
    *,
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    n: int | None,
    grid: bool,
    seed: int | None,
    temperature: float,
    device: str,
    progress: Progress,
    time_limit: float | None,
    note: "Note",
) -> tuple[list[Path], dict[str, Any]]:
    """Write single images, which cycle through the classes, and return the paths and the report of the command."""
    from cvae.runtime import bulk

    decoder = arguments.open_model(model, device, note, time_limit)
    indices = choose_classes(decoder.spec, label=label, digit=digit, label_index=label_index)
    if grid:
        raise UsageError(
            f"--grid makes one image file, but {str(out)!r} holds single images; remove --grid, or write an image file"
        )
    files, seed = bulk.generate(
        decoder,
        n or 1,
        out,
        label_index=indices,
        seed=seed,
        temperature=temperature,
        progress=None if progress is None else partial(progress, "images"),
    )
    classes = decoder.classes
    names = classes if classes is None or indices is None else [classes[index] for index in indices]
    report = {
        "out": [str(file) for file in files],
        "model": decoder.spec.name,
        "images": (n or 1) * len(indices or [None]),
        "labels": None if names is None else list(names),
        "seed": seed,
    }
    return files, report


def make_interpolation(
    model: ModelLike,
    *,
    start: "int | ImagesLike",
    end: "int | ImagesLike",
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    to_label: Labels | None,
    to_label_index: Indices | None,
    via: "Sequence[int | ImagesLike] | None",
    steps: int,
    mode: str,
    device: str,
    note: "Note",
) -> Result:
    """Interpolate from `start` through the stops in `via` to `end`, in one row or in a row for each class."""
    import numpy as np

    from cvae import imaging
    from cvae.runtime.array import as_images

    inputs = [start, *(via or []), end]
    for stop in inputs:
        if not isinstance(stop, int):
            arguments.check_image_files(stop)
    decoder = arguments.open_model(model, device, note)
    names = [str(stop) if isinstance(stop, int | str | Path) else f"image {i}" for i, stop in enumerate(inputs, 1)]
    stops = [stop if isinstance(stop, int) else arguments.read_image(stop, decoder, note) for stop in inputs]
    first = choose_class(decoder.spec, label=label, digit=digit, label_index=label_index)
    last = choose_class(decoder.spec, to_label=to_label, to_label_index=to_label_index)
    last = first if last is None else last
    row_labels = _choose_row_labels(decoder, stops, names, first, last, note)
    rows = [_interpolate_row(decoder, stops, labels, steps, mode) for labels in row_labels]
    count = len(rows[0])
    images = as_images(np.concatenate(rows), _name_images(decoder, row_labels, count), columns=count)
    is_loop = len(stops) > 2 and names[0] == names[-1] and first == last

    def animate() -> "list[Image.Image]":
        frames = [imaging.grid(np.stack(frame), len(rows)) for frame in zip(*rows, strict=True)]
        return frames[:-1] if is_loop else [*frames, *frames[-2:0:-1]]

    classes = decoder.classes
    report = {
        "model": decoder.spec.name,
        "steps": count,
        "stops": names,
        "labels": None if classes is None else [[classes[i] for i in labels if i is not None] for labels in row_labels],
        "mode": mode,
    }
    return Result(images=images, draw=images.to_pil, animate=animate, report=report)


def _interpolate_row(
    decoder: "Model", stops: "list[int | np.ndarray]", labels: Sequence[int | None], steps: int, mode: str
) -> "np.ndarray":
    """Return the images (N, C, H, W) on the path through all stops; each stop appears once."""
    import numpy as np

    segments = []
    for (a, b), (first, last) in zip(pairwise(stops), pairwise(labels), strict=True):
        ends = None if first is None or last is None else (first, last)
        segments.append(decoder.interpolate(a, b, steps, mode=mode, label_index=ends))
    return np.concatenate([segments[0], *(segment[1:] for segment in segments[1:])])


def _choose_row_labels(
    decoder: "Model",
    stops: "list[int | np.ndarray]",
    names: list[str],
    first: int | None,
    last: int | None,
    note: "Note",
) -> list[list[int | None]]:
    """Return, for each row of images, the class index at each stop, or None if the model has no labels."""
    if decoder.classes is None:
        return [[None] * len(stops)]
    if first is None and last is None and all(isinstance(stop, int) for stop in stops):
        arguments.send(note, f"no label given: one row per class, for all {len(decoder.classes)} classes")
        return [[index] * len(stops) for index in range(len(decoder.classes))]
    labels: list[int | None] = []
    for stop, name, index in zip(stops, names, [first] * (len(stops) - 1) + [last], strict=True):
        if isinstance(stop, int):  # a seed takes the label of the other end
            index = last if index is None else index
            if index is None:
                raise UsageError(
                    f"seed {name} has no label of its own; set the label of both ends with --label, or use --label and "
                    "--to-label"
                )
            labels.append(index)
        else:
            labels += arguments.choose_labels(decoder, stop[None], index, [name], note) or []
    return [labels]


def _name_images(decoder: "Model", row_labels: list[list[int | None]], count: int) -> list[str] | None:
    """Return the class name of each image, or None if a row passes from one class to another."""
    names = []
    for labels in row_labels:
        if decoder.classes is None or labels[0] is None or len(set(labels)) > 1:
            return None
        names += [decoder.classes[labels[0]]] * count
    return names


def make_reconstructions(
    images: "ImagesLike",
    model: ModelLike,
    *,
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    device: str,
    note: "Note",
) -> Result:
    """Reconstruct images, and arrange them as rows of originals above their reconstructions."""
    from cvae import imaging

    arguments.check_image_files(images)
    autoencoder = arguments.open_model(model, device, note)
    originals, labels = _read_labelled(images, autoencoder, note, label=label, digit=digit, label_index=label_index)
    reconstructions = autoencoder.reconstruct(originals, label_index=labels)
    mse = ((reconstructions - originals) ** 2).mean(axis=(1, 2, 3))  # (N, C, H, W) -> (N,)
    report = {
        "model": autoencoder.spec.name,
        "labels": reconstructions.labels,
        "mean_squared_error": [round(float(value), 6) for value in mse],
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
    device: str,
    note: "Note",
) -> Result:
    """Restyle images, and arrange them as a row of originals and a row for each new class."""
    import numpy as np

    from cvae import imaging
    from cvae.runtime.array import as_images

    arguments.check_image_files(images)
    autoencoder = arguments.open_model(model, device, note)
    targets = choose_classes(autoencoder.spec, to=to, to_index=to_index)
    choose_classes(autoencoder.spec, label=label, digit=digit, label_index=label_index)
    if autoencoder.classes is None:
        raise UsageError(f"{autoencoder.spec.name!r} was trained without labels, so there is no class to change")
    targets = list(range(len(autoencoder.classes))) if targets is None else targets
    originals, labels = _read_labelled(images, autoencoder, note, label=label, digit=digit, label_index=label_index)
    rows = [autoencoder.restyle(originals, label_index=labels, to_index=target) for target in targets]
    names = [autoencoder.classes[index] for index in targets]
    columns = len(originals) if len(originals) > 1 else len(targets)  # a single image gives one row
    restyled = as_images(np.concatenate(rows), [name for name in names for _ in originals], columns=columns)
    report = {
        "model": autoencoder.spec.name,
        "labels": [autoencoder.classes[index] for index in labels or []],
        "to": names,
    }

    def draw() -> "Image.Image":
        if len(originals) == 1:  # a single image and its variants fit into one row
            return imaging.strip(np.concatenate([originals, *rows]))
        return imaging.stack([originals, *rows])

    return Result(images=restyled, draw=draw, report=report)


def _read_labelled(
    images: "ImagesLike", model: "Model", note: "Note", **flags: Labels | Indices | None
) -> "tuple[np.ndarray, list[int] | None]":
    """Read images (N, C, H, W), and choose the class index of each image."""
    choose_classes(model.spec, **flags)  # raises an error about a flag before images are read
    originals = arguments.read_images(images, model, note)
    single = images[0] if isinstance(images, list | tuple) and len(images) == 1 else images
    names = [str(single) if isinstance(single, str | Path) else "image"]
    indices = choose_image_classes(model.spec, len(originals), **flags)
    return originals, arguments.choose_labels(model, originals, indices, names, note)
