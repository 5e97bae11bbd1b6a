"""The command `cvae reconstruct`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.api import image_results, reconstruction_results
from cvae.cli import _shared


def reconstruct(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE", help="Image files, which are scaled and cropped to the model's input size."),
    ],
    model: _shared.ModelOption = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    conditions: _shared.ConditionValues = None,
    extrapolate: _shared.Extrapolate = False,
    out: _shared.Out = Path("reconstruction.png"),
    scale: _shared.Scale = None,
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Encode and decode images.

    The output image shows the originals above their reconstructions. Conditions that are not set are inferred.

    Examples:
      cvae reconstruct seven.png --digit 7
      cvae reconstruct photo.png --condition age=40 --model runs/faces
      cvae reconstruct photos/*.png --model runs/mine --out pairs.png
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
        note=_shared.echo,
    )
    _shared.save_image(result, out, scale)
    mse = result.report["mean_squared_error"]
    text = f"{out} (mean squared error {sum(mse) / len(mse):.4f})"
    _shared.report(json, {"out": str(out), **result.report}, text)
