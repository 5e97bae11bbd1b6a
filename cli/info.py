"""The command `cvae info`."""

from pathlib import Path
from typing import Any

from cvae.api import arguments
from cvae.cli import _shared


@_shared.add_model_option()
def info(model: _shared.ModelName = None, json: _shared.Json = False) -> None:
    """Describe a run, an exported file or a zoo model.

    Example: cvae info mnist-resnet-conditional
    """
    from cvae.errors import one_line
    from cvae.run import DECODER, is_run

    path = arguments.find_model(model, note=_shared.echo)
    if path.is_dir() and not is_run(path):  # a download contains only exported files
        path /= DECODER
    description = describe_file(path) if path.is_file() else describe_run(path)
    lines = [  # one_line, because an untrusted file must not control the terminal
        f"{key:{max(map(len, description))}}  {one_line(_format_value(value), 2**16)}"
        for key, value in description.items()
        if value is not None
    ]
    _shared.report(json, description, "\n".join(lines))


def describe_file(path: Path) -> dict[str, Any]:
    """Return the spec of an exported file."""
    from cvae.runtime.session import read_spec
    from cvae.serialization import to_dict

    return {"file": str(path), "bytes": path.stat().st_size, **to_dict(read_spec(path)[0])}


def describe_run(path: Path) -> dict[str, Any]:
    """Return the config, metrics and files of a run folder."""
    from cvae.errors import CvaeError
    from cvae.run import METRICS, read_config, read_metrics
    from cvae.serialization import to_dict

    config = read_config(path)
    model, training = to_dict(config.model), to_dict(config.training)
    metrics = path / METRICS
    try:
        records = read_metrics(path) if metrics.exists() else []
        bounds = {
            split: "{bound:.2f} nats ({distortion:.2f} + {rate:.2f})".format(**record[split])
            for record in records
            for split in ("train", "validation", "test")
            if split in record
        }
    except (CvaeError, ValueError, LookupError, TypeError) as error:
        raise CvaeError(f"{str(metrics)!r} is damaged; remove it to see the rest") from error
    return {
        "run": str(path),
        **{key: _format_part(value) for key, value in model.items()},
        "data": training["data"],
        "data_terms": config.data_terms,
        "epochs": f"{sum('epoch' in record for record in records)} of {training['epochs']}" if records else None,
        **{f"{split}_bound": bound for split, bound in bounds.items()},
        "exported": _describe_export(path),
        "files": sorted(entry.name for entry in path.iterdir() if entry.is_file()),
    }


def _describe_export(run: Path) -> str | None:
    """Describe which weights the decoder of a run was exported from, or return None if there is no decoder."""
    from cvae.errors import CvaeError
    from cvae.run import DECODER
    from cvae.runtime.session import read_spec
    from cvae.runtime.weights import is_outdated

    if not (run / DECODER).is_file():
        return None
    try:
        outdated = is_outdated(run, read_spec(run / DECODER)[0])
    except CvaeError as error:
        return str(error)
    return f"from other weights; export again: cvae export onnx {run}" if outdated else "from these weights"


def _format_part(value: Any) -> Any:
    """Format a part of a model on one line, such as "resnet (width 16, blocks 1)"."""
    if not isinstance(value, dict):
        return value
    options = ", ".join(f"{option} {setting}" for option, setting in value["options"].items())
    return value["name"] + (f" ({options})" if options else "")


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_format_value(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
