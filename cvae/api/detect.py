"""Functions to find images that differ from the training images of a model.

Importing this module is cheap and requires no extras: each function imports what it needs when it is called.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.api import arguments
from cvae.api.arguments import Note
from cvae.atomic import atomic_update, write_file
from cvae.errors import CvaeError, UsageError, count_of, suggest

if TYPE_CHECKING:
    import numpy as np

    from cvae.config import DataConfig
    from cvae.data import Dataset, Split
    from cvae.evaluation.exported_scorer import ExportedScorer
    from cvae.imaging.stream import ImageStream

MAX_WORST = 8
"""Maximum number of images in worst.png."""

CHUNK_VALUES = 2**20
"""Maximum number of pixel values in a chunk of images, which are scored together."""

Progress = Callable[[str, int, int], None]
"""Function called with the name of the stage, the number of finished items, and the total."""


def fit(
    model: str | Path | None = None,
    *,
    quantile: float = 0.95,
    data: str | None = None,
    data_dir: str | None = None,
    size: str | None = None,
    split: str | None = None,
    limit: int = 5_000,
    device: str = "cpu",
    note: Note = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a detector to normal images, and store it in the model's folder.

    Use images that the model was not trained on, because the scores of training images are too low.

    Args:
        model: Run folder, exported file or hf://owner/name; None for the newest run.
        quantile: Fraction of normal images whose scores do not exceed the thresholds.
        data: Data set of normal images, as in `cvae.train`; None for the one used in training.
        data_dir: Folder of downloaded data and of the cache; None for the one used in training.
        size: Height and width of the images, such as "64" or "64x96"; None for the size in training.
        split: "train", "validation" or "test"; None for "validation" or, with `data`, all training images.
        limit: Maximum number of images, evenly spaced in the split.
        device: "cpu", "cuda", "auto" or an onnxruntime provider.
        note: Called with each message for the user.
        progress: Called with the name of the stage, the number of finished images, and the total.

    Returns:
        The path of the detector as "out", and its metadata: the data, the number of images, the quantile, and the
        threshold of each score.

    Raises:
        UsageError: If there is no such model or split, the data do not fit the model, or there are too few images.
        CvaeError: If a file is damaged, the data can't be loaded, or a score is not finite.
    """
    from cvae.detection.detector import Detector
    from cvae.evaluation.evaluate import find_data_config
    from cvae.evaluation.generation import subsample
    from cvae.serialization import to_dict

    scorer, folder = _open_scorer(model, device, note)
    config = arguments.override_data(
        find_data_config(folder, scorer.model.spec.data), data=data, data_dir=data_dir, size=size
    )
    dataset, normal = _load_normal_images(scorer, config, split, data is None, note)
    images = subsample(normal, limit).images
    update = None if progress is None else partial(progress, "normal images")
    detector = Detector.fit(scorer, images, data=dataset.name, quantile=quantile, progress=update)
    return {"out": str(detector.save(folder)[0]), **to_dict(detector.metadata)}


