"""cvae generate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvae.cli import _shared

if TYPE_CHECKING:
    from cvae.runtime import Model

MOST = 10_000
"""Images on one picture."""


def generate(
    model: _shared.ModelName = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="How many; in one picture of each class, when no label is given."),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="All classes, a row each.")] = False,
    seed: _shared.Seed = None,
    temperature: Annotated[float, typer.Option(min=0, help="Below 1: more typical. Above: more varied.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Picture to write; or .npy, .npz, or a folder, for many images.")] = Path(
        "generated.png"
    ),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Draw new images: on one picture, or as many as you like into an array (.npy, .npz) or a folder of PNG files.

    Example: cvae generate --digit 7 --out seven.png
    """
    from cvae import imaging
    from cvae.errors import UsageError
    from cvae.runtime import bulk

    decoder = _shared.open_model(model, device)
    classes = decoder.spec.classes
    wanted = _shared.choose_class(decoder.spec, label=label, digit=digit, label_index=label_index)
    name = None if wanted is None or classes is None else classes[wanted]
    if out.suffix.lower() in bulk.ENDINGS:
        _many(decoder, n or 1, out, wanted, name, seed, temperature, grid=grid, json=json)
        return
    if grid and wanted is not None:
        raise UsageError(f"--grid draws all classes, and only {name!r} was chosen; give one of the two")
    rows = range(len(classes)) if classes is not None and wanted is None else None
    each = n or (1 if not grid else 8 if rows else 64)
    count = each if rows is None else each * len(rows)
    if count > MOST:
        raise UsageError(
            f"{count:,} images are too many for one picture: at most {MOST:,}; --out images.npy takes more"
        )
    labels: list[int] | None = None if wanted is None else [wanted] * count
    columns = None
    if rows is not None:
        labels = [index for index in rows for _ in range(each)]
        columns = each if grid or each > 1 else None
        if not grid:
            _shared.say(f"no label given: {each} of each of the {len(rows)} classes")
    seed = _shared.new_seed(seed)
    drawn = decoder.generate(count, seed=seed, temperature=temperature, label_index=labels)
    _shared.save(imaging.grid(drawn, columns), out)
    names = None if labels is None or classes is None else [classes[index] for index in labels]
    facts = {"out": str(out), "model": decoder.spec.name, "images": count, "labels": names, "seed": seed}
    _shared.report(json, facts, f"{out} ({count} image{'s' * (count > 1)}, seed {seed})")


def _many(
    decoder: "Model",
    n: int,
    out: Path,
    index: int | None,
    name: str | None,
    seed: int | None,
    temperature: float,
    *,
    grid: bool,
    json: bool,
) -> None:
    """Into files that hold images one by one; of a model with labels, and none given, the classes in turn."""
    from functools import partial

    from cvae.errors import UsageError
    from cvae.runtime import bulk

    if grid:
        raise UsageError(f"--grid makes one picture, {str(out)!r} holds images one by one; leave one of them out")
    with _shared.progress() as progress:
        files, seed = bulk.generate(
            decoder, n, out, label_index=index, seed=seed, temperature=temperature, progress=partial(progress, "images")
        )
    names = [str(file) for file in files]
    facts = {"out": names, "model": decoder.spec.name, "images": n, "label": name, "seed": seed}
    told = names[0] + f" and {len(names) - 1} more" * (len(names) > 1)
    _shared.report(json, facts, f"{told} ({n:,} image{'s' * (n > 1)}, seed {seed})")
