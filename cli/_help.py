"""Help in plain text, at most 80 columns wide, with sections of options and commands, defaults, and examples."""

import re
import textwrap
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cvae.cli._conversion import avoid_pydantic
from cvae.data_config import GROUPS, HARDWARE, OUTPUT

OPTIONS = "Options"
"""Section of the options that have no group."""

ORDER = {OPTIONS: 0, **dict.fromkeys(GROUPS, 1), HARDWARE: 3, OUTPUT: 4}
"""Order of the sections. Sections with the same number are in the order in which the command declares their options."""

NAMES_WIDTH = 24
"""Maximum width of the column of names, in characters. A longer name is on a line of its own."""

Records = list[tuple[str, str]]
"""Pairs of a name and its description."""


class App(typer.Typer):
    """Typer app whose commands print the help that this module formats."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=HelpGroup, no_args_is_help=True, rich_markup_mode=None, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Return a decorator that adds a command."""
        return super().command(name, **{"cls": HelpCommand, **settings})


class _Help:
    """Methods that commands and groups share. `help` is the docstring of the command."""

    help: str | None
    params: list[Any]
    options_metavar: str | None
    format_usage: Callable[[Any, Any], None]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, including `--help`."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        avoid_pydantic(params)
        return params

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first sentence of the help, without truncating it."""
        return split_help(self.help)[0].partition("\n\n")[0].replace("\n", " ").partition(". ")[0].rstrip(".") + "."

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: the usage, the text, the sections and the examples."""
        text, examples = split_help(self.help)
        examples = self.choose_examples(ctx, examples)
        lines = [line for paragraph in text.split("\n\n") for line in ["", *wrap(paragraph, formatter.width)]]
        lines += self.section_lines(ctx, formatter.width)
        if examples:
            lines += ["", f"Example{'s' * (len(examples) > 1)}:", *(f"  {line}" for line in examples)]
        self.format_usage(ctx, formatter)
        formatter.write("\n".join(lines) + "\n")

    def choose_examples(self, ctx: Any, examples: list[str]) -> list[str]:
        """Return the examples to show."""
        return examples

    def section_lines(self, ctx: Any, width: int) -> list[str]:
        """Return the lines of all sections."""
        return format_sections(option_sections(self.get_params(ctx)), width)


class HelpCommand(_Help, TyperCommand):
    """Command with sections of options."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage: `[OPTIONS]`, and each argument in brackets if it can be left out."""
        pieces = [self.options_metavar or ""]
        for param in self.params:
            if param.param_type_name == "argument":
                name = describe(param)[0] + "..." * (param.nargs != 1)
                pieces.append(name if param.required else f"[{name}]")
        return pieces


class HelpGroup(_Help, TyperGroup):
    """Group with sections of commands and of options."""

    def section_lines(self, ctx: Any, width: int) -> list[str]:
        """Return the lines of all sections, with the commands first."""
        sections: dict[str, Records] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                section = getattr(command, "rich_help_panel", None) or "Commands"
                sections.setdefault(section, []).append((name, command.get_short_help_str()))
        return [*format_sections(sections, width), *super().section_lines(ctx, width)]


def split_help(text: str | None) -> tuple[str, list[str]]:
    """Split a docstring into its text and the command lines that follow "Examples:" in its last paragraph."""
    text, _, examples = re.sub(r"\n\nExamples?:", "\f", text or "").partition("\f")
    return text.strip(), [line.strip() for line in examples.strip().splitlines()]


def option_sections(params: list[Any]) -> dict[str, Records]:
    """Return the names and descriptions of parameters by section. The sections are in the order of the help."""
    sections: dict[str, Records] = {}
    for param in params:
        if not getattr(param, "hidden", False):
            group = getattr(param, "rich_help_panel", None) or OPTIONS
            section = "Arguments" if param.param_type_name == "argument" else group
            sections.setdefault(section, []).append(describe(param))
    return dict(sorted(sections.items(), key=lambda item: -1 if item[0] == "Arguments" else ORDER.get(item[0], 2)))


def describe(param: Any) -> tuple[str, str]:
    """Return the names of a parameter with its metavar, and its help with the default."""
    metavar = param.metavar or param.name.upper()
    text = param.help or ""
    if notes := "; ".join(filter(None, [describe_default(param), describe_range(param)])):
        text = f"{text} [{notes}]".strip()
    if param.param_type_name == "argument":
        return metavar, text
    names = ", ".join(sorted(param.opts, key=lambda name: name.startswith("--")))
    if param.secondary_opts:
        names += f" / {param.secondary_opts[0]}"
    return (names if param.is_flag else f"{names} {metavar}"), text


def describe_default(param: Any) -> str:
    """Return the default of a parameter, or "" if there is none or the help describes it."""
    default = param.default
    if not param.show_default or default is None or (default is False and not param.secondary_opts):
        return ""
    if isinstance(default, bool):
        names = param.opts if default else param.secondary_opts
        return f"default: {names[0].lstrip('-')}"
    return f"default: {default:g}" if isinstance(default, float) else f"default: {default}"


def describe_range(param: Any) -> str:
    """Return the range of a number with a minimum and a maximum. A single bound is shown only in the error message."""
    limits = param if hasattr(param, "min") else getattr(param, "type", None)  # depends on the version of typer
    low, high = getattr(limits, "min", None), getattr(limits, "max", None)
    return "" if low is None or high is None else f"{low} to {high}"


def format_sections(sections: dict[str, Records], width: int) -> list[str]:
    """Return the lines of sections. All descriptions begin in the same column."""
    lines = []
    column = choose_column([names for records in sections.values() for names, _ in records])
    for section, records in sections.items():
        lines += ["", f"{section}:", *format_records(records, width, column)]
    return lines


def choose_column(names: list[str]) -> int:
    """Return the column in which descriptions begin after these names."""
    return 4 + max((len(name) for name in names if len(name) <= NAMES_WIDTH), default=0)


def format_records(records: Records, width: int, column: int) -> list[str]:
    """Return lines with names and descriptions. The descriptions begin in `column`."""
    lines = []
    for names, text in records:
        first, *rest = wrap(text, width, column) or [""]
        if len(names) + 4 > column:
            lines += [f"  {names}", first, *rest]
        else:
            lines += [f"  {names:{column - 2}}{first.lstrip()}".rstrip(), *rest]
    return lines


def wrap(text: str, width: int, indent: int = 2) -> list[str]:
    """Wrap text at spaces."""
    margin = " " * indent
    text = " ".join(text.split())
    return textwrap.wrap(
        text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False, break_long_words=False
    )
