"""Commands of `cvae`, one module each. Functions import slow modules, to keep `--help` fast."""

from collections.abc import Sequence
from typing import Annotated

import typer

from cvae.cli import (
    _shared,
    detect,
    evaluate,
    export,
    generate,
    hub,
    info,
    interpolate,
    parts,
    plot,
    reconstruct,
    restyle,
    runs,
    scan,
    train,
    tune,
    zoo,
)
from cvae.cli._exporter_flags import ExportCommand
from cvae.cli._help import App
from cvae.cli._usage import CommandLineError, explain, is_help

TRAIN, USE, INSPECT, SHARE = "Train", "Use", "Inspect", "Share"
"""Sections into which `cvae --help` groups the commands."""

app = App(
    name="cvae",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(args: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Raises:
        UsageError: If the command line is invalid.
    """
    try:
        code = app(args=args, prog_name="cvae", standalone_mode=False, obj=tuple(args))
    except CommandLineError as error:
        if is_help(error):
            error.show()
            return 2
        raise explain(error, args) from error
    except typer.Abort:
        return 130
    return code or 0  # a command that did not exit returns None


def _print_version(requested: bool) -> None:
    if requested:
        from cvae import __version__

        _shared.report(False, {}, f"cvae-onnx {__version__}")
        raise typer.Exit


@app.callback()
def cvae(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train variational autoencoders, export them to ONNX, and sample from them without torch.

    `cvae COMMAND --help` shows the options of a command.

    Examples:
      cvae generate --digit 7
      cvae train --conditional
      cvae train --data folder:photos --size 64
    """


app.command(rich_help_panel=TRAIN)(train.train)
app.command(rich_help_panel=TRAIN)(tune.tune)
app.command(rich_help_panel=TRAIN)(parts.parts)
app.command(rich_help_panel=USE)(generate.generate)
app.command(rich_help_panel=USE)(interpolate.interpolate)
app.command(rich_help_panel=USE)(reconstruct.reconstruct)
app.command(rich_help_panel=USE)(restyle.restyle)
app.add_typer(detect.app, name="detect", rich_help_panel=USE)
app.command(rich_help_panel=INSPECT)(runs.runs)
app.command(rich_help_panel=INSPECT)(info.info)
app.command(rich_help_panel=INSPECT)(scan.scan)
app.command(rich_help_panel=INSPECT)(evaluate.evaluate)
app.add_typer(plot.app, name="plot", rich_help_panel=INSPECT)
app.command(cls=ExportCommand, rich_help_panel=SHARE)(export.export)
app.add_typer(zoo.app, name="zoo", rich_help_panel=SHARE)
app.add_typer(hub.app, name="hub", rich_help_panel=SHARE)
app.command("archs", hidden=True)(parts.parts)  # the former name, kept for one release
