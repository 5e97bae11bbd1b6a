"""cvae export <format>"""

from pathlib import Path
from typing import Annotated

import typer

from cvae.cli import _shared


def export(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="onnx; `cvae archs` lists all.")],
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run. [the newest]")] = None,
    license: Annotated[str | None, typer.Option(help="Of the weights, for the file to say: as Apache-2.0.")] = None,
    json: _shared.Json = False,
) -> None:
    """Turn a trained run into files for other programs, compared with torch, in the run's folder.

    Example: cvae export onnx
    """
    from cvae.errors import UsageError
    from cvae.model_zoo import models
    from cvae.registry import EXPORTERS
    from cvae.runtime.find import find, runs

    _shared.require_torch("cvae export")
    exporter = EXPORTERS.get(format)
    if run is None:
        if not (newest := runs()):
            raise UsageError("there is no run under 'runs' to export; train one with: cvae train")
        folder = newest[0]
        _shared.say(f"newest run: {folder}")
    elif run in models() and not Path(run).exists():
        raise UsageError(f"{run!r} comes with the package, exported already; `cvae info {run}` says where it is")
    else:
        folder = find(run)
    files = exporter(folder, license=license)
    lines = [f"{path} ({path.stat().st_size:,} bytes{_agreement(path)})" for path in files]
    _shared.report(json, {"files": [str(path) for path in files]}, "\n".join(lines))


def _agreement(path: Path) -> str:
    """How far an exported file is from torch, where it says so."""
    from cvae.runtime.session import read_spec

    if path.suffix != ".onnx":
        return ""
    return f", within {read_spec(path)[0].agreement.get('max_abs_difference')} of torch"
