"""The command `cvae detect`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvae.cli import _shared
from cvae.errors import UsageError, suggest

if TYPE_CHECKING:
    import numpy as np

    from cvae.config import DataConfig
    from cvae.data import Dataset, Split
    from cvae.evaluation.exported_scorer import ExportedScorer

app = typer.Typer(no_args_is_help=True, help="Find images that differ from those a model was trained on.")

MAX_WORST = 8
"""Number of images in worst.png."""


@app.command()
def fit(
    model: _shared.ModelName = None,
    quantile: Annotated[
        float, typer.Option(metavar="X", help="Fraction of normal images that do not exceed the thresholds.")
    ] = 0.95,
    data: Annotated[
        str | None, typer.Option(metavar="NAME[:PATH]", help="Data set of normal images. [that of the training]")
    ] = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="train|validation|test", help="Split of the data set. [validation; with --data, all of train]"
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of images, spread over the split.")
    ] = 5_000,
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Fit a detector to normal images, and store it with the model.

    Use images that the model was not trained on, since the scores of training images are too low.

    Example: cvae detect fit runs/digits-resnet-conditional
    """
    from cvae.detection.detector import Detector
    from cvae.evaluation.evaluate import find_data_config, subsample
    from cvae.serialization import to_dict

    scorer, folder = _scorer(model, device)
    config = _shared.override_data(
        find_data_config(folder, scorer.model.spec.data), data=data, data_dir=data_dir, size=size
    )
    dataset, part = _normal(scorer, config, split, own=data is None)
    part = subsample(part, limit)
    with _shared.progress() as progress:
        update = partial(progress, "normal images")
        detector = Detector.fit(scorer, part.images, data=dataset.name, quantile=quantile, progress=update)
    files, facts = detector.save(folder), detector.facts
    text = [f"{files[0]}: from {facts.images:,} images of {facts.data}; an image is an anomaly above"]
    text += [f"  {score:15}{value:12.3f}" for score, value in facts.thresholds.items()]
    _shared.report(json, {"out": str(files[0]), **to_dict(facts)}, "\n".join(text))


@app.command()
def score(
    images: Annotated[list[Path], typer.Argument(metavar="PATH", help="Image files or folders.")],
    model: _shared.ModelOption = None,
    by: Annotated[str, typer.Option(metavar="SCORE", help="Score that decides the verdict.")] = "combined",
    resize: Annotated[bool, typer.Option("--resize", help="Scale and crop images of another size.")] = False,
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder for scores.csv, worst.png and maps/.")] = Path(
        "anomalies"
    ),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Score images, report which are anomalies, and show where their reconstructions differ.

    Example: cvae detect score photos --model runs/mnist-resnet --out anomalies
    """
    import numpy as np

    from cvae import imaging
    from cvae.detection.detector import Detector
    from cvae.detection.scores import measure

    scorer, folder = _scorer(model, device)
    detector = Detector.load(folder, scorer)
    thresholds = detector.facts.thresholds
    if by not in thresholds:
        raise UsageError(f"--by {by!r}: {scorer.name!r} has no such score; {suggest(by, thresholds)}")
    files = _files(images, out)
    pixels, remark = imaging.read_set(list(files.values()), scorer.image_shape, exact=not resize)
    if remark:
        _shared.say(remark)
    with _shared.progress() as progress:
        measured = measure(scorer, pixels, reconstructions=True, progress=partial(progress, "images"))
    assert measured.reconstruction is not None
    scores = detector.scores(measured)
    anomalies = scores[by] > thresholds[by]
    rows = [
        {
            "image": name,
            "verdict": "anomaly" if anomalies[i] else "normal",
            **{score: round(float(values[i]), 6) for score, values in scores.items()},
            **({} if measured.label is None else {"label": scorer.model.spec.classes[measured.label[i]]}),  # type: ignore[index]
        }
        for i, name in enumerate(files)
    ]
    worst = np.argsort(-scores[by], kind="stable")[:MAX_WORST]
    _save_maps(out, list(files), pixels, measured.reconstruction, worst)
    _write_csv(out / "scores.csv", rows)
    text = [f"{'anomaly' if anomalies[i] else 'normal ':8} {scores[by][i]:10.3f}  {rows[i]['image']}" for i in worst]
    text += [f"{out}: {anomalies.sum()} of {len(rows)} images are anomalies ({by} above {thresholds[by]:.3f})"]
    facts = {"out": str(out), "model": scorer.name, "by": by, "thresholds": dict(thresholds), "images": rows}
    _shared.report(json, facts, "\n".join(text))


def _scorer(name: str | None, device: str) -> "tuple[ExportedScorer, Path]":
    """Open the exported files of a model, and return them with their folder, which is also that of the detector."""
    from cvae import model_zoo
    from cvae.evaluation.exported_scorer import ExportedScorer

    model, folder = _shared.open_pair(name, device)
    if folder.resolve() in model_zoo.models().values():
        raise UsageError(f"{folder.name!r} belongs to the package; copy it first: cvae zoo copy {folder.name}")
    return ExportedScorer(model), folder


def _normal(scorer: "ExportedScorer", config: "DataConfig", split: str | None, own: bool) -> "tuple[Dataset, Split]":
    """Load normal images: a held-out split if the data set is the model's `own`, else all images of another."""
    from dataclasses import replace

    from cvae.evaluation.evaluate import load_split

    config = replace(config, binarize="none")  # images to score are not binarized either
    if split is None and not own:
        config = replace(config, validation=0.0)
    return load_split(config, split or ("validation" if own else "train"), scorer, labelled=False, remark=_shared.say)


