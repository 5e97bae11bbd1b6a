"""Commands of `cvae`, one module each. Functions import slow modules, to keep `--help` fast."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated

import typer

from cvae.cli._help import App
from cvae.cli._usage import CommandLineError, explain, is_help

TRAIN, USE, INSPECT, SHARE = "Train", "Use", "Inspect", "Share"
"""Sections into which `cvae --help` groups the commands."""

COMMANDS = {
    "train": TRAIN,
    "tune": TRAIN,
    "parts": TRAIN,
    "generate": USE,
    "interpolate": USE,
    "reconstruct": USE,
    "restyle": USE,
    "detect": USE,
    "runs": INSPECT,
    "info": INSPECT,
    "scan": INSPECT,
    "evaluate": INSPECT,
    "plot": INSPECT,
    "export": SHARE,
    "zoo": SHARE,
    "hub": SHARE,
}
"""Section of each command. The module of the same name defines the command, or a group of commands as `app`."""


def run(args: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Raises:
        UsageError: If the command line is invalid.
    """
    # Only the command on the command line is imported. Help, completion and suggestions need all commands.
    app = make_app(args[:1] if args and args[0] in COMMANDS else COMMANDS)
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
        from cvae.cli._shared import report

        report(False, {}, f"cvae-onnx {__version__}")
        raise typer.Exit


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


def make_app(names: Iterable[str] = COMMANDS) -> App:
    """Return a command line with the commands of these names."""
    app = App(name="cvae", pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(cvae)
    for name in names:
        module = import_module(f"cvae.cli.{name}")
        if (group := getattr(module, "app", None)) is not None:
            app.add_typer(group, name=name, rich_help_panel=COMMANDS[name])
        else:
            app.command(rich_help_panel=COMMANDS[name], **getattr(module, "SETTINGS", {}))(getattr(module, name))
        if name == "parts":
            app.command("archs", hidden=True)(module.parts)  # the former name, kept for one release
    return app
