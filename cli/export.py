"""cvae export <format>"""

from pathlib import Path
from typing import Annotated

import typer

from cvae.cli import _shared


def export(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="onnx, web; `cvae archs` lists all.")],
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run, or zoo name. [the newest run]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, which must be new; not of onnx. [web]")] = None,
    license: Annotated[str | None, typer.Option(help="Of the weights, for onnx to say in the file.")] = None,
    json: _shared.Json = False,
) -> None:
    """Turn a trained run into files for other programs, or exported files into what hosts them.

    onnx compares its files with torch and puts them into the run's folder. web writes a folder for a static server.

    Example: cvae export onnx
    """
    from cvae.errors import UsageError
    from cvae.registry import EXPORTERS
    from cvae.runtime.find import newest

    exporter, known = EXPORTERS.get(format), EXPORTERS.options(format)
    options = {name: value for name, value in {"out": out, "license": license}.items() if value is not None}
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"the exporter {format!r} takes no --{name} ({str(value)!r} was given); leave it out")
    # With a folder of its own to write, it works from files that were exported, of any model; else from weights.
    source, remark = newest(run) if "out" in known else _trained(run)
    if remark:
        _shared.say(remark)
    files = exporter(source, **options)
    lines = [f"{path} ({path.stat().st_size:,} bytes{_agreement(path)})" for path in files]
    _shared.report(json, {"files": [str(path) for path in files]}, "\n".join(lines))
    if page := next((path for path in files if path.name == "index.html"), None):
        _shared.say(f"to see it: python -m http.server --directory {page.parent}")


def _trained(run: str | None) -> tuple[Path, str]:
    """The run whose weights are exported, and a remark on how it was chosen."""
    from cvae.errors import UsageError
    from cvae.model_zoo import models
    from cvae.runtime.find import newest, runs

    if run is None and not runs():
        raise UsageError("there is no run under 'runs' to export; train one with: cvae train")
    if run is not None and run in models() and not Path(run).exists():
        raise UsageError(f"{run!r} comes with the package, exported already; `cvae info {run}` says where it is")
    return newest(run)


def _agreement(path: Path) -> str:
    """How far an exported file is from torch, where it says so."""
    from cvae.runtime.session import read_spec

    if path.suffix != ".onnx":
        return ""
    return f", within {read_spec(path)[0].agreement.get('max_abs_difference')} of torch"
