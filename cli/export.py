"""cvae export FORMAT"""

from pathlib import Path
from typing import Annotated

import typer

from cvae.cli import _shared


def export(
    ctx: typer.Context,
    format: Annotated[
        str,
        typer.Argument(metavar="FORMAT", help="onnx, web, triton, or a plug-in's; `cvae parts` lists them."),
    ],
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Run to export; for web and triton, any exported model. [newest run]"),
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="NAME", help="onnx: license of the weights, such as Apache-2.0.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="onnx: store the weights in 16 bits, half the size.")] = False,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="web, triton: folder to write.")] = None,
    encoder: Annotated[bool, typer.Option("--encoder", help="triton: add the encoder too, as a second model.")] = False,
    json: _shared.Json = False,
) -> None:
    """Export a model to files for other programs.

    Start with onnx: it writes decoder.onnx and encoder.onnx into the folder of a run, after comparing them with torch.
    The other formats are made from these files. The options of a plug-in are flags too: cvae export NAME --help.

    Example: cvae export onnx
    """
    from cvae.cli._exporter_flags import parse_value
    from cvae.exporters.base import weights_required
    from cvae.registry import EXPORTERS

    # `license` to `encoder` are declared for `cvae export --help` only: `ExportCommand` puts the values into `ctx.obj`.
    exporter, defaults = EXPORTERS.get(format), EXPORTERS.options(format)
    values = {name: parse_value(defaults[name], value) for name, value in ctx.obj.items()}
    options = EXPORTERS.resolve(format, values)
    paths = exporter(_find_run(run) if weights_required(exporter) else _find_exported(run), **options)
    lines = [f"{path} ({path.stat().st_size:,} bytes{_agreement(path)})" for path in paths]
    _shared.report(json, {"files": [str(path) for path in paths]}, "\n".join(lines))
    if page := next((path for path in paths if path.name == "index.html"), None):
        _shared.say(f"to see it: python -m http.server --directory {page.parent}")


def _find_run(name: str | None) -> Path:
    """Return the run of this name, or else the newest; not a model of the package, whose files must not change."""
    from cvae.errors import UsageError
    from cvae.model_zoo import models
    from cvae.run import newest_run
    from cvae.runtime.find import find
    from cvae.runtime.hub import SCHEME

    if name is None:
        if (newest := newest_run()) is None:
            raise UsageError("there is no run under 'runs' to export; train one with: cvae train")
        _shared.say(f"newest run: {newest}")
        return newest
    if name in models() and not Path(name).exists():
        raise UsageError(f"{name!r} comes with the package and is exported already; see: cvae info {name}")
    if name.startswith(SCHEME):
        raise UsageError(f"{name!r} is exported already; this format needs the weights of a run")
    return find(name)


def _find_exported(name: str | None) -> Path:
    """Return the model of this name, or else the newest run or the zoo's default model."""
    from cvae.runtime.find import newest

    path, remark = newest(name)
    if remark:
        _shared.say(remark)
    return path


def _agreement(path: Path) -> str:
    """Return how far a file that cvae exported is from torch, as a part of a sentence."""
    from cvae.errors import CvaeError
    from cvae.runtime.session import read_spec

    if path.suffix != ".onnx":
        return ""
    try:
        return f", within {read_spec(path)[0].agreement.get('max_abs_difference')} of torch"
    except CvaeError:  # a plug-in may write other ONNX files
        return ""
