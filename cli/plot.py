"""The command `cvae plot`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.api import arguments
from cvae.cli import _completion, _shared
from cvae.cli._help import App
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from cvae.config import DataConfig
    from cvae.runtime import Model

app = App(help="Plot what a model has learned and how it was trained.")

Limit = Annotated[
    int, typer.Option(min=1, metavar="N", help="Maximum number of images to encode, evenly spaced in the split.")
]


@app.command()
@_shared.add_model_option()
def latent(
    model: _shared.ModelName = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="tsne|pca|umap",
            help="Projection method.",
            autocompletion=_completion.choices("tsne", "pca", "umap"),
        ),
    ] = "tsne",
    perplexity: Annotated[
        float,
        typer.Option(min=1, metavar="X", help="Perplexity of t-SNE, the effective number of neighbours of a point."),
    ] = 30.0,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Show some of the images in the plot.")] = False,
    data: _shared.Data = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    binarize: _shared.Binarize = None,
    split: _shared.SplitName = "test",
    limit: Limit = 2_000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of the projection method.")] = 0,
    out: _shared.Out = Path("latent.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Plot the latent codes of images in two dimensions.

    The points are coloured by class. Similar codes are close together.

    Examples:
      cvae plot latent mnist-resnet-conditional --thumbnails
      cvae plot latent --method pca --out codes.svg
    """
    _check_ready(out)
    from cvae.plots import style
    from cvae.plots.codes import encode
    from cvae.plots.latent import check_method, draw, project

    check_method(method)
    encoder, config = _open_with_data(model, device, data=data, data_dir=data_dir, size=size, binarize=binarize)
    codes = encode(encoder, config, split=split, limit=limit, note=_shared.echo)
    if encoder.spec.classes is not None:
        _shared.echo(
            "this model knows the class from the label, so its codes need not contain the class: expect mixed colours"
        )
    points = project(codes.mean, method, perplexity=perplexity, seed=seed)
    count, method_name = len(points), {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}[method]
    title = f"{encoder.spec.name}: codes of {count:,} {split} images of {codes.data} ({method_name})"
    style.save(draw(codes, points, title, thumbnails=thumbnails), out)
    result = {"out": str(out), "model": encoder.spec.name, "data": codes.data, "split": split, "images": count}
    _shared.report(json, {**result, "method": method}, f"{out} ({count:,} images)")


