"""The command `cvae parts`."""

import json as json_format
from typing import Annotated, Any

import typer

from cvae.api import models
from cvae.cli import _completion, _help, _shared

METAVARS = {"int": "N", "float": "X", "bool": "true|false", "tuple": "[N,...]", "str": "TEXT"}
"""Placeholders for the value of an option, by the type of the option."""


def parts(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Part to describe, such as resnet. [default: list all parts]",
            autocompletion=_completion.part_names,
        ),
    ] = None,
    json: _shared.Json = False,
) -> None:
    """List the architectures and other parts, or the options of one part.

    Set the options of a part with `--set`, as in `--set arch.width=32`. Parts from plug-ins are listed too.

    Examples:
      cvae parts
      cvae parts resnet
      cvae parts flow --json
    """
    result = models.parts(name)
    _shared.report(json, result, format_list(result) if name is None else format_part(result))


def format_list(parts: dict[str, dict[str, str]]) -> str:
    """Format the summaries of all parts, with a section for each flag."""
    width = max(len(name) for names in parts.values() for name in names)
    lines = []
    for flag, names in parts.items():
        lines += [flag, *(f"  {name:{width}}  {summary}" for name, summary in names.items())]
    return "\n".join(lines)


def format_part(part: dict[str, Any]) -> str:
    """Format the summary of a part and the usage of each of its options."""
    records = []
    for option, info in part["options"].items():
        metavar = METAVARS.get(info["type"], "VALUE")
        if part["flag"] == "export":
            flag = "--" + option.replace("_", "-")
            usage = flag if info["type"] == "bool" else f"{flag} {metavar}"
        else:
            key = part["name"] if part["flag"] == "--loss" else part["flag"][2:]  # a run can have several losses
            usage = f"--set {key}.{option}={metavar}"
        notes = [] if info["default"] is None else [f"default: {json_format.dumps(info['default'])}"]
        notes += [info["range"]] if info["range"] else []
        records.append((usage, f"{info['help']} [{'; '.join(notes)}]" if notes else info["help"]))
    lines = [f"{part['flag']} {part['name']}: {part['summary']}"]
    lines += _help.format_records(records, 78, 6) or ["  It has no options."]
    return "\n".join(lines)
