"""cvae interpolate"""

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
    to_label: Annotated[str | None, typer.Option(help="Class at the other end. [the same]")] = None,
    steps: Annotated[int, typer.Option(min=2, max=1_000, help="Pictures, both ends included.")] = 10,
    mode: Annotated[str, typer.Option(help="slerp (along the sphere) or lerp (straight).")] = "slerp",
    fps: Annotated[float, typer.Option(min=0.1, max=100, help="Pictures a second, in a GIF.")] = 12.0,
    out: _shared.Out = Path("interpolation.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Go from one image to another: a strip (.png), or an animation that runs there and back (.gif).

    Between two pictures, two seeds, or two labels (--label 3 --to-label 8).

    Example: cvae interpolate --digit 3 --to-label 8 --to 0 --steps 24 --out loop.gif
    """
    import numpy as np

    from cvae.runtime import images as pictures

    decoder = _shared.open_model(model, device)
    classes = decoder.spec.classes
    a, b = (_end(decoder, text) for text in (start, end))
    first = _shared.one_label(label, digit)
    last = first if to_label is None else to_label
    pairs: list[tuple[int, int] | None]
    if classes is None:
        if first is not None or last is not None:
            decoder.spec.label_index(first or last or "")  # raises
        pairs = [None]
    elif first is None and last is None and isinstance(a, int) and isinstance(b, int):
        _shared.say(f"no label given: one row for each of the {len(classes)} classes")
        pairs = [(index, index) for index in range(len(classes))]
    else:
        pairs = [(_label(decoder, a, start, first or last), _label(decoder, b, end, last))]
    rows = [decoder.interpolate(a, b, steps, pair, mode) for pair in pairs]  # (steps, C, H, W) each
    if out.suffix.lower() == ".gif":
        pictures.save_gif([pictures.grid(np.stack(frame), len(rows)) for frame in zip(*rows, strict=True)], out, fps)
    else:
        pictures.save(pictures.legible(pictures.grid(np.concatenate(rows), steps)), out)
    facts = {"out": str(out), "model": decoder.spec.name, "steps": steps, "from": start, "to": end, "mode": mode}
    _shared.report(json, facts, f"{out} ({steps} steps)")


def _end(decoder: "Model", text: str) -> "int | np.ndarray":
    """A seed, or the image (C, H, W) in a picture's file."""
    if text.isdecimal():
        return int(text)
    from cvae.runtime import images as pictures

    return pictures.read(text, decoder.spec.image_shape)


def _label(decoder: "Model", end: "int | np.ndarray", name: str, label: str | None) -> int:
    if label is not None:
        return decoder.spec.label_index(label)
    if isinstance(end, int):
        raise UsageError(f"seed {name} has no label of its own: give one with --label, or both with --to-label")
    labels = _shared.nearest_labels(decoder, end[None], None, [name])
    assert labels is not None
    return labels[0]
