"""Flags of `cvae export` for the options of the chosen exporter."""

import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from cvae.cli._help import HelpCommand
from cvae.errors import CvaeError
from cvae.registry import EXPORTERS, describe_argument

RESERVED = ("format", "run", "model_option", "json", "help")
"""Parameters of `cvae export` that do not belong to an exporter."""

_FLAGS, _EXPORTER = "cvae.exporter_flags", "cvae.exporter"

_exceptions: Any = import_module(typer.BadParameter.__module__)  # part of click or, in newer versions, of typer


def options_of(*exporters: str) -> str:
    """Return the heading under which the help lists the options of these exporters."""
    return f"Options of {' and '.join(exporters)}"


class ExportCommand(HelpCommand):
    """A command whose flags depend on the exporter that its command line names.

    The flags in the signature of the command are the options of the built-in exporters, for `cvae export --help`. The
    options of the named exporter replace them. `ctx.obj` maps the options that the user has set to their values.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        wants_help = not {*ctx.help_option_names}.isdisjoint(args)
        name = self._find_exporter(args)
        ctx.meta[_EXPORTER] = name
        is_described = name is not None and EXPORTERS.is_builtin(name) and (wants_help or ctx.resilient_parsing)
        if name is not None and not is_described:  # skip the import of onnx, which takes seconds
            try:
                ctx.meta[_FLAGS] = make_flags(name, EXPORTERS.get(name), EXPORTERS.options(name))
            except CvaeError:
                if not (wants_help or ctx.resilient_parsing):  # resilient_parsing: the shell completes the line
                    raise
        try:
            return super().parse_args(ctx, args)
        except _exceptions.NoSuchOption as error:
            if name is not None:
                option = error.option_name.lstrip("-").replace("-", "_")
                EXPORTERS.resolve(name, {option: None})  # raises an error that suggests similar names
            raise

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        if _FLAGS not in ctx.meta:
            return [param for param in params if self._belongs_to(param, ctx.meta.get(_EXPORTER))]
        return [*ctx.meta[_FLAGS], *(param for param in params if param.name in RESERVED)]

    def _belongs_to(self, param: Any, exporter: str | None) -> bool:
        """Return whether a parameter belongs to all exporters or to this one. Without an exporter, return True."""
        section = getattr(param, "rich_help_panel", None) or ""
        is_shared = not section.startswith(options_of("")) or exporter not in EXPORTERS
        return is_shared or exporter in section.split()

    def choose_examples(self, ctx: Any, examples: list[str]) -> list[str]:
        """Return the examples of the exporter that the command line names, or else all examples."""
        name = ctx.meta.get(_EXPORTER)
        if name not in EXPORTERS:
            return examples
        return [line for line in examples if name in line.split()] or [f"cvae export {name}"]

    def invoke(self, ctx: Any) -> Any:
        values = {flag.name: ctx.params.pop(flag.name) for flag in ctx.meta.get(_FLAGS, [])}
        ctx.obj = {name: value for name, value in values.items() if value is not None}
        return super().invoke(ctx)

    def _find_exporter(self, args: list[str]) -> str | None:
        """Return the first argument that names an exporter, or else the first that is not a flag or a flag's value."""
        with_value = {name for param in self.params for name in param.opts if not getattr(param, "is_flag", True)}
        candidates = []
        remaining = iter(args)
        for argument in remaining:
            if argument in with_value:
                next(remaining, None)
            elif not argument.startswith("-"):
                candidates.append(argument)
        return next((name for name in candidates if name in EXPORTERS), candidates[0] if candidates else None)


def make_flags(name: str, exporter: Callable[..., Any], options: dict[str, Any]) -> list[Any]:
    """Return command-line parameters for the options of an exporter. The value of an unused flag is None."""

    def command(**values: Any) -> None: ...

    options = {name: default for name, default in options.items() if name not in RESERVED}
    command.__annotations__ = {name: _make_annotation(exporter, name, default) for name, default in options.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in command.__annotations__.items()
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command(add_help_option=False)(command)
    flags: list[Any] = list(typer.main.get_command(app).params)
    for parameter in flags:
        parameter.rich_help_panel = options_of(name)
    return flags


def parse_value(default: Any, value: str | bool) -> Any:
    """Convert the value of a flag to the type of the option's default.

    A value that can't be converted stays a string. `Registry.resolve` rejects it, and names the expected type.
    """
    if isinstance(value, bool) or isinstance(default, str | None):
        return value
    if isinstance(default, Path):
        return Path(value)
    try:
        return json.loads(value)
    except ValueError:
        return value


def _make_annotation(exporter: Callable[..., Any], name: str, default: Any) -> Any:
    """Return the type annotation of an option for typer, with the help text from the exporter's docstring."""
    flag = name.replace("_", "-")
    text = describe_argument(exporter, name)
    if isinstance(default, bool):
        suffix = f" [default: {flag if default else f'no-{flag}'}]"
        return Annotated[bool | None, typer.Option(f"--{flag}/--no-{flag}", help=text + suffix, show_default=False)]
    metavar = {int: "N", float: "X", tuple: "JSON"}.get(type(default), "TEXT")
    if default is None or default == "":
        suffix = ""
    else:
        suffix = f" [default: {json.dumps(default) if isinstance(default, tuple) else default}]"
    return Annotated[str | None, typer.Option(f"--{flag}", help=text + suffix, metavar=metavar, show_default=False)]
