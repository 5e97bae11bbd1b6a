"""The command `cvae export`."""

from typing import Annotated

import typer

from cvae.api import models
from cvae.cli import _completion, _shared
from cvae.cli._exporter_flags import ExportCommand, options_of

SETTINGS = {"cls": ExportCommand}
"""Settings of the command."""


@_shared.add_model_option("run")
def export(
    ctx: typer.Context,
    format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="Format: onnx, web, triton, or one from a plug-in; `cvae parts` lists them all.",
            autocompletion=_completion.parts("export"),
        ),
    ],
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Run to export; for web and triton, any exported model. [default: the newest run]",
            autocompletion=_completion.models,
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="License of the weights, such as Apache-2.0.", rich_help_panel=options_of("onnx")
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option(
            "--half",
            help="Store the weights in 16 bits, which halves the size of the files.",
            rich_help_panel=options_of("onnx"),
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Output folder. [default: web, or model_repository for triton]",
            rich_help_panel=options_of("web", "triton"),
        ),
    ] = None,
    webgpu: Annotated[
        bool,
        typer.Option(
            "--webgpu/--no-webgpu",
            help="Also include onnxruntime for WebGPU (4.2 MB). A browser downloads it only if it may decode faster.",
            rich_help_panel=options_of("web"),
        ),
    ] = True,
    encoder: Annotated[
        bool,
        typer.Option(
            "--encoder",
            help="Also export the encoder, as a second model.",
            rich_help_panel=options_of("triton"),
        ),
    ] = False,
    json: _shared.Json = False,
) -> None:
    """Export a model to files for other programs.

    Start with onnx: it writes decoder.onnx and encoder.onnx to the run folder, after comparing them with torch. The
    other formats use these files. A plug-in's options are flags too; to list them: cvae export NAME --help.

    Examples:
      cvae export onnx
      cvae export onnx runs/mine --half --license Apache-2.0
      cvae export web mnist-resnet-conditional --out site
      cvae export web --no-webgpu
      cvae export triton --encoder
    """
    from cvae.cli._exporter_flags import parse_value
    from cvae.registry import EXPORTERS

    # The parameters `license` to `encoder` exist only for --help: `ExportCommand` puts the values into `ctx.obj`.
    defaults = EXPORTERS.options(format)
    options = {name: parse_value(defaults[name], value) for name, value in ctx.obj.items()}
    paths = models.run_exporter(format, run, options, _shared.echo)
    lines = [f"{path} ({path.stat().st_size:,} bytes)" for path in paths]
    _shared.report(json, {"files": [str(path) for path in paths]}, "\n".join(lines))
    if page := next((path for path in paths if path.name == "index.html"), None):
        _shared.echo(f"to see it: python -m http.server --directory {page.parent}")
