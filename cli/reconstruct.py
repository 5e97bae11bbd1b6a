"""The command `cvae reconstruct`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.api import arguments
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
    out: _shared.Out = Path("reconstruction.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Encode and decode images.

    The image file shows the originals above their reconstructions.

    Examples:
      cvae reconstruct seven.png --digit 7
      cvae reconstruct photos/*.png --model runs/mine --out pairs.png
    """
    import numpy as np

    from cvae import imaging

    autoencoder = arguments.open_model(model, device, note=_shared.echo)
    index = arguments.choose_class(autoencoder.spec, label=label, digit=digit, label_index=label_index)
    originals = arguments.read_images(images, autoencoder, note=_shared.echo)  # (N, C, H, W)
    labels = arguments.choose_labels(autoencoder, originals, index, [str(path) for path in images], note=_shared.echo)
    reconstructions = autoencoder.reconstruct(originals, label_index=labels)
    mse = ((reconstructions - originals) ** 2).mean(axis=(1, 2, 3))  # (N, C, H, W) -> (N,)
    _shared.save_image(imaging.grid(np.concatenate([originals, reconstructions]), len(images)), out)
    result = {
        "out": str(out),
        "model": autoencoder.spec.name,
        "labels": None if labels is None else [autoencoder.spec.classes[index] for index in labels],  # type: ignore[index]
        "mean_squared_error": [round(float(value), 6) for value in mse],
    }
    _shared.report(json, result, f"{out} (mean squared error {float(mse.mean()):.4f})")
