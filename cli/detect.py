"""The commands `cvae detect fit` and `cvae detect score`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cvae.api import arguments
from cvae.cli import _completion, _detect_io, _shared
from cvae.cli._help import App
from cvae.config import DATA, OUTPUT
from cvae.errors import UsageError, suggest

app = App(help="Find images that differ from the training images of a model.")

MAX_WORST = 8
"""Maximum number of images in worst.png."""


@app.command()
@_shared.add_model_option()
def fit(
    model: _shared.ModelName = None,
    quantile: Annotated[
        float,
        typer.Option(metavar="X", help="Fraction of normal images whose scores do not exceed the thresholds."),
    ] = 0.95,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:PATH]",
            help="Data set of normal images. [default: the training data set]",
            rich_help_panel=DATA,
            autocompletion=_completion.parts("data"),
        ),
    ] = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="train|validation|test",
            help="Split of the data set. [default: validation; with --data, all training images]",
            rich_help_panel=DATA,
            autocompletion=_completion.choices("train", "validation", "test"),
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of images, evenly spaced in the split.")
    ] = 5_000,
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Fit a detector to normal images, and store it in the model's folder.

    Use images that the model was not trained on, because the scores of training images are too low.

    Examples:
      cvae detect fit runs/mine
      cvae detect fit runs/mine --data folder:normal --quantile 0.99
    """
    from cvae.detection.detector import Detector
    from cvae.evaluation.evaluate import find_data_config, subsample
    from cvae.serialization import to_dict

    scorer, folder = _detect_io.open_scorer(model, device)
    config = arguments.override_data(
        find_data_config(folder, scorer.model.spec.data), data=data, data_dir=data_dir, size=size
    )
    dataset, normal = _detect_io.load_normal_images(scorer, config, split, is_training_set=data is None)
    normal = subsample(normal, limit)
    with _shared.show_progress() as progress:
        update = partial(progress, "normal images")
        detector = Detector.fit(scorer, normal.images, data=dataset.name, quantile=quantile, progress=update)
    files, metadata = detector.save(folder), detector.metadata
    text = [f"{files[0]}: fitted to {metadata.images:,} images of {metadata.data}, with these thresholds:"]
    text += [f"  {score:15}{value:12.3f}" for score, value in metadata.thresholds.items()]
    _shared.report(json, {"out": str(files[0]), **to_dict(metadata)}, "\n".join(text))


@app.command()
def score(
    images: Annotated[list[Path], typer.Argument(metavar="PATH", help="Image files or folders.")],
    model: _shared.ModelOption = None,
    score_name: Annotated[
        str, typer.Option("--score", metavar="NAME", help="Score that decides whether an image is an anomaly.")
    ] = "combined",
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Former name of --score.", hidden=True)] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Scale and crop images to the model's input size.")] = False,
    out: Annotated[
        Path,
        typer.Option(metavar="PATH", help="Folder for scores.csv, worst.png and maps/.", rich_help_panel=OUTPUT),
    ] = Path("anomalies"),
    device: _shared.Device = "cpu",
    json: _shared.Json = False,
) -> None:
    """Score images, and report which are anomalies.

    The folder --out gets a table of the scores, and heat maps of the reconstruction errors.

    Examples:
      cvae detect score photos --model runs/mine --out anomalies
      cvae detect score a.png b.png --resize --json
    """
    import numpy as np

    from cvae import imaging
    from cvae.detection.detector import Detector
    from cvae.detection.scores import measure

    scorer, folder = _detect_io.open_scorer(model, device)
    detector = Detector.load(folder, scorer)
    thresholds = detector.metadata.thresholds
    name = score_name if by is None else by
    if name not in thresholds:
        raise UsageError(f"--score {name!r}: {scorer.name!r} has no such score; {suggest(name, thresholds)}")
    files = _detect_io.list_images(images, out)
    pixels, message = imaging.read_set(list(files.values()), scorer.image_shape, exact=not resize)
    if message:
        _shared.echo(message)
    with _shared.show_progress() as progress:
        measurement = measure(scorer, pixels, reconstructions=True, progress=partial(progress, "images"))
    assert measurement.reconstruction is not None
    scores = detector.scores(measurement)
    anomalies = scores[name] > thresholds[name]
    rows = [
        {
            "image": path,
            "verdict": "anomaly" if anomalies[i] else "normal",
            **{score: round(float(values[i]), 6) for score, values in scores.items()},
            **({} if measurement.label is None else {"label": scorer.model.spec.classes[measurement.label[i]]}),  # type: ignore[index]
        }
        for i, path in enumerate(files)
    ]
    worst = np.argsort(-scores[name], kind="stable")[:MAX_WORST]
    _detect_io.save_error_maps(out, list(files), pixels, measurement.reconstruction, worst)
    _detect_io.write_csv(out / "scores.csv", rows)
    text = [f"{'anomaly' if anomalies[i] else 'normal ':8} {scores[name][i]:10.3f}  {rows[i]['image']}" for i in worst]
    text += [f"{out}: {anomalies.sum()} of {len(rows)} images are anomalies ({name} above {thresholds[name]:.3f})"]
    result = {"out": str(out), "model": scorer.name, "by": name, "thresholds": dict(thresholds), "images": rows}
    _shared.report(json, result, "\n".join(text))
