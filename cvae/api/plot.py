"""Functions that plot what a model has learned and how it was trained. Each returns a matplotlib figure.

Importing this module is cheap and requires no extras: each function imports what it needs when it is called.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.api.arguments import Note
from cvae.api.decoded_plots import grid as grid
from cvae.api.decoded_plots import traverse as traverse
from cvae.api.plot_helpers import DESCRIPTIONS, check_ready, find_run, finish, open_with_data
from cvae.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def describe(figure: "Figure") -> dict[str, Any]:
    """Return what a figure of this module shows, such as the model and the number of images."""
    return dict(DESCRIPTIONS[figure])


def latent(
    model: str | Path | None = None,
    *,
    method: str = "tsne",
    perplexity: float = 30.0,
    thumbnails: bool = False,
    data: str | None = None,
    data_dir: str | None = None,
    size: str | None = None,
    binarize: str | None = None,
    split: str | None = None,
    limit: int = 2_000,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "cpu",
    note: Note = None,
) -> "Figure":
    """Plot the latent codes of real images in two dimensions, coloured by class. Similar codes are close together.

    Args:
        model: Run folder, exported file, zoo model or hf://owner/name; None for the newest run, or else the zoo's
            default model.
        method: Projection method: "tsne", "pca" or "umap".
        perplexity: Perplexity of t-SNE, the effective number of neighbours of a point.
        thumbnails: Show some of the images in the plot.
        data: Data set, as in `cvae.train`; None for the one used in training.
        data_dir: Folder of downloaded data and of the cache; None for the one used in training.
        size: Height and width of the images, such as "64" or "64x96"; None for the size in training.
        binarize: Binarization of the pixels, as in `cvae.train`; None for the one used in training.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        limit: Maximum number of images to encode, evenly spaced in the split.
        seed: Seed of the projection method.
        out: File to save the figure to, .png or .svg; None to save nothing.
        device: "cpu", "cuda", "auto" or an onnxruntime provider.
        note: Called with each message for the user.

    Raises:
        UsageError: If there is no such model, data set or method, or there are too few images for the perplexity.
        MissingExtraError: If the packages for plots are not installed.
        CvaeError: If a file is damaged, or the figure can't be saved.
    """
    check_ready(out)
    from cvae.plots.codes import encode
    from cvae.plots.latent import check_method, draw, project

    check_method(method)
    encoder, config = open_with_data(model, device, note, data=data, data_dir=data_dir, size=size, binarize=binarize)
    codes = encode(encoder, config, split=split, limit=limit, note=note)
    if encoder.spec.category is not None and note is not None:
        note("this model knows the class from the label, so its codes need not contain the class: expect mixed colours")
    points = project(codes.mean, method, perplexity=perplexity, seed=seed)
    count, method_name = len(points), {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}[method]
    title = f"{encoder.spec.name}: codes of {count:,} {codes.split} images of {codes.data} ({method_name})"
    description = {"model": encoder.spec.name, "data": codes.data, "split": codes.split, "images": count}
    description["method"] = method
    return finish(draw(codes, points, title, thumbnails=thumbnails), out, description)


def reconstructions(
    model: str | Path | None = None,
    *,
    n: int = 16,
    columns: int = 8,
    data: str | None = None,
    data_dir: str | None = None,
    size: str | None = None,
    binarize: str | None = None,
    split: str | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    note: Note = None,
) -> "Figure":
    """Show images from a data set above their reconstructions.

    Args:
        model: Model with an encoder, as in `latent`.
        n: Number of images, evenly spaced in the split.
        columns: Number of images per row.
        data: Data set, as in `latent`.
        data_dir: As in `latent`.
        size: As in `latent`.
        binarize: As in `latent`.
        split: "test", "validation" or "train"; None for "test", or "validation" if there are no test images.
        out: File to save the figure to, .png or .svg; None to save nothing.
        device: "cpu", "cuda", "auto" or an onnxruntime provider.
        note: Called with each message for the user.

    Raises:
        UsageError: If there is no such model or data set.
        MissingExtraError: If the packages for plots are not installed.
        CvaeError: If a file is damaged, or the figure can't be saved.
    """
    check_ready(out)
    from cvae.plots.codes import encode
    from cvae.plots.reconstructions import draw

    autoencoder, config = open_with_data(
        model, device, note, data=data, data_dir=data_dir, size=size, binarize=binarize
    )
    codes = encode(autoencoder, config, split=split, limit=n, note=note)
    name, count = autoencoder.spec.name, len(codes.mean)
    figure = draw(autoencoder, codes, min(columns, count), f"{name}: {codes.split} images of {codes.data}")
    return finish(figure, out, {"model": name, "data": codes.data, "split": codes.split, "images": count})


def nearest(
    model: str | Path | None = None,
    *,
    n: int = 10,
    neighbours: int = 3,
    features: str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    size: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "cpu",
    note: Note = None,
) -> "Figure":
    """Show generated images above their nearest training images, which shows whether the model copies them.

    Args:
        model: Exported model, as in `latent`. It needs no encoder.
        n: Number of generated images. They cycle through the classes.
        neighbours: Number of training images below each generated image.
        features: Features whose Euclidean distance is compared: "pixels", or a feature extractor as in `cvae.evaluate`;
            None for the classifier of the data set if there is one, or else for the pixels.
        data: Data set, as in `latent`.
        data_dir: As in `latent`.
        size: As in `latent`.
        seed: Seed of the noise.
        out: File to save the figure to, .png or .svg; None to save nothing.
        device: "cpu", "cuda", "auto" or an onnxruntime provider.
        note: Called with each message for the user.

    Raises:
        UsageError: If there is no such model, data set or feature extractor, or there are too few training images.
        MissingExtraError: If the packages for plots are not installed.
        CvaeError: If a file is damaged, or the figure can't be saved.
    """
    check_ready(out)
    from cvae.evaluation.evaluate import choose_extractor, find_data_config
    from cvae.evaluation.feature_extractor import PIXELS, TRAINED, FeatureExtractor
    from cvae.evaluation.splits import load_split
    from cvae.plots.nearest import draw

    generator = arguments.open_model(model, device, note)
    spec = generator.spec
    recorded = find_data_config(generator.path, spec.data)
    config = arguments.override_data(recorded, data=data, data_dir=data_dir, size=size, binarize="none")
    dataset, _, train = load_split(config, "train", spec, labelled=False, note=note)
    if neighbours > len(train):
        raise UsageError(f"--neighbours is {neighbours}, but there are {len(train)} training images; use fewer")
    extractor: FeatureExtractor = PIXELS
    if features == TRAINED:
        from cvae.api.classifier import train_extractor

        extractor = train_extractor(config, note=note)
    elif features != PIXELS.name:
        extractor = choose_extractor(features, dataset.name, spec) or PIXELS
        if extractor.features is None:
            raise UsageError(f"--features {features!r} has no output named features, whose distances can be compared")
    images = generator.generate(n, seed=seed)
    title = f"{spec.name}: nearest training images by {extractor.name.partition(',')[0]}"
    figure = draw(images, train, extractor, neighbours, title)
    description = {"model": spec.name, "data": dataset.name, "features": extractor.name, "images": n}
    return finish(figure, out, description)


def losses(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    out: str | Path | None = None,
    note: Note = None,
) -> "Figure":
    """Plot the bound of each run, and the two terms of the bound, over the epochs.

    Args:
        runs: Run folders or zoo models, one or several; None for the newest run, or else the zoo's default model.
        out: File to save the figure to, .png or .svg; None to save nothing.
        note: Called with each message for the user.

    Raises:
        UsageError: If there is no such run, or there are more runs than colours.
        MissingExtraError: If the packages for plots are not installed.
        CvaeError: If a run has no metrics, or the figure can't be saved.
    """
    check_ready(out)
    from cvae.plots.losses import draw, read_history

    names = [runs] if runs is None or isinstance(runs, str | os.PathLike) else runs
    folders = [find_run(None if name is None else os.fspath(name), note) for name in names or [None]]
    ends = [folder.resolve().name for folder in folders]
    titles = [end if ends.count(end) == 1 else str(folder) for end, folder in zip(ends, folders, strict=True)]
    records = {title: read_history(folder) for title, folder in zip(titles, folders, strict=True)}
    epochs = {title: sum("epoch" in record for record in history) for title, history in records.items()}
    return finish(draw(records), out, {"epochs": epochs})


def progress(
    run: str | Path | None = None,
    *,
    epochs: str | Sequence[int] | None = None,
    out: str | Path | None = None,
    note: Note = None,
) -> "Figure":
    """Show how reconstructions improve during training: one row of originals, then one row per epoch.

    Args:
        run: Run folder; None for the newest run.
        epochs: Epochs to show, such as [0, 10, 20] or "0,10,20"; None for at most 8, evenly spaced.
        out: File to save the figure to, .png or .svg; None to save nothing.
        note: Called with each message for the user.

    Raises:
        UsageError: If there is no such run, or an epoch was not saved.
        MissingExtraError: If the packages for plots are not installed.
        CvaeError: If the run has no sample images, or the figure can't be saved.
    """
    check_ready(out)
    from cvae.plots.progress import choose_epochs, draw, find_samples
    from cvae.run import read_config

    folder = find_run(run, note)
    image_shape = read_config(folder).model.image_shape
    images = find_samples(folder)
    text = epochs if epochs is None or isinstance(epochs, str) else ",".join(map(str, epochs))
    chosen = choose_epochs(list(images), text)
    figure = draw({epoch: images[epoch] for epoch in chosen}, image_shape, f"{folder.resolve().name}: reconstructions")
    return finish(figure, out, {"run": str(folder), "epochs": chosen})
