"""Functions that plot images that a model decodes, under values of its conditions.

Importing this module is cheap and requires no extras: each function imports what it needs when it is called.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.api.arguments import Note
from cvae.api.classes import Indices, Labels
from cvae.api.conditions import Conditions, choose_value, choose_values, combine, describe, format_values, to_columns
from cvae.api.image_results import describe_conditions
from cvae.api.plot_helpers import check_ready, choose_start, finish, open_with_data
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from cvae.spec import Spec


def traverse(
    model: str | Path | None = None,
    *,
    image: str | Path | None = None,
    seed: int | None = None,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    dimensions: int = 10,
    steps: int = 9,
    range: float = 3.0,
    data: str | None = None,
    data_dir: str | None = None,
    size: str | None = None,
    binarize: str | None = None,
    split: str | None = None,
    limit: int = 2_000,
    out: str | Path | None = None,
    device: str = "cpu",
    note: Note = None,
) -> "Figure":
    """Vary one dimension of the latent code per row, starting with the most informative dimension.

    Args:
        model: Model with an encoder, as in `latent`.
        image: Start from the code of this image file; None for the zero code.
        seed: Seed of a random code to start from.
        label: Class of the images, by name.
        digit: Same as `label`, for models of digits.
        label_index: Class of the images, by index from 0.
        conditions: Values of conditions by name: `{"age": 40}`. Those that are left out are unknown or, with `image`,
            inferred.
        extrapolate: Accept numbers beyond the range of the training data.
        dimensions: Number of dimensions to vary, one per row.
        steps: Number of values per dimension, one per column.
        range: Vary each dimension from -range to range, in standard deviations of the noise.
        data: Data set to measure the information in each dimension on, as in `latent`.
        data_dir: As in `latent`.
        size: As in `latent`.
        binarize: As in `latent`.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        limit: Maximum number of images to encode, evenly spaced in the split.
        out: File to save the figure to, .png or .svg; None to save nothing.
        device: "cpu", "cuda", "auto" or an onnxruntime provider.
        note: Called with each message for the user.

    Raises:
        UsageError: If there is no such model, class or data set, or both `image` and `seed` are given.
        MissingExtraError: If the packages for plots are not installed.
        CvaeError: If a file is damaged, or the figure can't be saved.
    """
    check_ready(out)
    import numpy as np

    from cvae.plots.codes import encode
    from cvae.plots.traverse import draw, top_dimensions

    if image is not None and seed is not None:
        raise UsageError(f"--image {str(image)!r} and --seed {seed} are two codes to start from; give one")
    if image is not None:
        arguments.check_image_files(image)
    autoencoder, config = open_with_data(
        model, device, note, data=data, data_dir=data_dir, size=size, binarize=binarize
    )
    spec = autoencoder.spec
    fixed = choose_value(spec, conditions, extrapolate=extrapolate, label=label, digit=digit, label_index=label_index)
    code, row = choose_start(autoencoder, image, seed, fixed, extrapolate, note)
    codes = encode(autoencoder, config, split=split, limit=limit, note=note)
    kl, values = codes.kl(), np.linspace(-range, range, steps, dtype=np.float32)
    name, shown = _describe_row(spec, row)
    title = spec.name + shown
    chosen = [int(d) for d in top_dimensions(kl, dimensions)]
    description: dict[str, Any] = {"model": spec.name, "label": name, "images": len(codes.mean)}
    description |= describe_conditions(spec, row)
    description |= {"latent_dim": len(kl), "dimensions": chosen, "kl": kl[chosen].tolist(), "values": values.tolist()}
    return finish(draw(autoencoder, code, row, kl, values, dimensions, title), out, description)


def grid(
    model: str | Path | None = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    conditions: "Conditions | None" = None,
    extrapolate: bool = False,
    columns: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    note: Note = None,
) -> "Figure":
    """Show every class, or several values of conditions, in the same styles; or a map of the latent space.

    There is a row for each class or combination of values, and a column for each style. If several conditions have
    several values and `columns` is None, the values of the last one are the columns, and all images have one style.
    The map requires a model with two latent dimensions and, if the model has labels, `label`.

    Args:
        model: Model, as in `latent`.
        label: Class of the images in the map, or several classes, by name.
        digit: Same as `label`, for models of digits.
        label_index: Class of the images in the map, or several classes, by index from 0.
        conditions: Values of conditions by name: `{"age": [20, 40], "smiling": [False, True]}`. Those that are left out
            are unknown.
        extrapolate: Accept numbers beyond the range of the training data.
        columns: Number of columns: one per style or, in a map, one per value; None for 10, or 20 for a map.
        seed: Seed of the styles; None for a random one, which the title contains.
        out: File to save the figure to, .png or .svg; None to save nothing.
        device: "cpu", "cuda", "auto" or an onnxruntime provider.
        note: Called with each message for the user.

    Raises:
        UsageError: If there is no such model or class, or neither of the two figures fits the model.
        MissingExtraError: If the packages for plots are not installed.
        CvaeError: If a file is damaged, or the figure can't be saved.
    """
    check_ready(out)
    from cvae.plots.grid import condition_grid, manifold
    from cvae.runtime.conditions import condition_rows

    decoder = arguments.open_model(model, device, note)
    spec = decoder.spec
    values = choose_values(spec, conditions, extrapolate=extrapolate, label=label, digit=digit, label_index=label_index)
    if spec.classes is not None and spec.category is not None and not values:
        values = {spec.category.name: list(spec.classes)}
    several = [name for name, items in values.items() if len(items) > 1]
    if several:
        seed = arguments.choose_seed(seed)
        last = several[-1] if len(several) > 1 and columns is None else None  # the condition of the columns
        row_values = combine({name: items for name, items in values.items() if name != last})
        column_values = [{}] * (columns or 10) if last is None else combine({last: values[last]})
        cells = [{**row, **column} for row in row_values for column in column_values]
        rows = condition_rows(spec, len(cells), values=to_columns(cells), extrapolate=extrapolate)
        noise = decoder.noise(len(column_values) if last is None else 1, seed)
        row_names = [_name(spec, {name: row[name] for name in several if name in row}) for row in row_values]
        column_names = [_name(spec, column) for column in column_values]
        title = f"{spec.name}: one style{' per column' if last is None else ''} (seed {seed})"
        figure = condition_grid(decoder, noise, rows, row_names, column_names, title)
        description = {"model": spec.name, "columns": len(column_values), "seed": seed}
        description |= {"classes" if spec.classes is not None else "rows": row_names}
        return finish(figure, out, description | ({} if last is None else {"values": column_names}))
    row = condition_rows(spec, 1, values=to_columns(combine(values)), extrapolate=extrapolate)
    name, shown = _describe_row(spec, row)
    if spec.latent_dim != 2:
        argument = "" if model is None else f" {model}"
        label_flag = "" if name is None else f" --label {shlex.quote(name)}"
        fix = ""
        if spec.classes is None and spec.conditions:
            fix = f"choose several values, such as --condition {spec.conditions[0].name}=A,B; or "
        raise UsageError(
            f"{spec.name!r} has {spec.latent_dim} latent dimensions, but a map of the latent space needs 2; "
            f"{fix}see its images with: cvae generate{argument} -n 64{label_flag}, or: cvae plot traverse{argument}"
        )
    if seed is not None:
        raise UsageError(f"--seed {seed}: a map of the latent space needs no noise; remove --seed")
    columns = columns or 20
    figure = manifold(decoder, row, columns, f"{spec.name}: map of the latent space{shown}")
    return finish(
        figure, out, {"model": spec.name, "label": name, "columns": columns, **describe_conditions(spec, row)}
    )


def _name(spec: "Spec", values: Mapping[str, Any]) -> str:
    """Return the name of a row or column of a grid: that of its class, or its values."""
    if spec.classes is not None:
        return "".join("unknown" if value is None else value for value in values.values())
    return format_values(spec.conditions, describe(spec, values))


def _describe_row(spec: "Spec", row: "np.ndarray | None") -> tuple[str | None, str]:
    """Return the class name of a row of conditions, if there is one, and text about all known values for a title."""
    from cvae.runtime.conditions import describe_rows

    if row is None:
        return None, ""
    values = {name: value for name, value in describe_rows(spec.conditions, row)[0].items() if value is not None}
    name = next(iter(values.values()), None) if spec.classes is not None else None
    text = f"label {name}" if name is not None else format_values(spec.conditions, values)
    return name, f", {text}" if text else ""
