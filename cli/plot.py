"""The command `cvae plot`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.api import plot
from cvae.cli import _completion, _shared
from cvae.cli._help import App

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
    split: _shared.SplitName = None,
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
    figure = plot.latent(
        model,
        method=method,
        perplexity=perplexity,
        thumbnails=thumbnails,
        data=data,
        data_dir=data_dir,
        size=size,
        binarize=binarize,
        split=split,
        limit=limit,
        seed=seed,
        out=out,
        device=device,
        note=_shared.echo,
    )
    description = plot.describe(figure)
    _shared.report(json, description, f"{out} ({description['images']:,} images)")


@app.command()
@_shared.add_model_option()
def traverse(
    model: _shared.ModelName = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Start from the code of this image file. [default: the zero code]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of a random code to start from.")] = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    conditions: _shared.ConditionValues = None,
    extrapolate: _shared.Extrapolate = False,
    dimensions: Annotated[
        int, typer.Option(min=1, max=1_000, metavar="N", help="Number of dimensions to vary, one per row.")
    ] = 10,
    steps: Annotated[
        int,
        typer.Option(min=2, max=100, metavar="N", help="Number of values per dimension, one per column."),
    ] = 9,
    range: Annotated[
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
    split: _shared.SplitName = None,
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
      cvae plot traverse runs/faces --condition age=40
    """
    figure = plot.traverse(
        model,
        image=image,
        seed=seed,
        label=label,
        digit=digit,
        label_index=label_index,
        conditions=conditions,
        extrapolate=extrapolate,
        dimensions=dimensions,
        steps=steps,
        range=range,
        data=data,
        data_dir=data_dir,
        size=size,
        binarize=binarize,
        split=split,
        limit=limit,
        out=out,
        device=device,
        note=_shared.echo,
    )
    description = plot.describe(figure)
    _shared.report(
        json, description, f"{out} ({len(description['dimensions'])} of {description['latent_dim']} dimensions)"
    )


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
    split: _shared.SplitName = None,
    out: _shared.Out = Path("reconstructions.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Show images from a data set above their reconstructions.

    Examples:
      cvae plot reconstructions mnist-resnet-conditional
      cvae plot reconstructions --split validation -n 32 --out pairs.png
    """
    figure = plot.reconstructions(
        model,
        n=n,
        columns=columns,
        data=data,
        data_dir=data_dir,
        size=size,
        binarize=binarize,
        split=split,
        out=out,
        device=device,
        note=_shared.echo,
    )
    description = plot.describe(figure)
    _shared.report(json, description, f"{out} ({description['images']:,} images)")


@app.command()
@_shared.add_model_option()
def nearest(
    model: _shared.ModelName = None,
    n: Annotated[int, typer.Option("-n", min=1, max=100, metavar="N", help="Number of images to generate.")] = 10,
    neighbours: Annotated[
        int, typer.Option(min=1, max=20, metavar="N", help="Number of training images below each generated image.")
    ] = 3,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Features to compare: pixels, mnist, MODULE:CALLABLE, PATH.onnx, or trained: a classifier that is "
            "trained on the conditions of the data, once (takes minutes, needs torch). [default: mnist for MNIST, "
            "otherwise pixels]",
        ),
    ] = None,
    data: _shared.Data = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the noise.")] = 0,
    out: _shared.Out = Path("nearest.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Show generated images above their nearest training images.

    If a generated image is nearly the same as a training image, the model has memorized it.

    Examples:
      cvae plot nearest mnist-resnet-conditional
      cvae plot nearest runs/mine --features trained --out copies.png
    """
    figure = plot.nearest(
        model,
        n=n,
        neighbours=neighbours,
        features=features,
        data=data,
        data_dir=data_dir,
        size=size,
        seed=seed,
        out=out,
        device=device,
        note=_shared.echo,
    )
    description = plot.describe(figure)
    _shared.report(json, description, f"{out} ({description['images']:,} images)")


@app.command()
@_shared.add_model_option()
def grid(
    model: _shared.ModelName = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    conditions: _shared.ConditionValues = None,
    extrapolate: _shared.Extrapolate = False,
    columns: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            metavar="N",
            help="Number of columns: one per style or, in a map, one per value. [default: 10, or 20 for a map]",
        ),
    ] = None,
    seed: _shared.Seed = None,
    out: _shared.Out = Path("grid.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Show every class, or several values of conditions, in the same styles; or a map of the latent space.

    There is a row for each class or combination of values, and a column for each style. If several conditions have
    several values, those of the last one are the columns, and all images have one style, unless --columns is set. The
    map requires a model with two latent dimensions and, if the model has labels, --label.

    Examples:
      cvae plot grid mnist-resnet-conditional --seed 0
      cvae plot grid runs/faces --condition age=20,40,60 --condition smiling=no,yes
      cvae plot grid runs/two-dimensions --columns 30 --out map.png
    """
    figure = plot.grid(
        model,
        label=label,
        digit=digit,
        label_index=label_index,
        conditions=conditions,
        extrapolate=extrapolate,
        columns=columns,
        seed=seed,
        out=out,
        device=device,
        note=_shared.echo,
    )
    description = plot.describe(figure)
    columns = description["columns"]
    if "classes" in description:
        text = f"{len(description['classes'])} classes, {columns} styles, seed {description['seed']}"
    elif "rows" in description:
        text = f"{len(description['rows'])} x {columns} images, seed {description['seed']}"
    else:
        text = f"{columns} x {columns} codes"
    _shared.report(json, description, f"{out} ({text})")


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
    """Plot the bound of each run, and the two terms of the bound, over the epochs.

    Examples:
      cvae plot losses
      cvae plot losses runs/first runs/second --out losses.svg
    """
    description = plot.describe(plot.losses(runs, out=out, note=_shared.echo))
    _shared.report(json, description, f"{out} ({', '.join(description['epochs'])})")


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

    The first row shows the originals. Each further row shows the reconstructions after one of the epochs.

    Examples:
      cvae plot progress
      cvae plot progress runs/mine --epochs 1,5,10
    """
    description = plot.describe(plot.progress(run, epochs=epochs, out=out, note=_shared.echo))
    _shared.report(json, description, f"{out} ({len(description['epochs'])} epochs)")
