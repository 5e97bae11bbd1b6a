"""cvae generate"""

from pathlib import Path
from typing import Annotated

import typer

from cvae.cli import _shared


def generate(
    model: _shared.ModelName = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, max=10_000, help="How many; of each class when no label is given."),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="All classes, a row each.")] = False,
    seed: _shared.Seed = None,
    temperature: Annotated[float, typer.Option(min=0, help="Below 1: more typical. Above: more varied.")] = 1.0,
    out: _shared.Out = Path("generated.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Draw new images.

    Example: cvae generate --digit 7 --out seven.png
    """
    import numpy as np

    from cvae.errors import UsageError
    from cvae.runtime import images as pictures

    decoder = _shared.open_model(model, device)
    classes = decoder.spec.classes
    wanted = _shared.one_label(label, digit)
    labels: list[int] | None = None
    columns = None
    if wanted is not None:
        if grid:
            raise UsageError(f"--grid draws all classes, --label {wanted!r} only one; give one of the two")
        labels = [decoder.spec.label_index(wanted)] * (n or 1)
    elif classes is not None:
        each = n or (8 if grid else 1)
        labels = [index for index in range(len(classes)) for _ in range(each)]
        columns = each if grid or each > 1 else None
        if not grid:
            _shared.say(f"no label given: {each} of each of the {len(classes)} classes")
    count = len(labels) if labels is not None else n or (64 if grid else 1)
    seed = _shared.new_seed(seed)
    drawn = decoder.generate(count, None if labels is None else np.array(labels), seed, temperature)
    pictures.save(pictures.legible(pictures.grid(drawn, columns)), out)
    names = None if labels is None or classes is None else [classes[index] for index in labels]
    facts = {"out": str(out), "model": decoder.spec.name, "images": count, "labels": names, "seed": seed}
    _shared.report(json, facts, f"{out} ({count} image{'s' * (count > 1)}, seed {seed})")
