"""The command `cvae evaluate`."""

from typing import Annotated, Any

import typer

from cvae.api import models
from cvae.cli import _completion, _shared
from cvae.data_config import HARDWARE


@_shared.add_model_option()
def evaluate(
    model: _shared.ModelName = None,
    data: _shared.Data = None,
    data_dir: _shared.DataDir = None,
    size: _shared.Size = None,
    binarize: _shared.Binarize = None,
    split: _shared.SplitName = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum number of images, evenly spaced in the split. Distances always use all images.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Samples per image for the importance-weighted bound. [default: omit this bound]"
        ),
    ] = None,
    generated: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Number of images to generate for distances and the accuracy of their conditions."
        ),
    ] = 10_000,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Feature extractor for distances and predictor of conditions: mnist, MODULE:CALLABLE, PATH.onnx, or "
            "trained: a classifier that is trained on the conditions of the data, once (takes minutes, needs torch). "
            "[default: chosen for the data set]",
        ),
    ] = None,
    lpips: Annotated[
        bool,
        typer.Option(
            "--lpips",
            help="Report LPIPS of the reconstructions (downloads VGG16, 553 MB, once; needs torch).",
        ),
    ] = False,
    cas: Annotated[
        bool,
        typer.Option(
            "--cas", help="Train a classifier on generated images and report its accuracy (takes minutes, needs torch)."
        ),
    ] = False,
    exported: Annotated[
        bool,
        typer.Option(
            "--exported",
            help="Score the exported files, without torch. [default: only if the weights or torch are missing]",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all random numbers.")] = 0,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Device: auto, cpu or cuda.",
            rich_help_panel=HARDWARE,
            autocompletion=_completion.choices("auto", "cpu", "cuda"),
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16|fp16|auto",
            help="Precision of the computation in torch.",
            rich_help_panel=HARDWARE,
            autocompletion=_completion.choices("fp32", "bf16", "fp16", "auto"),
        ),
    ] = "fp32",
    json: _shared.Json = False,
) -> None:
    """Evaluate a model: bounds, reconstructions and generated images.

    The result contains likelihood bounds, reconstruction errors, sharpness, distances between generated and real
    images, and how well generated images obey their labels or other conditions.

    Examples:
      cvae evaluate
      cvae evaluate mnist-resnet-conditional --samples 100 --limit 1000
      cvae evaluate runs/mine --features trained --lpips
      cvae evaluate runs/faces --features age-predictor.onnx
      cvae evaluate runs/mine --data folder:photos --json
    """
    with _shared.show_progress() as progress:
        report = models.evaluate(
            model,
            data=data,
            data_dir=data_dir,
            size=size,
            binarize=binarize,
            split=split,
            limit=limit,
            samples=samples,
            generated=generated,
            features=features,
            lpips=lpips,
            cas=cas,
            exported=exported,
            seed=seed,
            device=device,
            precision=precision,
            note=_shared.echo,
            progress=progress,
        )
    _shared.report(json, report, format_report(report))


def format_report(report: dict[str, Any]) -> str:
    """Format the report with one line per metric, named as in the JSON."""
    lines = [
        f"{report['model']} on {report['protocol']['images']:,} {report['protocol']['split']} images of "
        f"{report['data']} (pixels {report['protocol']['pixels']}; {report['backend']})"
    ]
    parts = {
        part: flatten_metrics(metrics)
        for part, metrics in report.items()
        if isinstance(metrics, dict) and part != "protocol"
    }
    width = max(len(name) for metrics in parts.values() for name, _ in metrics)
    for part, metrics in parts.items():
        lines.append(part.replace("_", " "))
        lines += [f"  {name:{width}} {_format_value(value)}" for name, value in metrics]
    return "\n".join(lines)


def flatten_metrics(metrics: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the names and values of metrics. Those of a condition begin with its name."""
    lines: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            lines += [(f"{name}: {inner}", item) for inner, item in flatten_metrics(value)]
        else:
            lines.append((name.replace("_", " "), value))
    return lines


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_format_value, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
