"""The command `cvae interpolate`."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvae.api import arguments
from cvae.cli import _completion, _shared
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from cvae.runtime import Model


def interpolate(
    model: _shared.ModelName = None,
    start: Annotated[
        str,
        typer.Option("--from", metavar="PATH|SEED", help="First image: an image file, or the seed of a random one."),
    ] = "0",
    end: Annotated[
        str, typer.Option("--to", metavar="PATH|SEED", help="Last image: an image file, or the seed of a random one.")
    ] = "1",
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    to_label: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Class at the end, by name. [default: the class at the start]",
            autocompletion=_completion.labels,
        ),
    ] = None,
    to_label_index: Annotated[
        int | None,
        typer.Option(metavar="N", help="Class at the end, by index from 0. [default: the class at the start]"),
    ] = None,
    via: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH|SEED", help="Intermediate stop: an image file or a seed; may be repeated."),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=2, max=1_000, metavar="N", help="Number of images from one stop to the next, including both stops."
        ),
    ] = 10,
    mode: Annotated[
        str,
        typer.Option(
            metavar="slerp|lerp",
            help="Path between latent codes: a great circle (slerp) or a straight line (lerp).",
            autocompletion=_completion.choices("slerp", "lerp"),
        ),
    ] = "slerp",
    fps: Annotated[float, typer.Option(min=0.1, max=50, metavar="X", help="Frames per second of an animation.")] = 12.0,
    out: _shared.Out = Path("interpolation.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Interpolate between two images.

    The result is a strip (.png) or an animation that runs back and forth (.gif). The ends are image files, seeds, or
    two labels (--label 3 --to-label 8). If an animation with --via ends where it starts, it runs as a loop instead.

    Examples:
      cvae interpolate --from 0 --to 1
      cvae interpolate --from three.png --to eight.png --out strip.png
      cvae interpolate --digit 3 --to-label 8 --to 0 --steps 24 --out loop.gif
    """
    import numpy as np

    from cvae import imaging

    decoder = arguments.open_model(model, device, note=_shared.echo)
    names = [start, *(via or []), end]
    stops = [read_stop(decoder, name) for name in names]
    first = arguments.choose_class(decoder.spec, label=label, digit=digit, label_index=label_index)
    last = arguments.choose_class(decoder.spec, to_label=to_label, to_label_index=to_label_index)
    last = first if last is None else last
    rows = []
    for labels in choose_row_labels(decoder, stops, names, first, last):
        legs = [
            decoder.interpolate(a, b, steps, mode=mode, label_index=pair)
            for (a, b), pair in zip(pairwise(stops), labels, strict=True)
        ]
        rows.append(np.concatenate([legs[0], *(leg[1:] for leg in legs[1:])]))  # (N, C, H, W); each stop appears once
    count = len(rows[0])
    if out.suffix.lower() == ".gif":
        frames = [imaging.grid(np.stack(frame), len(rows)) for frame in zip(*rows, strict=True)]
        is_loop = len(names) > 2 and start == end and first == last
        imaging.save_gif(frames[:-1] if is_loop else [*frames, *frames[-2:0:-1]], out, fps)
    else:
        _shared.save_image(imaging.grid(np.concatenate(rows), count), out)
    result = {"out": str(out), "model": decoder.spec.name, "steps": count, "stops": names, "mode": mode}
    _shared.report(json, result, f"{out} ({count} steps)")


def choose_row_labels(
    decoder: "Model", stops: "list[int | np.ndarray]", names: list[str], first: int | None, last: int | None
) -> "list[list[tuple[int, int]] | list[None]]":
    """Return, for each row of images, the class indices at both ends of each leg; None for a model without labels."""
    classes = decoder.spec.classes
    if classes is None:
        return [[None] * (len(stops) - 1)]
    if first is None and last is None and all(isinstance(stop, int) for stop in stops):
        _shared.echo(f"no label given: one row for each of the {len(classes)} classes")
        return [[(index, index)] * (len(stops) - 1) for index in range(len(classes))]
    # An image gets the label that fits it best; a seed takes the label of the other end.
    indices = [last if first is None and isinstance(stop, int) else first for stop in stops[:-1]] + [last]
    return [list(pairwise(choose_label(decoder, *stop) for stop in zip(stops, names, indices, strict=True)))]


def read_stop(decoder: "Model", text: str) -> "int | np.ndarray":
    """Return the seed in `text`, or the image (C, H, W) in the file of that name."""
    if text.isdecimal():
        return int(text)
    return arguments.read_image(text, decoder, note=_shared.echo)


def choose_label(decoder: "Model", stop: "int | np.ndarray", name: str, index: int | None) -> int:
    if index is not None:
        return index
    if isinstance(stop, int):
        raise UsageError(
            f"seed {name} has no label of its own; give one with --label, or one for each end with --label, --to-label"
        )
    labels = arguments.choose_labels(decoder, stop[None], None, [name], note=_shared.echo)
    assert labels is not None
    return labels[0]