def score(
    images: str | Path | Sequence[str | Path],
    *,
    model: str | Path | None = None,
    score: str = "combined",
    resize: bool = False,
    out: str | Path | None = None,
    device: str = "cpu",
    note: Note = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score images, report which are anomalies, and draw heat maps of their reconstruction errors.

    The images are read in chunks, so they need not fit in memory. Images that can't be read are skipped.

    Args:
        images: Image files and folders, one or several.
        model: Model with a detector, as in `fit`; None for the newest run.
        score: Score that decides whether an image is an anomaly.
        resize: Scale and crop images to the model's input size.
        out: Folder for scores.csv, worst.png and maps/, which are written at the end; None to write nothing.
        device: "cpu", "cuda", "auto" or an onnxruntime provider.
        note: Called with each message for the user.
        progress: Called with the name of the stage, the number of finished images, and the total.

    Returns:
        A dict: "thresholds" contains the threshold of each score, "images" the verdict and the scores of each image,
        and "skipped" each image that can't be read, with the reason.

    Raises:
        UsageError: If there is no such model, score or image, or an image has the wrong size and `resize` is not set.
        CvaeError: If the model has no detector, none of the images can be read, or a file can't be written.
    """
    import numpy as np

    from cvae.detection.detector import Detector
    from cvae.detection.scores import measure
    from cvae.imaging.stream import ImageStream

    scorer, folder = _open_scorer(model, device, note)
    detector = Detector.load(folder, scorer.model.spec)
    thresholds = detector.metadata.thresholds
    if score not in thresholds:
        raise UsageError(f"--score {score!r}: {scorer.name!r} has no such score; {suggest(score, thresholds)}")
    out = None if out is None else Path(out)
    files = _list_images([Path(path) for path in ([images] if isinstance(images, str | Path) else images)], out, note)
    names, count = list(files), len(files)
    chunk = max(1, CHUNK_VALUES // math.prod(scorer.image_shape))
    stream = ImageStream(list(files.values()), scorer.image_shape, exact=not resize, chunk=chunk, skip=True)
    rows: dict[int, dict[str, Any]] = {}
    with nullcontext() if out is None else atomic_update(out) as output:
        for indices, pixels in stream:
            measurement = measure(scorer, pixels, reconstructions=output is not None)
            scores = detector.scores(measurement)
            for position, i in enumerate(indices):
                rows[i] = {
                    "image": names[i],
                    "verdict": "anomaly" if scores[score][position] > thresholds[score] else "normal",
                    **{name: round(float(values[position]), 6) for name, values in scores.items()},
                }
                if measurement.label is not None and scorer.classes is not None:
                    rows[i]["label"] = scorer.classes[measurement.label[position]]
            if output is not None and measurement.reconstruction is not None:
                _save_maps(output, [names[i] for i in indices], pixels, measurement.reconstruction)
            if progress is not None:
                progress("images", min(indices[-1] + 1, count), count)
        skipped = [{"image": names[i], "reason": reason} for i, reason in sorted(stream.unreadable.items())]
        _report_problems(stream, skipped, count, note)
        readable = [i for i in sorted(rows) if i not in stream.unreadable]
        if output is not None:
            worst = sorted(readable, key=lambda i: -rows[i][score])[:MAX_WORST]
            pixels = stream.read(worst)  # read again: only the final scores tell which are the worst
            reconstruction = measure(scorer, pixels, reconstructions=True).reconstruction
            assert isinstance(reconstruction, np.ndarray)
            _save_worst(output / "worst.png", pixels, reconstruction)
            _write_csv(output / "scores.csv", [rows[i] for i in readable])
    return {
        "out": None if out is None else str(out),
        "model": scorer.name,
        "by": score,
        "thresholds": dict(thresholds),
        "images": [rows[i] for i in readable],
        "skipped": skipped,
    }


def _open_scorer(name: str | Path | None, device: str, note: Note) -> "tuple[ExportedScorer, Path]":
    """Open the exported files of a model, and return a scorer and the folder of the files and of the detector."""
    from cvae import model_zoo
    from cvae.evaluation.exported_scorer import ExportedScorer

    model, folder = arguments.open_autoencoder(name, device, note)
    if folder.resolve() in model_zoo.models().values():
        raise UsageError(f"{folder.name!r} belongs to the package; copy it first: cvae zoo copy {folder.name}")
    return ExportedScorer(model), folder


def _load_normal_images(
    scorer: "ExportedScorer", config: "DataConfig", split: str | None, is_training_set: bool, note: Note
) -> "tuple[Dataset, Split]":
    """Load a data set of normal images and one of its splits.

    The default split holds images that the model has not seen: the validation images of the data set that it was
    trained on, or all training images of any other data set.
    """
    from cvae.evaluation.splits import load_split

    config = replace(config, binarize="none")  # because the images to score are not binarized either
    if split is None and not is_training_set:
        config = replace(config, validation=0.0)
    name = split or ("validation" if is_training_set else "train")
    dataset, _, images = load_split(config, name, scorer, labelled=False, note=note)
    return dataset, images


def _list_images(paths: Sequence[Path], out: Path | None, note: Note) -> dict[str, Path]:
    """Return image files by relative path: each of `paths` that is a file, and the images in each that is a folder.

    Earlier output in the folder `out` is not listed.
    """
    import os

    files: list[Path] = []
    for path in paths:
        files += _list_folder(path, out, note) if path.is_dir() else [path.resolve()]
    try:
        root = os.path.commonpath([file.parent for file in files])
    except ValueError as error:
        raise UsageError(f"{paths[0]} and {paths[-1]} are on different drives; score them separately") from error
    return {file.relative_to(root).as_posix(): file for file in files}


def _list_folder(path: Path, out: Path | None, note: Note) -> list[Path]:
    from cvae.data.listing import read_folder

    output = set() if out is None else {out.resolve() / "maps", out.resolve() / "worst.png"}
    try:
        folder = read_folder(path.resolve())
    except OSError as error:
        raise CvaeError(f"can't read {str(error.filename or path)!r}: {error.strerror}") from error
    images = [file for file in folder.all_images() if output.isdisjoint((file, *file.parents))]
    if not images:
        raise UsageError(f"{str(path)!r} has no readable images, such as .png or .jpg files")
    if note is not None and folder.other_files:
        note(f"{path}: ignored files that are not readable images: {folder.describe_other_files()}")
    if note is not None and folder.run_images:
        note(f"{path}: ignored {count_of(len(folder.run_images), 'image')} in run folders")
    if note is not None and folder.skipped:
        note(f"{path}: skipped: {folder.describe_skipped()}")
    return images


def _report_problems(stream: "ImageStream", skipped: Sequence[Mapping[str, str]], count: int, note: Note) -> None:
    """Send messages about converted images, about the range in which values were read, and about skipped images.

    Raises:
        CvaeError: If none of the images can be read.
    """
    from cvae.data.listing import group_by_reason

    reasons = group_by_reason((image["image"], image["reason"]) for image in skipped)
    if len(skipped) == count:
        raise CvaeError(f"none of the {count:,} images can be read: {reasons}")
    if note is not None:
        for message in (stream.mismatch, stream.ranges):
            if message is not None:
                note(message)
        if skipped:
            note(f"{len(skipped):,} of {count:,} images are skipped: {reasons}")


def _save_maps(out: Path, names: Sequence[str], originals: "np.ndarray", reconstructions: "np.ndarray") -> None:
    """Save a heat map of each reconstruction error in `maps`, under the relative path of the image.

    The originals and the reconstructions are (N, C, H, W).
    """
    from cvae import imaging

    for name, error_map in zip(names, imaging.error_maps(originals, reconstructions), strict=True):
        path = out / "maps" / (name if name.endswith(".png") else f"{name}.png")
        imaging.save(imaging.enlarge(imaging.to_pil(error_map)), path)


def _save_worst(path: Path, originals: "np.ndarray", reconstructions: "np.ndarray") -> None:
    """Save images (N, C, H, W) in one row each: the original, its reconstruction, and the heat map of the error."""
    import numpy as np

    from cvae import imaging

    maps = imaging.error_maps(originals, reconstructions)  # (N, 3, H, W)
    columns = (originals, reconstructions, maps)
    cells = [np.broadcast_to(images[i], maps.shape[1:]) for i in range(len(maps)) for images in columns]
    imaging.save(imaging.enlarge(imaging.grid(np.stack(cells), columns=len(columns))), path)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as a CSV file, with the keys as its header."""
    import csv
    import io

    from cvae.text import csv_cell

    text = io.StringIO()
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    write_file(path, text.getvalue())
