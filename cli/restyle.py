"""The command `cvae restyle`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.api import arguments
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
            help="New class, by name; may be repeated. [default: every class]",
            autocompletion=_completion.labels,
        ),
    ] = None,
    to_index: Annotated[
        list[int] | None, typer.Option(metavar="N", help="New class, by index from 0; may be repeated.")
    ] = None,
    out: _shared.Out = Path("restyled.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Change the class of images, and keep their style.

    The image file has one row of originals, then one row per new class.

    Examples:
      cvae restyle three.png
      cvae restyle three.png --digit 3 --to 7 --to 8
    """
    import numpy as np

    from cvae import imaging
    from cvae.errors import UsageError

    autoencoder = arguments.open_model(model, device, note=_shared.echo)
    classes = autoencoder.spec.classes
    if to and to_index:
        raise UsageError(f"--to {to[0]!r} and --to-index {to_index[0]} both choose classes; give names or indices")
    targets = [autoencoder.spec.label_index(name) for name in to or []]
    targets += [autoencoder.spec.check_index(index) for index in to_index or []]
    index = arguments.choose_class(autoencoder.spec, label=label, digit=digit, label_index=label_index)
    if classes is None:
        raise UsageError(f"{autoencoder.spec.name!r} was trained without labels, so there is no class to change")
    targets = targets or list(range(len(classes)))
    originals = arguments.read_images(images, autoencoder, note=_shared.echo)  # (N, C, H, W)
    labels = arguments.choose_labels(autoencoder, originals, index, [str(path) for path in images], note=_shared.echo)
    rows = [originals, *(autoencoder.restyle(originals, label_index=labels, to_index=target) for target in targets)]
    columns = len(images) if len(images) > 1 else len(rows)  # a single image and its variants fit into one row
    _shared.save_image(imaging.grid(np.concatenate(rows), columns), out)
    result = {
        "out": str(out),
        "model": autoencoder.spec.name,
        "labels": [classes[index] for index in labels or []],
        "to": [classes[index] for index in targets],
    }
    _shared.report(json, result, f"{out} ({len(images)} x {len(targets)} images)")
