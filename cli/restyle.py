"""The command `cvae restyle`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.api import image_results, reconstruction_results
from cvae.cli import _completion, _shared


def restyle(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE", help="Image files, which are scaled and cropped to the model's input size."),
    ],
    model: _shared.ModelOption = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="New class, by name; may be repeated. [default: every class, for a model without other conditions]",
            autocompletion=_completion.labels,
        ),
    ] = None,
    to_index: Annotated[
        list[str] | None, typer.Option(metavar="N", help="New class, by index from 0; may be repeated.")
    ] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Known value of a condition of the original images, such as age=40; may be repeated. For a value of "
            "each image, write age=40,35. [default: inferred from the images]",
            autocompletion=_completion.conditions,
        ),
    ] = None,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME=VALUE",
            help="New value of a condition, such as smiling=yes. For several values, write age=20,40, or repeat the "
            "flag.",
            autocompletion=_completion.conditions,
        ),
    ] = None,
    extrapolate: _shared.Extrapolate = False,
    out: _shared.Out = Path("restyled.png"),
    scale: _shared.Scale = None,
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Change the class or other conditions of images, and keep their style.

    The output image has one row of originals, then one row per new class or combination of values. The conditions that
    do not change are inferred from the images, and printed, unless --known sets them.

    Examples:
      cvae restyle three.png
      cvae restyle three.png --digit 3 --to 7 --to 8
      cvae restyle photo.png --condition smiling=yes --model runs/faces
      cvae restyle photo.png --known age=40 --condition age=20,60 --model runs/faces
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
        note=_shared.echo,
    )
    _shared.save_image(result, out, scale)
    text = f"{out} ({len(images)} x {len(result.report['to'])} images)"
    _shared.report(json, {"out": str(out), **result.report}, text)
