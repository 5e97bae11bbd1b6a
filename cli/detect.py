"""The commands `cvae detect fit` and `cvae detect score`."""

from pathlib import Path
from typing import Annotated

import typer

from cvae.api import detect
from cvae.cli import _completion, _shared
from cvae.cli._help import App
from cvae.data_config import DATA, OUTPUT
from cvae.errors import one_line

app = App(help="Find images that differ from the training images of a model.")


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

    Use images that the model was not trained on, because training images get scores that are too low.

    Examples:
      cvae detect fit runs/mine
      cvae detect fit runs/mine --data folder:normal --quantile 0.99
    """
    with _shared.show_progress() as progress:
        result = detect.fit(
            model,
            quantile=quantile,
            data=data,
            data_dir=data_dir,
            size=size,
            split=split,
            limit=limit,
            device=device,
            note=_shared.echo,
            progress=progress,
        )
    text = [f"{result['out']}: fitted to {result['images']:,} images of {result['data']}, with these thresholds:"]
    text += [f"  {score:15}{value:12.3f}" for score, value in result["thresholds"].items()]
    _shared.report(json, result, "\n".join(text))


@app.command()
def score(
    images: Annotated[list[Path], typer.Argument(metavar="PATH", help="Image files or folders.")],
    model: _shared.ModelOption = None,
    score: Annotated[
        str, typer.Option(metavar="NAME", help="Score that decides whether an image is an anomaly.")
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
    """Score images, and report which of them are anomalies.

    Heat maps of the reconstruction errors and a table of the scores are written to the --out folder.

    Examples:
      cvae detect score photos --model runs/mine --out anomalies
      cvae detect score a.png b.png --resize --json
    """
    score = score if by is None else by
    with _shared.show_progress() as progress:
        result = detect.score(
            images,
            model=model,
            score=score,
            resize=resize,
            out=out,
            device=device,
            note=_shared.echo,
            progress=progress,
        )
    rows, threshold = result["images"], result["thresholds"][score]
    worst = sorted(rows, key=lambda row: -row[score])[: detect.MAX_WORST]
    text = [f"{row['verdict']:8} {row[score]:10.3f}  {one_line(row['image'])}" for row in worst]
    anomalies = sum(row["verdict"] == "anomaly" for row in rows)
    text += [f"{out}: {anomalies} of {len(rows)} images are anomalies ({score} above {threshold:.3f})"]
    _shared.report(json, result, "\n".join(text))
