"""Input and output of the `cvae detect` commands: models, images, heat maps and tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.cli import _shared
from cvae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from cvae.config import DataConfig
    from cvae.data import Dataset, Split
    from cvae.evaluation.exported_scorer import ExportedScorer


def open_scorer(name: str | None, device: str) -> "tuple[ExportedScorer, Path]":
    """Open the exported files of a model, and return them with their folder, where the detector is stored too."""
    from cvae import model_zoo
    from cvae.evaluation.exported_scorer import ExportedScorer

    model, folder = arguments.open_autoencoder(name, device, note=_shared.echo)
    if folder.resolve() in model_zoo.models().values():
        raise UsageError(f"{folder.name!r} belongs to the package; copy it first: cvae zoo copy {folder.name}")
    return ExportedScorer(model), folder


def load_normal_images(
    scorer: "ExportedScorer", config: "DataConfig", split: str | None, is_training_set: bool
) -> "tuple[Dataset, Split]":
    """Load a data set of normal images and one of its splits.

    The default split holds images that the model has not seen: the validation images of the data set that it was
    trained on, or all training images of any other data set.
    """
    from dataclasses import replace

    from cvae.evaluation.evaluate import load_split

    config = replace(config, binarize="none")  # because the images to score are not binarized either
    if split is None and not is_training_set:
        config = replace(config, validation=0.0)
    name = split or ("validation" if is_training_set else "train")
    return load_split(config, name, scorer, labelled=False, note=_shared.echo)


def list_images(paths: list[Path], out: Path) -> dict[str, Path]:
    """Return image files by relative path: the files among `paths`, and the images in the folders among them.

    Earlier output of the command in `out` is not listed.
    """
    import os

    files: list[Path] = []
    for path in paths:
        files += _list_folder(path, out) if path.is_dir() else [path.resolve()]
    try:
        root = os.path.commonpath([file.parent for file in files])
    except ValueError as error:
        raise UsageError(f"{paths[0]} and {paths[-1]} are on different drives; score them separately") from error
    return {file.relative_to(root).as_posix(): file for file in files}


def _list_folder(path: Path, out: Path) -> list[Path]:
    from cvae.data.listing import read_folder
    from cvae.errors import CvaeError

    output = {out.resolve() / "maps", out.resolve() / "worst.png"}
    try:
        folder = read_folder(path.resolve())
    except OSError as error:
        raise CvaeError(f"can't read {str(error.filename or path)!r}: {error.strerror}") from error
    images = [file for file in folder.all_images() if output.isdisjoint((file, *file.parents))]
    if not images:
        raise UsageError(f"{str(path)!r} has no readable images, such as .png or .jpg files")
    if folder.other_files:
        _shared.echo(f"{path}: ignored files that are not readable images: {folder.describe_other_files()}")
    if folder.skipped:
        _shared.echo(f"{path}: skipped: {folder.describe_skipped()}")
    return images


def save_error_maps(
    out: Path, names: list[str], originals: "np.ndarray", reconstructions: "np.ndarray", worst: "np.ndarray"
) -> None:
    """Save a heat map of each image's reconstruction error in `maps`, and the worst images in `worst.png`.

    Args:
        out: folder to write.
        names: relative paths of the image files.
        originals: images (N, C, H, W).
        reconstructions: reconstructions of the images (N, C, H, W).
        worst: indices of the images in `worst.png`, which shows each as original, reconstruction and heat map.
    """
    import numpy as np

    from cvae import imaging

    maps = imaging.error_maps(originals, reconstructions)  # (N, 3, H, W)
    for name, error_map in zip(names, maps, strict=True):
        path = out / "maps" / (name if name.endswith(".png") else f"{name}.png")
        imaging.save(imaging.enlarge(imaging.to_pil(error_map)), path)
    columns = (originals, reconstructions, maps)
    cells = [np.broadcast_to(images[i], maps.shape[1:]) for i in worst for images in columns]
    imaging.save(imaging.enlarge(imaging.grid(np.stack(cells), columns=len(columns))), out / "worst.png")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with equal keys as a CSV file, with the keys as its header."""
    import csv
    import io

    from cvae.atomic import write_file

    text = io.StringIO()
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue())
