"""cvae export <format>"""

from pathlib import Path
from typing import Annotated

import typer

from cvae.cli import _shared


def export(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="onnx, web, triton; `cvae parts` lists all.")],
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run; with --out any exported model. [the newest]")
    ] = None,
    license: Annotated[str | None, typer.Option(help="Of the weights, for the file to say: as Apache-2.0.")] = None,
    half: Annotated[bool, typer.Option("--half", help="onnx: weights in 16 bits, half the size.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder, of formats that do not stay in the run's.")] = None,
    encoder: Annotated[bool, typer.Option("--encoder", help="triton: the encoder too, as a second model.")] = False,
    json: _shared.Json = False,
) -> None:
    """Turn a trained run into files for other programs.

    onnx, first: compared with torch, in the run's folder. web and triton are made of what that has written.

    Example: cvae export onnx
    """
    from cvae.errors import UsageError
    from cvae.registry import EXPORTERS

    exporter, options = EXPORTERS.get(format), EXPORTERS.options(format)
    asked = {
        "license": license,
        "half": half or None,
        "out": None if out is None else str(out),
        "encoder": encoder or None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if unknown := given.keys() - options:
        name = min(unknown)
        value = "" if given[name] is True else f" {given[name]!r}"
        raise UsageError(f"--{name}{value} means nothing to cvae export {format!r}; leave it out")
    files = exporter(_exported(run) if "out" in options else _trained(run), **given)
    lines = [f"{path} ({path.stat().st_size:,} bytes{_agreement(path)})" for path in files]
    _shared.report(json, {"files": [str(path) for path in files]}, "\n".join(lines))
    if page := next((path for path in files if path.name == "index.html"), None):
        _shared.say(f"to see it: python -m http.server --directory {page.parent}")


def _trained(run: str | None) -> Path:
    """The run named, or else the newest, saying which; not a model of the package, whose folder is not to change."""
    from cvae.errors import UsageError
    from cvae.model_zoo import models
    from cvae.run import newest_run
    from cvae.runtime.find import find
    from cvae.runtime.hub import SCHEME

    if run is None:
        if (newest := newest_run()) is None:
            raise UsageError("there is no run under 'runs' to export; train one with: cvae train")
        _shared.say(f"newest run: {newest}")
        return newest
    if run in models() and not Path(run).exists():
        raise UsageError(f"{run!r} comes with the package, exported already; `cvae info {run}` says where it is")
    if run.startswith(SCHEME):
        raise UsageError(f"{run!r} is exported already; what is exported is a run, which has its weights")
    return find(run)


def _exported(name: str | None) -> Path:
    """The model named, or else the newest run or the zoo's default, saying which."""
    from cvae.runtime.find import newest

    path, remark = newest(name)
    if remark:
        _shared.say(remark)
    return path


def _agreement(path: Path) -> str:
    """How far an exported file is from torch, where it says so."""
    from cvae.runtime.session import read_spec

    if path.suffix != ".onnx":
        return ""
    return f", within {read_spec(path)[0].agreement.get('max_abs_difference')} of torch"
