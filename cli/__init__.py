"""Commands of `cvae`, one module each. Slow imports are inside functions, so that `--help` is fast."""

from collections.abc import Sequence
from typing import Annotated

import typer

from cvae.cli import (
    detect,
    evaluate,
    export,
    generate,
    info,
    interpolate,
    parts,
    plot,
    reconstruct,
    restyle,
    train,
    tune,
    zoo,
)
from cvae.cli._exporter_flags import ExportCommand
from cvae.cli._usage import CommandLineError, explain, hide_argument_types, is_help

hide_argument_types()
app = typer.Typer(
    name="cvae",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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

        print(f"cvae-onnx {__version__}")
        raise typer.Exit


@app.callback()
def cvae(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train variational autoencoders, export them to ONNX, and sample from them without torch.

    Start with: cvae generate --digit 7
    """


app.command()(train.train)
app.command()(tune.tune)
app.command()(evaluate.evaluate)
app.command(cls=ExportCommand)(export.export)
app.command()(generate.generate)
app.command()(interpolate.interpolate)
app.command()(reconstruct.reconstruct)
app.command()(restyle.restyle)
app.add_typer(detect.app, name="detect")
app.add_typer(plot.app, name="plot")
app.add_typer(zoo.app, name="zoo")
app.command()(info.info)
app.command()(parts.parts)
app.command("archs", hidden=True)(parts.parts)  # the former name, for one release
