"""cvae plot"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.cli import _shared
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from cvae.config import DataConfig
    from cvae.runtime import Model

app = typer.Typer(no_args_is_help=True, help="Draw what a model has learned, and how. Figures are .png or .svg.")

Limit = Annotated[int, typer.Option(min=1, help="Encode at most N images, spread over the split.")]


@app.command()
def latent(
    model: _shared.ModelName = None,
    method: Annotated[str, typer.Option(help="tsne, pca or umap.")] = "tsne",
    perplexity: Annotated[float, typer.Option(min=1, help="Of t-SNE: about how many neighbours count.")] = 30.0,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Show some of the images at their places.")] = False,
    data: _shared.Data = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    binarize: _shared.Binarize = None,
    split: _shared.SplitName = "test",
    limit: Limit = 2_000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the method.")] = 0,
    out: _shared.Out = Path("latent.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Map the codes of real images to a plane, coloured by class: what the encoder finds alike lies together.

    Example: cvae plot latent mnist-resnet-conditional --thumbnails
    """
    _ready(out)
    from cvae.plots import style
    from cvae.plots.codes import encode
    from cvae.plots.latent import check_method, draw, project

    check_method(method)
    encoder, asked = _encoder(model, device, data=data, data_dir=data_dir, size=size, binarize=binarize)
    codes = encode(encoder, asked, split=split, limit=limit, remark=_shared.say)
    if encoder.spec.classes is not None:
        _shared.say("the label tells this model the class, so that its codes need not: expect the classes mixed")
    places = project(codes.mean, method, perplexity=perplexity, seed=seed)
    count, how = len(places), {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}[method]
    title = f"{encoder.spec.name}: codes of {count:,} {split} images of {codes.data} ({how})"
    style.save(draw(codes, places, title, thumbnails=thumbnails), out)
    facts = {"out": str(out), "model": encoder.spec.name, "data": codes.data, "split": split, "images": count}
    _shared.report(json, {**facts, "method": method}, f"{out} ({count:,} images)")


