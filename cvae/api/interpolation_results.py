"""Images of interpolations: their arrangement in a file, and the report that the command prints.

Importing this module is cheap: each function imports what it needs when it is called.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.api.classes import Indices, Labels
from cvae.api.conditions import Conditions, choose_value
from cvae.api.image_results import ModelLike, Result, describe_conditions
from cvae.conditions import NUMBER
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from cvae.api.arguments import Note
    from cvae.runtime import Model
    from cvae.runtime.inputs import ImagesLike
    from cvae.spec import Spec


def make_interpolation(
    model: ModelLike,
    *,
    start: "int | ImagesLike",
    end: "int | ImagesLike | None",
    label: Labels | None,
    digit: Labels | None,
    label_index: Indices | None,
    to_label: Labels | None,
    to_label_index: Indices | None,
    conditions: Conditions | None,
    to_conditions: Conditions | None,
    extrapolate: bool,
    via: "Sequence[int | ImagesLike] | None",
    steps: int,
    mode: str,
    device: str,
    note: "Note",
) -> Result:
    """Interpolate from `start` through the stops in `via` to `end`, in one row or in a row for each class."""
    import numpy as np

    from cvae import imaging
    from cvae.runtime.array import as_images
    from cvae.runtime.inference import explain
    from cvae.runtime.interpolate import interpolate_rows, read_stop

    for stop in (start, *(via or []), 1 if end is None else end):
        if not isinstance(stop, int):
            arguments.check_image_files(stop)
    decoder = arguments.open_model(model, device, note)
    spec = decoder.spec
    first = choose_value(spec, conditions, extrapolate=extrapolate, label=label, digit=digit, label_index=label_index)
    changes = choose_value(
        spec, to_conditions, option="--to", extrapolate=extrapolate, to_label=to_label, to_label_index=to_label_index
    )
    is_change = end is None and any(first.get(name) != value for name, value in changes.items())
    if is_change and isinstance(start, int) and (missing := [name for name in changes if name not in first]):
        is_label = spec.category is not None and spec.category.name == missing[0]
        flag = "--label NAME" if is_label else f"--condition {missing[0]}=VALUE"
        raise UsageError(f"{missing[0]} is set at the end, but not at the start; set it with {flag}")
    end = (start if is_change else 1) if end is None else end
    inputs = [start, *(via or []), end]
    names = [str(stop) if isinstance(stop, int | str | Path) else f"image {i}" for i, stop in enumerate(inputs, 1)]
    stops = [
        read_stop(decoder, stop if isinstance(stop, int) else arguments.read_image(stop, decoder, note))
        for stop in inputs
    ]
    if is_change and stops[0].ndim > 1:  # the code of an image depends on its conditions, which change after encoding
        stops[-1] = decoder.encode_rows(stops[0], explain(decoder, stops[0], first, extrapolate=extrapolate)).mean[0]
    if spec.classes is not None and not first and not changes and all(stop.ndim == 1 for stop in stops):
        arguments.send(note, f"no label given: one row per class, for all {len(spec.classes)} classes")
        paths: list[np.ndarray | None] = [np.full(len(stops), index) for index in range(len(spec.classes))]
    else:
        values = _spread(spec, first, {**first, **changes}, len(stops))
        paths = [_choose_rows(decoder, stops, values, names, extrapolate, note)]
    segments = [
        [
            interpolate_rows(decoder, stops[i : i + 2], None if rows is None else rows[i : i + 2], steps, mode)
            for i, _ in enumerate(pairwise(stops))
        ]
        for rows in paths
    ]
    images_by_row = [np.concatenate([row[0], *(segment[1:] for segment in row[1:])]) for row in segments]
    count = len(images_by_row[0])
    images = as_images(np.concatenate(images_by_row), _name_images(spec, paths, count), columns=count)
    is_loop = len(stops) > 2 and names[0] == names[-1] and not changes

    def animate() -> "list[Image.Image]":
        frames = [imaging.grid(np.stack(frame), len(paths)) for frame in zip(*images_by_row, strict=True)]
        return frames[:-1] if is_loop else [*frames, *frames[-2:0:-1]]

    report = {
        "model": spec.name,
        "steps": count,
        "stops": names,
        "labels": None if spec.classes is None else [_name_stops(spec, rows) for rows in paths],
        "mode": mode,
        **describe_conditions(spec, paths[0]),
    }
    return Result(images=images, draw=images.to_pil, animate=animate, report=report)


def _spread(spec: "Spec", first: Mapping[str, Any], last: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the values at each stop. Numbers change evenly from stop to stop, other conditions at the last stop."""
    numbers = [
        condition.name
        for condition in spec.conditions
        if condition.kind == NUMBER and None not in (first.get(condition.name), last.get(condition.name))
    ]

    def at(i: int) -> dict[str, Any]:
        return {name: first[name] + (last[name] - first[name]) * i / (count - 1) for name in numbers}

    return [{**first, **at(i)} for i in range(count - 1)] + [dict(last)]


def _choose_rows(
    decoder: "Model",
    stops: "Sequence[np.ndarray]",
    values: Sequence[dict[str, Any]],
    names: Sequence[str],
    extrapolate: bool,
    note: "Note",
) -> "np.ndarray | None":
    """Return the rows of the conditions at each stop, and report those that are inferred from images."""
    from cvae.runtime.interpolate import stop_rows

    rows = stop_rows(decoder, stops, values, extrapolate=extrapolate)
    if rows is not None:
        for i, (stop, name) in enumerate(zip(stops, names, strict=True)):
            if stop.ndim > 1:
                arguments.report_inferred(decoder, rows[i : i + 1], values[i], [name], note)
    return rows


def _name_stops(spec: "Spec", rows: "np.ndarray | None") -> list[str | None]:
    """Return the class name of each stop."""
    return [] if rows is None else [[*(spec.classes or ()), None][index] for index in rows]


def _name_images(spec: "Spec", paths: "Sequence[np.ndarray | None]", count: int) -> list[str] | None:
    """Return the class name of each image, or None if a class is unknown, or a row passes from one to another."""
    if spec.classes is None:
        return None
    names: list[str] = []
    for rows in paths:
        stops = _name_stops(spec, rows)
        if stops[0] is None or len(set(stops)) > 1:
            return None
        names += [stops[0]] * count
    return names
