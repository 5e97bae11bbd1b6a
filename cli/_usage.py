"""Usage errors of the command line, each on one line."""

from collections.abc import Sequence
from typing import Any

import typer

from cvae.errors import UsageError, one_line
from cvae.flags import Interval
from cvae.registry import EXPECTED_VALUES

CommandLineError: Any = typer.BadParameter.__base__
"""Base class of the exceptions that typer raises: click's class or, in newer versions of typer, its own copy."""


EXPECTED = {"int": EXPECTED_VALUES[int], "float": EXPECTED_VALUES[float], "bool": EXPECTED_VALUES[bool]}
"""Description of an option's valid values, keyed by the prefix of pydantic's error type."""

OTHER_NAMES = {
    **dict.fromkeys(("--count", "--number", "--num", "--n"), "-n"),
    **dict.fromkeys(("--class", "--class-name", "--labels"), "--label"),
    **dict.fromkeys(("--images", "--dataset"), "--data folder:PATH or --data npz:PATH"),
}
"""Options of other programs, and the equivalent option to suggest if the command has it."""


def is_help(error: Any) -> bool:
    """Return whether the error only shows the help, as typer does for a command without arguments."""
    return error.ctx is not None and error.message == error.ctx.get_help()


def explain(error: Any, args: Sequence[str]) -> UsageError:
    """Return an error that says on one line what is wrong with a command line, and where to find help."""
    text = _describe_value(error) or _describe_name(error)
    if error.ctx is not None:
        command = error.ctx.command_path
    else:  # the error for an option without its value has no context
        command = " ".join(["cvae", *(word for word in args[:1] if not word.startswith("-"))])
    return UsageError(f"{one_line(text[:1].lower() + text[1:], 500)}; see {command} --help")


def _describe_value(error: Any) -> str:
    """Describe an invalid value, or return "" for any other error.

    Newer versions of typer parse values with pydantic, whose messages don't quote the values.
    """
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not details or getattr(error, "param", None) is None:
        return ""
    kind, param, value = details[0]["type"], error.param, details[0]["input"]
    name = max(param.opts, key=len) if param.param_type_name == "option" else param.metavar
    quoted = one_line(repr(value), 80)
    if kind in ("greater_than_equal", "less_than_equal"):
        interval = Interval(minimum=param.min, maximum=param.max)
        return f"{name} {one_line(value, 80)} is out of range; it must be {interval}"
    for prefix, expected in EXPECTED.items():
        if kind.startswith(prefix):
            return f"{name} {quoted} is not {expected}"
    return error.format_message().rstrip(".").replace("Invalid value for", f"Invalid value {quoted} for", 1)


def _describe_name(error: Any) -> str:
    """Describe an unknown option or command, an option without its value, or any other error."""
    option, text = getattr(error, "option_name", None), error.format_message().rstrip(".")
    if "requires an argument" in text:
        return f"{option} needs a value"
    if option is not None and text.startswith("No such option"):
        text, hint = f"there is no option {option}", _suggest_option(error)
    elif text.startswith("No such command") and " Did you mean " not in text and error.ctx.parent is not None:
        text, hint = f"{text}; the commands are {', '.join(error.ctx.command.list_commands(error.ctx))}", ""
    else:
        text, _, hint = text.rstrip("?").partition(". Did you mean ")
    return f"{text} (did you mean {hint}?)" if hint else text


def _suggest_option(error: Any) -> str:
    """Return the options that the user may have meant by an unknown one, or ""."""
    other = OTHER_NAMES.get(error.option_name)
    known = {name for param in error.ctx.command.params for name in param.opts} if error.ctx is not None else ()
    return other if other and other.split()[0] in known else " or ".join(error.possibilities or [])
