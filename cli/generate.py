"""The command `cvae generate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvae.api import arguments
from cvae.cli import _shared
from cvae.config import OUTPUT

if TYPE_CHECKING:
    from cvae.runtime import Model

MAX_GRID_IMAGES = 10_000
"""Maximum number of images in a grid."""


def generate(
    model: _shared.ModelName = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            metavar="N",
            help="Number of images, per class if no label is given. [default: 1; --grid: 8, or 64 without classes]",
        ),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Make a grid with one row of images per class.")] = False,
    seed: _shared.Seed = None,
    temperature: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="X",
            help="Scale of the noise: below 1 for more typical images, above 1 for more varied images.",
        ),
    ] = 1.0,
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="File or folder to write: an image, an array (.npy, .npz), or a folder of PNG files.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("generated.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Generate images.

    They are written as a grid in one file, as an array (.npy, .npz) or as a folder of PNG files.

    Examples:
      cvae generate --digit 7 --out seven.png
      cvae generate runs/mine --grid -n 8 --seed 0
      cvae generate mnist-resnet-flow -n 10000 --out images.npy
    """
    from cvae import imaging
    from cvae.errors import UsageError
    from cvae.runtime import bulk

    decoder = arguments.open_model(model, device, note=_shared.echo)
    classes = decoder.spec.classes
    class_index = arguments.choose_class(decoder.spec, label=label, digit=digit, label_index=label_index)
    name = None if class_index is None or classes is None else classes[class_index]
    if out.suffix.lower() in bulk.SUFFIXES:
        _generate_many(decoder, n or 1, out, class_index, name, seed, temperature, grid=grid, json=json)
        return
    if grid and class_index is not None:
        raise UsageError(f"--grid shows all classes, but the label flags choose only {name!r}; remove one of the flags")
    rows = range(len(classes)) if classes is not None and class_index is None else None
    per_row = n or (1 if not grid else 8 if rows else 64)
    count = per_row if rows is None else per_row * len(rows)
    if count > MAX_GRID_IMAGES:
        raise UsageError(
            f"{count:,} images are too many for a grid: at most {MAX_GRID_IMAGES:,} fit; use --out images.npy for more"
        )
    labels: list[int] | None = None if class_index is None else [class_index] * count
    columns = None
    if rows is not None:
        labels = [index for index in rows for _ in range(per_row)]
        columns = per_row if grid or per_row > 1 else None
        if not grid:
            _shared.echo(f"no label given: generating {per_row} of each of the {len(rows)} classes")
    seed = arguments.choose_seed(seed)
    images = decoder.generate(count, seed=seed, temperature=temperature, label_index=labels)
    _shared.save_image(imaging.grid(images, columns), out)
    names = None if labels is None or classes is None else [classes[index] for index in labels]
    result = {"out": str(out), "model": decoder.spec.name, "images": count, "labels": names, "seed": seed}
    _shared.report(json, result, f"{out} ({count} image{'s' * (count > 1)}, seed {seed})")


def _generate_many(
    decoder: "Model",
    n: int,
    out: Path,
    index: int | None,
    name: str | None,
    seed: int | None,
    temperature: float,
    *,
    grid: bool,
    json: bool,
) -> None:
    """Write single images to an array or a folder. Without a label, the images cycle through the classes."""
    from functools import partial

    from cvae.errors import UsageError
    from cvae.runtime import bulk

    if grid:
        raise UsageError(
            f"--grid makes one image file, but {str(out)!r} holds single images; remove --grid, or write an image file"
        )
    with _shared.show_progress() as progress:
        files, seed = bulk.generate(
            decoder, n, out, label_index=index, seed=seed, temperature=temperature, progress=partial(progress, "images")
        )
    names = [str(file) for file in files]
    result = {"out": names, "model": decoder.spec.name, "images": n, "label": name, "seed": seed}
    summary = names[0] + f" and {len(names) - 1} more" * (len(names) > 1)
    _shared.report(json, result, f"{summary} ({n:,} image{'s' * (n > 1)}, seed {seed})")
