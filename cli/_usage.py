"""Help, and command-line usage errors, each on one line."""

from collections.abc import Sequence
from typing import Any

import typer

from cvae.errors import UsageError, one_line

CommandLineError: Any = typer.BadParameter.__base__
"""Base class of the exceptions that typer raises: click's own class or, in newer versions, typer's copy of it."""


def is_help(error: Any) -> bool:
    """Return whether the error is the help that typer raises for a command without arguments."""
    return error.ctx is not None and error.message == error.ctx.get_help()


def explain(error: Any, args: Sequence[str]) -> UsageError:
    """Return an error that says on one line what is wrong with a command line, and where to find help."""
    text = error.format_message().rstrip(".")
    # Where typer reads values with pydantic, its message does not quote them.
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if details and details[0].get("input") is not None:
        value = one_line(repr(details[0]["input"]), 80)
        text = text.replace("Invalid value for", f"Invalid value {value} for", 1)
    if error.ctx is not None:
        command = error.ctx.command_path
    else:  # an option without its value has no context
        command = " ".join(["cvae", *(word for word in args[:1] if not word.startswith("-"))])
    return UsageError(f"{one_line(text[:1].lower() + text[1:], 500)}; see {command} --help")
