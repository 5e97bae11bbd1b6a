"""The command `cvae generate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.api import image_results
from cvae.cli import _shared
from cvae.data_config import HARDWARE, OUTPUT


@_shared.add_model_option()
def generate(
    ctx: typer.Context,
    model: _shared.ModelName = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    conditions: _shared.ConditionValues = None,
    extrapolate: _shared.Extrapolate = False,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            metavar="N",
            help="Number of images per class or combination of values, or in total if --out is an array or a folder "
            "and no label is set. [default: 1; --grid: 8, or 64 for one row]",
        ),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Make a grid with one row of images per class or combination of values.")
    ] = False,
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
    scale: _shared.Scale = None,
    device: _shared.Device = "cpu",
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Time limit for an untrusted file: for loading it, and then for the images.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    json: _shared.Json = False,
) -> None:
    """Generate images.

    The images are written as a grid in one file, as an array (.npy, .npz) or as a folder of PNG files. If several
    conditions have several values, images of all combinations are generated. A condition that is not set is unknown.

    Examples:
      cvae generate --digit 7 --out seven.png
      cvae generate runs/mine --grid -n 8 --seed 0
      cvae generate runs/faces --condition age=20,40,60 --condition smiling=yes -n 4
      cvae generate mnist-resnet-flow -n 10000 --out images.npy
    """
    from cvae.errors import Interrupted, count_of

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
        "note": _shared.echo,
    }
    if image_results.is_bulk(out):
        try:
            with _shared.show_progress() as progress:
                files, report = image_results.write_images(model, out, progress=progress, **options)
        except Interrupted as interruption:
            raise Interrupted(f"{interruption}: {_shared.command_line(ctx)}") from None
        name = str(files[0]) + f" and {len(files) - 1} more" * (len(files) > 1)
    else:
        image_results.check_image_path(out)
        result = image_results.make_images(model, **options)
        _shared.save_image(result, out, scale)
        report, name = {"out": str(out), **result.report}, str(out)
    _shared.report(json, report, f"{name} ({count_of(report['images'], 'image')}, seed {report['seed']})")
