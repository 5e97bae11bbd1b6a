"""cvae export <format>"""

from typing import Annotated

import typer

from cvae.cli import _shared

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Turn a trained run into files for other programs.")

Run = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run. [the newest]")]


@app.command("onnx")
def onnx(run: Run = None, json: _shared.Json = False) -> None:
    """Write decoder.onnx and encoder.onnx, compared with torch, into the run's folder.

    Example: cvae export onnx runs/digits-resnet-conditional
    """
    from cvae.errors import UsageError
    from cvae.registry import EXPORTERS
    from cvae.runtime.find import find, runs
    from cvae.runtime.session import read_spec

    if run is None:
        if not runs():
            raise UsageError("there is no run under 'runs' to export; train one with: cvae train")
        _shared.say(f"newest run: {runs()[0]}")
    folder = runs()[0] if run is None else find(run)
    files = EXPORTERS.get("onnx")(folder)
    agreement = {path.name: read_spec(path)[0].agreement["max_abs_difference"] for path in files}
    lines = [f"{path} ({path.stat().st_size:,} bytes, within {agreement[path.name]} of torch)" for path in files]
    _shared.report(json, {"files": [str(path) for path in files], "max_abs_difference": agreement}, "\n".join(lines))
