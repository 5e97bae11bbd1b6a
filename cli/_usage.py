"""Errors in the use of the command line, in one line each."""

from collections.abc import Sequence
from typing import Any

import typer

from cvae.errors import UsageError, one_line

CommandLineError: Any = typer.BadParameter.__base__
"""The base class of what typer raises. It is that of click or, in newer versions, that of typer's copy of click."""


def is_help(error: Any) -> bool:
    """Return whether typer raised the help of a command that was given no arguments."""
    return error.ctx is not None and error.message == error.ctx.get_help()


def explain(error: Any, args: Sequence[str]) -> UsageError:
    """Return what is wrong with a command line as an error of one line: with the value, and where to read on."""
    text = error.format_message().rstrip(".")
    # Where typer reads values with pydantic, its message does not quote them.
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if details and details[0].get("input") is not None:
        value = one_line(repr(details[0]["input"]), 80)
        text = text.replace("Invalid value for", f"Invalid value {value} for", 1)
    if error.ctx is not None:
        command = error.ctx.command_path
    else:  # an option without its value
        command = " ".join(["cvae", *(word for word in args[:1] if not word.startswith("-"))])
    return UsageError(f"{one_line(text[:1].lower() + text[1:], 500)}; see {command} --help")
