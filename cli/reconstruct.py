"""The command `cvae reconstruct`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.cli import _shared


def reconstruct(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files; they are scaled and cropped.")],
    model: _shared.ModelOption = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    out: _shared.Out = Path("reconstruction.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Encode and decode images: originals in the upper row, reconstructions in the lower.

    Example: cvae reconstruct seven.png --digit 7
    """
    import numpy as np

    from cvae import imaging

    coder = _shared.open_model(model, device)
    index = _shared.choose_class(coder.spec, label=label, digit=digit, label_index=label_index)
    originals = _shared.read_images(images, coder)  # (N, C, H, W)
    labels = _shared.nearest_labels(coder, originals, index, [str(path) for path in images])
    reconstructions = coder.reconstruct(originals, label_index=labels)
    mse = ((reconstructions - originals) ** 2).mean(axis=(1, 2, 3))  # (N, C, H, W) -> (N,)
    _shared.save(imaging.grid(np.concatenate([originals, reconstructions]), len(images)), out)
    facts = {
        "out": str(out),
        "model": coder.spec.name,
        "labels": None if labels is None else [coder.spec.classes[index] for index in labels],  # type: ignore[index]
        "mean_squared_error": [round(float(value), 6) for value in mse],
    }
    _shared.report(json, facts, f"{out} (mean squared error {float(mse.mean()):.4f})")