def _files(paths: list[Path], out: Path) -> dict[str, Path]:
    """Return image files by relative path: `paths` and the files in their folders, without earlier output in `out`."""
    import os

    from cvae.data.listing import read_folder
    from cvae.errors import CvaeError

    files: list[Path] = []
    written = {out.resolve() / "maps", out.resolve() / "worst.png"}
    for argument in paths:
        path, inside = argument.resolve(), []
        if path.is_dir():
            try:
                folder = read_folder(path)
            except OSError as error:
                raise CvaeError(f"can't read {str(error.filename or argument)!r}: {error.strerror}") from error
            inside = [file for file in folder.all_images() if written.isdisjoint((file, *file.parents))]
            if not inside:
                raise UsageError(f"{str(argument)!r} has no readable images, such as .png or .jpg files")
            if folder.other_files:
                _shared.say(f"{argument}: ignored files that are not readable images: {folder.describe_other_files()}")
        files += inside if path.is_dir() else [path]
    try:
        root = os.path.commonpath([file.parent for file in files])
    except ValueError as error:
        raise UsageError(f"{paths[0]} and {paths[-1]} are on different drives; score them separately") from error
    return {file.relative_to(root).as_posix(): file for file in files}


def _save_maps(
    out: Path, names: list[str], pixels: "np.ndarray", reconstruction: "np.ndarray", worst: "np.ndarray"
) -> None:
    """Save a heat map of the error of each image in `maps`, and `worst.png` with image, reconstruction and map."""
    import numpy as np

    from cvae import imaging

    maps = imaging.error_maps(pixels, reconstruction)  # (N, 3, H, W)
    for name, error_map in zip(names, maps, strict=True):
        path = out / "maps" / (name if name.endswith(".png") else f"{name}.png")
        imaging.save(imaging.enlarge(imaging.to_pil(error_map)), path)
    panels = [np.broadcast_to(images[i], maps.shape[1:]) for i in worst for images in (pixels, reconstruction, maps)]
    imaging.save(imaging.enlarge(imaging.grid(np.stack(panels), columns=3)), out / "worst.png")


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv
    import io

    from cvae.atomic import write_file

    text = io.StringIO()
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue())
