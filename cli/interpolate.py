"""The command `cvae interpolate`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.api import image_results, interpolation_results
from cvae.cli import _completion, _shared
from cvae.errors import UsageError


@_shared.add_model_option()
def interpolate(
    model: _shared.ModelName = None,
    start: Annotated[
        str,
        typer.Option("--from", metavar="PATH|SEED", help="First image: an image file, or the seed of a random one."),
    ] = "0",
    end: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="PATH|SEED|NAME=VALUE",
            help="Last image: an image file, or the seed of a random one. Or value of a condition at the end, such as "
            "age=70; may be repeated. [default: 1, or the first image if a label or condition changes]",
        ),
    ] = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    to_label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Class at the end, by name. [default: the class at the start]",
            autocompletion=_completion.labels,
        ),
    ] = None,
    to_label_index: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="Class at the end, by index from 0. [default: the class at the start]"),
    ] = None,
    conditions: _shared.ConditionValues = None,
    extrapolate: _shared.Extrapolate = False,
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
    scale: _shared.Scale = None,
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Interpolate between two images.

    The result is a strip (.png) or an animation that runs back and forth (.gif). The ends are image files or seeds,
    and can have different labels (--label 3 --to-label 8) and conditions (--condition age=20 --to age=70). A number
    passes through all values in between. An animation with --via that ends where it starts runs in a loop instead.

    Examples:
      cvae interpolate --from 0 --to 1
      cvae interpolate --from three.png --to eight.png --out strip.png
      cvae interpolate --digit 3 --to-label 8 --steps 24 --out loop.gif
      cvae interpolate runs/faces --condition age=20 --to age=70
    """
    image_results.check_image_path(out)
    stop, changes = _split_ends(end or [])
    result = interpolation_results.make_interpolation(
        model,
        start=_parse_stop(start),
        end=stop,
        label=label,
        digit=digit,
        label_index=label_index,
        to_label=to_label,
        to_label_index=to_label_index,
        conditions=conditions,
        to_conditions=changes,
        extrapolate=extrapolate,
        via=[_parse_stop(stop) for stop in via or []],
        steps=steps,
        mode=mode,
        device=device,
        note=_shared.echo,
    )
    _shared.save_image(result, out, scale, fps)
    _shared.report(json, {"out": str(out), **result.report}, f"{out} ({result.report['steps']} steps)")


def _parse_stop(text: str) -> int | str:
    """Return a seed, or the path of an image file."""
    return int(text) if text.isdecimal() else text


def _split_ends(texts: list[str]) -> tuple[int | str | None, list[str]]:
    """Return the last image and the values of conditions at the end.

    Raises:
        UsageError: If there are several images.
    """
    changes = [text for text in texts if "=" in text and not Path(text).exists()]
    stops = [text for text in texts if text not in changes]
    if len(stops) > 1:
        raise UsageError(f"--to {stops[0]!r} and --to {stops[1]!r} are two ends; give one, and set stops with --via")
    return (_parse_stop(stops[0]) if stops else None), changes