@app.command()
@_shared.add_model_option()
def traverse(
    model: _shared.ModelName = None,
    image: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Image file whose code to start from. [default: the zero code]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of a random code to start from.")] = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    dimensions: Annotated[
        int, typer.Option(min=1, max=1_000, metavar="N", help="Number of dimensions to vary, one per row.")
    ] = 10,
    steps: Annotated[
        int,
        typer.Option(
            min=2, max=100, metavar="N", help="Number of values per dimension, which is the number of columns."
        ),
    ] = 9,
    range_: Annotated[
        float,
        typer.Option(
            "--range",
            min=0.01,
            max=100,
            metavar="X",
            help="Vary each dimension from -X to X, in standard deviations of the noise.",
        ),
    ] = 3.0,
    data: _shared.Data = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    binarize: _shared.Binarize = None,
    split: _shared.SplitName = "test",
    limit: Limit = 2_000,
    out: _shared.Out = Path("traverse.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Vary one dimension of the latent code per row.

    The most informative dimension comes first.

    Examples:
      cvae plot traverse mnist-resnet-conditional --digit 7
      cvae plot traverse --image seven.png --dimensions 5 --range 2
    """
    _check_ready(out)
    import numpy as np

    from cvae.plots import style
    from cvae.plots.codes import encode
    from cvae.plots.traverse import draw, top_dimensions

    if image is not None and seed is not None:
        raise UsageError(f"--image {str(image)!r} and --seed {seed} are two codes to start from; give one")
    autoencoder, config = _open_with_data(model, device, data=data, data_dir=data_dir, size=size, binarize=binarize)
    class_index = arguments.choose_class(autoencoder.spec, label=label, digit=digit, label_index=label_index)
    code, index = _choose_start(autoencoder, image, seed, class_index)
    name = None if index is None or autoencoder.spec.classes is None else autoencoder.spec.classes[index]
    codes = encode(autoencoder, config, split=split, limit=limit, note=_shared.echo)
    kl, values = codes.kl(), np.linspace(-range_, range_, steps, dtype=np.float32)
    title = autoencoder.spec.name + ("" if name is None else f", label {name}")
    style.save(draw(autoencoder, code, index, kl, values, dimensions, title), out)
    chosen = [int(d) for d in top_dimensions(kl, dimensions)]
    result: dict[str, Any] = {"out": str(out), "model": autoencoder.spec.name, "label": name, "images": len(codes.mean)}
    result |= {"dimensions": chosen, "kl": kl[chosen].tolist(), "values": values.tolist()}
    _shared.report(json, result, f"{out} ({len(chosen)} of {len(kl)} dimensions)")


@app.command()
@_shared.add_model_option()
def reconstructions(
    model: _shared.ModelName = None,
    n: Annotated[
        int, typer.Option("-n", min=1, max=1_000, metavar="N", help="Number of images, evenly spaced in the split.")
    ] = 16,
    columns: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Number of images per row.")] = 8,
    data: _shared.Data = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    binarize: _shared.Binarize = None,
    split: _shared.SplitName = "test",
    out: _shared.Out = Path("reconstructions.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Show images from a data set above their reconstructions.

    Examples:
      cvae plot reconstructions mnist-resnet-conditional
      cvae plot reconstructions --split validation -n 32 --out pairs.png
    """
    _check_ready(out)
    from cvae.plots import style
    from cvae.plots.codes import encode
    from cvae.plots.reconstructions import draw

    autoencoder, config = _open_with_data(model, device, data=data, data_dir=data_dir, size=size, binarize=binarize)
    codes = encode(autoencoder, config, split=split, limit=n, note=_shared.echo)
    count = len(codes.mean)
    style.save(
        draw(autoencoder, codes, min(columns, count), f"{autoencoder.spec.name}: {split} images of {codes.data}"), out
    )
    result = {"out": str(out), "model": autoencoder.spec.name, "data": codes.data, "split": split, "images": count}
    _shared.report(json, result, f"{out} ({count:,} images)")


@app.command()
@_shared.add_model_option()
def grid(
    model: _shared.ModelName = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    columns: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            metavar="N",
            help="Number of columns: styles or, in a map, values. [default: 10, or 20 for a map]",
        ),
    ] = None,
    seed: _shared.Seed = None,
    out: _shared.Out = Path("grid.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Show every class in the same styles, or a map of the latent space.

    A map is shown of a model that has two latent dimensions and no labels, or with --label.

    Examples:
      cvae plot grid mnist-resnet-conditional --seed 0
      cvae plot grid runs/two-dimensions --columns 30 --out map.png
    """
    _check_ready(out)
    from cvae.plots import style
    from cvae.plots.grid import class_grid, manifold

    decoder = arguments.open_model(model, device, note=_shared.echo)
    spec = decoder.spec
    index = arguments.choose_class(spec, label=label, digit=digit, label_index=label_index)
    name = None if index is None or spec.classes is None else spec.classes[index]
    result = {"out": str(out), "model": spec.name}
    if spec.classes is not None and index is None:
        columns, seed = columns or 10, arguments.choose_seed(seed)
        style.save(class_grid(decoder, columns, seed, f"{spec.name}: one style per column (seed {seed})"), out)
        text = f"{out} ({len(spec.classes)} classes, {columns} styles, seed {seed})"
        _shared.report(json, {**result, "classes": list(spec.classes), "columns": columns, "seed": seed}, text)
        return
    if spec.latent_dim != 2:
        argument = "" if model is None else f" {model}"
        label_flag = "" if name is None else f" --label {shlex.quote(name)}"
        raise UsageError(
            f"{spec.name!r} has {spec.latent_dim} latent dimensions, but a map of the latent space needs 2; "
            f"see its images with: cvae generate{argument} -n 64{label_flag}, or: cvae plot traverse{argument}"
        )
    if seed is not None:
        raise UsageError(f"--seed {seed}: a map of the latent space needs no noise; remove --seed")
    columns = columns or 20
    title = f"{spec.name}: map of the latent space" + ("" if name is None else f", label {name}")
    style.save(manifold(decoder, index, columns, title), out)
    _shared.report(json, {**result, "label": name, "columns": columns}, f"{out} ({columns} x {columns} codes)")


@app.command()
@_shared.add_model_option("runs")
def losses(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Run folders or zoo models. [default: the newest run, else the zoo's default model]",
            autocompletion=_completion.models,
        ),
    ] = None,
    out: _shared.Out = Path("losses.png"),
    json: _shared.Json = False,
) -> None:
    """Plot the bounds of runs, and their two terms, over the epochs.

    Examples:
      cvae plot losses
      cvae plot losses runs/first runs/second --out losses.svg
    """
    _check_ready(out)
    from cvae.plots import style
    from cvae.plots.losses import draw, read_history

    folders = [_find_run(name) for name in runs or (None,)]
    ends = [folder.resolve().name for folder in folders]
    names = [end if ends.count(end) == 1 else str(folder) for end, folder in zip(ends, folders, strict=True)]
    records = {name: read_history(folder) for name, folder in zip(names, folders, strict=True)}
    style.save(draw(records), out)
    epochs = {name: sum("epoch" in record for record in history) for name, history in records.items()}
    _shared.report(json, {"out": str(out), "epochs": epochs}, f"{out} ({', '.join(epochs)})")


@app.command()
@_shared.add_model_option("run")
def progress(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Run folder. [default: the newest run]", autocompletion=_completion.runs),
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Epochs to show. [default: at most 8, evenly spaced]")
    ] = None,
    out: _shared.Out = Path("progress.png"),
    json: _shared.Json = False,
) -> None:
    """Show how reconstructions improve during training.

    The first row has the originals, and each further row the reconstructions after an epoch.

    Examples:
      cvae plot progress
      cvae plot progress runs/mine --epochs 1,5,10
    """
    _check_ready(out)
    from cvae.plots import style
    from cvae.plots.progress import choose_epochs, draw, find_samples
    from cvae.run import read_config

    folder = _find_run(run)
    image_shape = read_config(folder).model.image_shape
    images = find_samples(folder)
    chosen = choose_epochs(list(images), epochs)
    figure = draw({epoch: images[epoch] for epoch in chosen}, image_shape, f"{folder.resolve().name}: reconstructions")
    style.save(figure, out)
    _shared.report(json, {"out": str(out), "run": str(folder), "epochs": chosen}, f"{out} ({len(chosen)} epochs)")


def _check_ready(out: Path) -> None:
    """Check, before any slow work, that the packages are installed and the extension of `out` is supported."""
    from importlib.util import find_spec

    from cvae.errors import MissingExtraError

    if not all(map(find_spec, ("matplotlib", "sklearn"))):
        raise MissingExtraError("cvae plot", "plot")
    from cvae.plots.style import check_suffix

    check_suffix(out)


def _find_run(name: str | None) -> Path:
    """Return the folder of the model that `arguments.find_model` finds."""
    path = arguments.find_model(name, note=_shared.echo)
    return path if path.is_dir() else path.parent


def _open_with_data(name: str | None, device: str, **flags: str | int | None) -> "tuple[Model, DataConfig]":
    """Open a model with an encoder, and return it with its data config, in which the flags override values."""
    from cvae.evaluation.evaluate import find_data_config

    model, folder = arguments.open_autoencoder(name, device, note=_shared.echo)
    return model, arguments.override_data(find_data_config(folder, model.spec.data), **flags)


def _choose_start(
    model: "Model", image: Path | None, seed: int | None, index: int | None
) -> "tuple[np.ndarray, int | None]":
    """Return the code (Z,) to start from, and the index of the class to decode it with."""
    import numpy as np

    if image is not None:
        pixels = arguments.read_image(image, model, note=_shared.echo)[None]  # (C, H, W) -> (1, C, H, W)
        labels = arguments.choose_labels(model, pixels, index, [str(image)], note=_shared.echo)
        return model.encode(pixels, label_index=labels)[0][0], None if labels is None else labels[0]
    code = np.zeros(model.spec.latent_dim, np.float32) if seed is None else model.noise(1, seed)[0]
    if index is None and model.spec.classes is not None:
        _shared.echo(f"no label given: using {model.spec.classes[0]!r}, the first class")
        return code, 0
    return code, index
