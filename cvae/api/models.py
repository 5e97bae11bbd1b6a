"""Functions that describe models and their parts.

Importing this module is cheap and needs no extra: each function imports what it needs when it is called.
"""

from pathlib import Path
from typing import Any

from cvae.api import arguments
from cvae.errors import CvaeError, UsageError, suggest


def info(model: str | Path | None = None, *, note: arguments.Note = None) -> dict[str, Any]:
    """Describe a run, an exported file or a zoo model, without importing torch.

    Args:
        model: Run folder, exported file, zoo model or hf://owner/name; by default the newest run, else the zoo's
            default model.
        note: Function that is called with each message for the user.

    Returns:
        Of a run: its network, data, bounds in nats and files. Of an exported file: its path, bytes and spec.

    Raises:
        UsageError: If there is no such model.
        CvaeError: If a file is damaged.
    """
    from cvae.run import DECODER, is_run

    path = arguments.find_model(model, note)
    if path.is_dir() and not is_run(path):  # a download contains only exported files
        path /= DECODER
    return _describe_file(path) if path.is_file() else _describe_run(path)


def parts(name: str | None = None) -> dict[str, Any]:
    """List the parts of a model, or the options of one part.

    Args:
        name: Part, such as "resnet". If two kinds of parts have the same name, as in "prior.flow".

    Returns:
        Without a name: the summary of each part by name, by the flag that chooses the part. With a name: the `name`,
        `flag` and `summary` of the part, and its `options`, each with `type`, `default`, `range` and `help`. The
        function `cvae.train` takes them as `options={"arch": {"width": 32}}`.

    Raises:
        UsageError: If there is no such part; the message suggests similar names.
        MissingExtraError: If the packages that the part needs are not installed.
    """
    from cvae.registry import REGISTRIES

    if name is None:
        return {_part_flag(kind): {part: names.summary(part) for part in names} for kind, names in REGISTRIES.items()}
    kinds = {f"{kind}.{part}": kind for kind, names in REGISTRIES.items() for part in names}
    matches = [full for full in kinds if name in (full, full.partition(".")[2])]
    if not matches:
        raise UsageError(f"there is no part {name!r}; {suggest(name, (full.partition('.')[2] for full in kinds))}")
    if len(matches) > 1:
        raise UsageError(f"there are several parts {name!r}; name one of {', '.join(matches)}")
    kind, part = kinds[matches[0]], matches[0].partition(".")[2]
    names = REGISTRIES[kind]
    options = names.describe_options(part)
    return {"name": part, "flag": _part_flag(kind), "summary": names.summary(part), "options": options}


def _part_flag(kind: str) -> str:
    return kind if kind == "export" else f"--{kind}"


def _describe_file(path: Path) -> dict[str, Any]:
    """Return the spec of an exported file."""
    from cvae.runtime.session import read_spec
    from cvae.serialization import to_dict

    return {"file": str(path), "bytes": path.stat().st_size, **to_dict(read_spec(path)[0])}


def _describe_run(path: Path) -> dict[str, Any]:
    """Return the config, metrics and files of a run folder."""
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
