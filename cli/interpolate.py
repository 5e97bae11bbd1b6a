"""cvae interpolate"""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvae.cli import _shared
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from cvae.runtime import Model


def interpolate(
    model: _shared.ModelName = None,
    start: Annotated[str, typer.Option("--from", help="A picture's path, or a seed.")] = "0",
    end: Annotated[str, typer.Option("--to", help="A picture's path, or a seed.")] = "1",
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    to_label: Annotated[str | None, typer.Option(help="Class at the other end. [the same]")] = None,
    to_label_index: Annotated[
        int | None, typer.Option(metavar="N", help="Index of the class at the other end. [the same]")
    ] = None,
    via: Annotated[
        list[str] | None, typer.Option(help="A stop on the way, a picture's path or a seed; may be repeated.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=2, max=1_000, help="Pictures from one stop to the next, both included.")
    ] = 10,
    mode: Annotated[str, typer.Option(help="slerp (along the sphere) or lerp (straight).")] = "slerp",
    fps: Annotated[float, typer.Option(min=0.1, max=50, help="Pictures a second, in a GIF.")] = 12.0,
    out: _shared.Out = Path("interpolation.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Go from one image to another: a strip (.png), or an animation that runs there and back (.gif).

    Between pictures, seeds, or two labels (--label 3 --to-label 8). An animation that ends where it began, through
    --via, goes round and round.

    Example: cvae interpolate --digit 3 --to-label 8 --to 0 --steps 24 --out loop.gif
    """
    import numpy as np

    from cvae import imaging

    decoder = _shared.open_model(model, device)
    names = [start, *(via or []), end]
    stops = [_stop(decoder, name) for name in names]
    first = _shared.choose_class(decoder.spec, label=label, digit=digit, label_index=label_index)
    last = _shared.choose_class(decoder.spec, to_label=to_label, to_label_index=to_label_index)
    last = first if last is None else last
    rows = []
    for labels in _labels(decoder, stops, names, first, last):
        legs = [
            decoder.interpolate(a, b, steps, mode=mode, label_index=pair)
            for (a, b), pair in zip(pairwise(stops), labels, strict=True)
        ]
        rows.append(np.concatenate([legs[0], *(leg[1:] for leg in legs[1:])]))  # (N, C, H, W), each stop once
    count = len(rows[0])
    if out.suffix.lower() == ".gif":
        frames = [imaging.grid(np.stack(frame), len(rows)) for frame in zip(*rows, strict=True)]
        around = len(names) > 2 and start == end and first == last
        imaging.save_gif(frames[:-1] if around else [*frames, *frames[-2:0:-1]], out, fps)
    else:
        _shared.save(imaging.grid(np.concatenate(rows), count), out)
    facts = {"out": str(out), "model": decoder.spec.name, "steps": count, "stops": names, "mode": mode}
    _shared.report(json, facts, f"{out} ({count} steps)")


def _labels(
    decoder: "Model", stops: "list[int | np.ndarray]", names: list[str], first: int | None, last: int | None
) -> "list[list[tuple[int, int]] | list[None]]":
    """A row for each, with the classes' indices at both ends of its legs; None for a model without labels."""
    classes = decoder.spec.classes
    if classes is None:
        return [[None] * (len(stops) - 1)]
    if first is None and last is None and all(isinstance(stop, int) for stop in stops):
        _shared.say(f"no label given: one row for each of the {len(classes)} classes")
        return [[(index, index)] * (len(stops) - 1) for index in range(len(classes))]
    # A picture has a label of its own, a seed has that of the other end.
    wanted = [last if first is None and isinstance(stop, int) else first for stop in stops[:-1]] + [last]
    return [list(pairwise(_label(decoder, *of) for of in zip(stops, names, wanted, strict=True)))]


def _stop(decoder: "Model", text: str) -> "int | np.ndarray":
    """A seed, or the image (C, H, W) in a picture's file."""
    if text.isdecimal():
        return int(text)
    return _shared.read_picture(text, decoder)


def _label(decoder: "Model", stop: "int | np.ndarray", name: str, index: int | None) -> int:
    if index is not None:
        return index
    if isinstance(stop, int):
        raise UsageError(f"seed {name} has no label of its own: give one with --label, or both with --to-label")
    labels = _shared.nearest_labels(decoder, stop[None], None, [name])
    assert labels is not None
    return labels[0]