@app.command()
def traverse(
    model: _shared.ModelName = None,
    image: Annotated[Path | None, typer.Option(help="Start from the code of this picture. [the zero code]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Start from the code that this seed draws.")] = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    dimensions: Annotated[int, typer.Option(min=1, max=1_000, help="Rows.")] = 10,
    steps: Annotated[int, typer.Option(min=2, max=100, help="Columns.")] = 9,
    range_: Annotated[float, typer.Option("--range", min=0.01, max=100, help="From -R to R.")] = 3.0,
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
    """Vary one dimension of the code at a time, a row each, those that say most about the data's images first.

    Example: cvae plot traverse mnist-resnet-conditional --digit 7
    """
    _ready(out)
    import numpy as np

    from cvae.plots import style
    from cvae.plots.codes import encode
    from cvae.plots.traverse import draw, top_dimensions

    if image is not None and seed is not None:
        raise UsageError(f"--image {str(image)!r} and --seed {seed} are two codes to start from; give one")
    coder, asked = _encoder(model, device, data=data, data_dir=data_dir, size=size, binarize=binarize)
    wanted = _shared.choose_class(coder.spec, label=label, digit=digit, label_index=label_index)
    code, index = _start(coder, image, seed, wanted)
    name = None if index is None or coder.spec.classes is None else coder.spec.classes[index]
    codes = encode(coder, asked, split=split, limit=limit, remark=_shared.say)
    kl, values = codes.kl(), np.linspace(-range_, range_, steps, dtype=np.float32)
    title = coder.spec.name + ("" if name is None else f", label {name}")
    style.save(draw(coder, code, index, kl, values, dimensions, title), out)
    chosen = [int(d) for d in top_dimensions(kl, dimensions)]
    facts: dict[str, Any] = {"out": str(out), "model": coder.spec.name, "label": name, "images": len(codes.mean)}
    facts |= {"dimensions": chosen, "kl": kl[chosen].tolist(), "values": values.tolist()}
    _shared.report(json, facts, f"{out} ({len(chosen)} of {len(kl)} dimensions)")


@app.command()
def reconstructions(
    model: _shared.ModelName = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000, help="Images, spread over the split.")] = 16,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images beside each other.")] = 8,
    data: _shared.Data = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    binarize: _shared.Binarize = None,
    split: _shared.SplitName = "test",
    out: _shared.Out = Path("reconstructions.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Show images of a data set, and below them what the model makes of them.

    Example: cvae plot reconstructions mnist-resnet-conditional
    """
    _ready(out)
    from cvae.plots import style
    from cvae.plots.codes import encode
    from cvae.plots.reconstructions import draw

    coder, asked = _encoder(model, device, data=data, data_dir=data_dir, size=size, binarize=binarize)
    codes = encode(coder, asked, split=split, limit=n, remark=_shared.say)
    count = len(codes.mean)
    style.save(draw(coder, codes, min(columns, count), f"{coder.spec.name}: {split} images of {codes.data}"), out)
    facts = {"out": str(out), "model": coder.spec.name, "data": codes.data, "split": split, "images": count}
    _shared.report(json, facts, f"{out} ({count:,} images)")


@app.command()
def grid(
    model: _shared.ModelName = None,
    label: _shared.Label = None,
    digit: _shared.Digit = None,
    label_index: _shared.LabelIndex = None,
    columns: Annotated[int | None, typer.Option(min=1, max=100, help="Styles; 20 for a manifold. [10]")] = None,
    seed: _shared.Seed = None,
    out: _shared.Out = Path("grid.png"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Draw every class in the same styles; of a code of two numbers without labels, or with --label, the whole plane.

    Example: cvae plot grid mnist-resnet-conditional --seed 0
    """
    _ready(out)
    from cvae.plots import style
    from cvae.plots.grid import class_grid, manifold

    decoder = _shared.open_model(model, device)
    spec = decoder.spec
    index = _shared.choose_class(spec, label=label, digit=digit, label_index=label_index)
    name = None if index is None or spec.classes is None else spec.classes[index]
    facts = {"out": str(out), "model": spec.name}
    if spec.classes is not None and index is None:
        columns, seed = columns or 10, _shared.new_seed(seed)
        style.save(class_grid(decoder, columns, seed, f"{spec.name}: one style a column (seed {seed})"), out)
        text = f"{out} ({len(spec.classes)} classes, {columns} styles, seed {seed})"
        _shared.report(json, {**facts, "classes": list(spec.classes), "columns": columns, "seed": seed}, text)
        return
    if spec.latent_dim != 2:
        which = "" if model is None else f" {model}"
        of_class = "" if name is None else f" --label {shlex.quote(name)}"
        raise UsageError(
            f"{spec.name!r} has a code of {spec.latent_dim} numbers, and a plane takes 2; "
            f"see its images with: cvae generate{which} -n 64{of_class}, or: cvae plot traverse{which}"
        )
    if seed is not None:
        raise UsageError(f"--seed {seed}: no noise is drawn for the plane of a code; leave it out")
    columns = columns or 20
    title = f"{spec.name}: the plane of its codes" + ("" if name is None else f", label {name}")
    style.save(manifold(decoder, index, columns, title), out)
    _shared.report(json, {**facts, "label": name, "columns": columns}, f"{out} ({columns} x {columns} codes)")


@app.command()
def losses(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Runs or zoo names. [newest run, else the zoo's]")
    ] = None,
    out: _shared.Out = Path("losses.png"),
    json: _shared.Json = False,
) -> None:
    """Draw the bound of trainings, and its two parts, by epoch.

    Example: cvae plot losses mnist-resnet-conditional
    """
    _ready(out)
    from cvae.plots import style
    from cvae.plots.losses import draw, read_history

    folders = [_run(name) for name in runs or (None,)]
    ends = [folder.resolve().name for folder in folders]
    names = [end if ends.count(end) == 1 else str(folder) for end, folder in zip(ends, folders, strict=True)]
    records = {name: read_history(folder) for name, folder in zip(names, folders, strict=True)}
    style.save(draw(records), out)
    epochs = {name: sum("epoch" in record for record in of) for name, of in records.items()}
    _shared.report(json, {"out": str(out), "epochs": epochs}, f"{out} ({', '.join(epochs)})")


@app.command()
def progress(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run. [newest run]")] = None,
    epochs: Annotated[str | None, typer.Option(help="Which, as 1,10,20. [at most 8, evenly]")] = None,
    out: _shared.Out = Path("progress.png"),
    json: _shared.Json = False,
) -> None:
    """Show how reconstructions became better: the originals, and below them a row an epoch.

    Example: cvae plot progress runs/digits-resnet-conditional
    """
    _ready(out)
    from cvae.plots import style
    from cvae.plots.progress import choose_epochs, draw, find_samples
    from cvae.run import read_config

    folder = _run(run)
    image_shape = read_config(folder).model.image_shape
    there = find_samples(folder)
    chosen = choose_epochs(list(there), epochs)
    figure = draw({epoch: there[epoch] for epoch in chosen}, image_shape, f"{folder.resolve().name}: reconstructions")
    style.save(figure, out)
    _shared.report(json, {"out": str(out), "run": str(folder), "epochs": chosen}, f"{out} ({len(chosen)} epochs)")


def _ready(out: Path) -> None:
    """Before anything takes time: the packages are here, and figures are written with this ending."""
    from importlib.util import find_spec

    from cvae.errors import MissingExtraError

    if not all(map(find_spec, ("matplotlib", "sklearn"))):
        raise MissingExtraError("cvae plot", "plot")
    from cvae.plots.style import check_suffix

    check_suffix(out)


def _run(name: str | None) -> Path:
    """The folder of the run named, or else of the newest, saying which."""
    from cvae.runtime.find import newest

    path, remark = newest(name)
    if remark:
        _shared.say(remark)
    return path if path.is_dir() else path.parent


def _encoder(name: str | None, device: str, **flags: str | int | None) -> "tuple[Model, DataConfig]":
    """The model named, which must have an encoder, and the data that it was trained on or that the flags say."""
    from cvae.evaluation.evaluate import find_data_config

    model, folder = _shared.open_pair(name, device)
    return model, _shared.override_data(find_data_config(folder, model.spec.data), **flags)


def _start(model: "Model", image: Path | None, seed: int | None, index: int | None) -> "tuple[np.ndarray, int | None]":
    """The code to start from (Z,), and the index of the class it is decoded with."""
    import numpy as np

    if image is not None:
        pixels = _shared.read_picture(image, model)[None]  # (C, H, W) -> (1, C, H, W)
        labels = _shared.nearest_labels(model, pixels, index, [str(image)])
        return model.encode(pixels, label_index=labels)[0][0], None if labels is None else labels[0]
    code = np.zeros(model.spec.latent_dim, np.float32) if seed is None else model.noise(1, seed)[0]
    if index is None and model.spec.classes is not None:
        _shared.say(f"no label given: {model.spec.classes[0]!r}, the first")
        return code, 0
    return code, index
