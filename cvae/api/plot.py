"""Functions that plot what a model has learned and how it was trained. Each returns a matplotlib figure.

Importing this module is cheap and requires no extras: each function imports what it needs when it is called.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.api.arguments import Note
from cvae.api.classes import Indices, Labels
from cvae.api.plot_helpers import DESCRIPTIONS, check_ready, choose_start, find_run, finish, open_with_data
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


def traverse(
    model: str | Path | None = None,
    *,
    image: str | Path | None = None,
    seed: int | None = None,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
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
    class_index = arguments.choose_class(autoencoder.spec, label=label, digit=digit, label_index=label_index)
    code, index = choose_start(autoencoder, image, seed, class_index, note)
    name = None if index is None or autoencoder.spec.classes is None else autoencoder.spec.classes[index]
    codes = encode(autoencoder, config, split=split, limit=limit, note=note)
    kl, values = codes.kl(), np.linspace(-range, range, steps, dtype=np.float32)
    title = autoencoder.spec.name + ("" if name is None else f", label {name}")
    chosen = [int(d) for d in top_dimensions(kl, dimensions)]
    description: dict[str, Any] = {"model": autoencoder.spec.name, "label": name, "images": len(codes.mean)}
    description |= {"latent_dim": len(kl), "dimensions": chosen, "kl": kl[chosen].tolist(), "values": values.tolist()}
    return finish(draw(autoencoder, code, index, kl, values, dimensions, title), out, description)


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
    from cvae.evaluation.evaluate import choose_extractor, find_data_config, load_split
    from cvae.evaluation.feature_extractor import PIXELS, TRAINED, FeatureExtractor
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
        extractor = choose_extractor(features, dataset.name, spec.image_shape) or PIXELS
    images = generator.generate(n, seed=seed)
    title = f"{spec.name}: nearest training images by {extractor.name.partition(',')[0]}"
    figure = draw(images, train, extractor, neighbours, title)
    description = {"model": spec.name, "data": dataset.name, "features": extractor.name, "images": n}
    return finish(figure, out, description)


def grid(
    model: str | Path | None = None,
    *,
    label: "Labels | None" = None,
    digit: "Labels | None" = None,
    label_index: "Indices | None" = None,
    columns: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    note: Note = None,
) -> "Figure":
    """Show every class in the same styles, or a map of the latent space.

    The map requires a model with two latent dimensions and, if the model has labels, `label`.

    Args:
        model: Model, as in `latent`.
        label: Class of the images in the map, by name.
        digit: Same as `label`, for models of digits.
        label_index: Class of the images in the map, by index from 0.
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
    from cvae.plots.grid import class_grid, manifold

    decoder = arguments.open_model(model, device, note)
    spec = decoder.spec
    index = arguments.choose_class(spec, label=label, digit=digit, label_index=label_index)
    if spec.classes is not None and index is None:
        columns, seed = columns or 10, arguments.choose_seed(seed)
        figure = class_grid(decoder, columns, seed, f"{spec.name}: one style per column (seed {seed})")
        return finish(
            figure, out, {"model": spec.name, "classes": list(spec.classes), "columns": columns, "seed": seed}
        )
    name = None if index is None or spec.classes is None else spec.classes[index]
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
    figure = manifold(decoder, index, columns, title)
    return finish(figure, out, {"model": spec.name, "label": name, "columns": columns})


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
