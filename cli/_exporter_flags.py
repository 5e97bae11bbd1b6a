"""Flags of `cvae export` for the options of the exporter on its command line."""

import inspect
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cvae.errors import CvaeError

RESERVED = ("format", "run", "json", "help")
"""Parameters of `cvae export` that do not belong to an exporter."""

_FLAGS = "cvae.exporter_flags"

_exceptions: Any = import_module(typer.BadParameter.__module__)  # of click or, in newer versions, of typer's copy of it


class ExportCommand(TyperCommand):
    """A command whose flags are the options of the exporter that its command line names.

    They take the place of the flags in the command's own signature, which are those of the built-in exporters, for
    `cvae export --help`. `ctx.obj` has their values, by option, where they are used.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from cvae.registry import EXPORTERS

        wants_help = not {*ctx.help_option_names}.isdisjoint(args)
        name = self._find_exporter(args)
        if name is not None and not (wants_help and EXPORTERS.is_builtin(name)):  # onnx takes seconds to import
            try:
                ctx.meta[_FLAGS] = make_flags(EXPORTERS.get(name), EXPORTERS.options(name))
            except CvaeError:
                if not wants_help:
                    raise
        try:
            return super().parse_args(ctx, args)
        except _exceptions.NoSuchOption as error:
            if name is not None:
                option = error.option_name.lstrip("-").replace("-", "_")
                EXPORTERS.resolve(name, {option: None})  # raises an error with similar names
            raise

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        if _FLAGS not in ctx.meta:
            return params
        return [*ctx.meta[_FLAGS], *(param for param in params if param.name in RESERVED)]

    def invoke(self, ctx: Any) -> Any:
        values = {flag.name: ctx.params.pop(flag.name) for flag in ctx.meta.get(_FLAGS, [])}
        ctx.obj = {name: value for name, value in values.items() if value is not None}
        return super().invoke(ctx)

    def _find_exporter(self, args: list[str]) -> str | None:
        """Return the first word that names an exporter, or else the first one that is not a flag or its value."""
        from cvae.registry import EXPORTERS

        with_value = {name for param in self.params for name in param.opts if not getattr(param, "is_flag", True)}
        words = []
        remaining = iter(args)
        for word in remaining:
            if word in with_value:
                next(remaining, None)
            elif not word.startswith("-"):
                words.append(word)
        return next((word for word in words if word in EXPORTERS), words[0] if words else None)


def make_flags(exporter: Callable[..., Any], options: dict[str, Any]) -> list[Any]:
    """Return the options of an exporter as parameters of a command, None unless a flag is used."""

    def command(**values: Any) -> None: ...

    options = {name: default for name, default in options.items() if name not in RESERVED}
    command.__annotations__ = {name: _annotation(exporter, name, default) for name, default in options.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in command.__annotations__.items()
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command(add_help_option=False)(command)
    return list(typer.main.get_command(app).params)


def parse_value(default: Any, value: str | bool) -> Any:
    """Return the value of a flag in the type of the option's default.

    Text that can't be read as that type stays text, which `Registry.resolve` refuses with the type that it should have.
    """
    if isinstance(value, bool) or isinstance(default, str | None):
        return value
    if isinstance(default, Path):
        return Path(value)
    try:
        return json.loads(value)
    except ValueError:
        return value


def _annotation(exporter: Callable[..., Any], name: str, default: Any) -> Any:
    """Return the annotation of an option in the form that typer reads."""
    flag = name.replace("_", "-")
    section = re.search(rf"^( +){name}: (.+(?:\n\1 +.+)*)", inspect.getdoc(exporter) or "", re.MULTILINE)
    text = " ".join(section[2].split()) if section else ""
    if isinstance(default, bool):
        shown = f" [{flag if default else f'no-{flag}'}]"
        return Annotated[bool | None, typer.Option(f"--{flag}/--no-{flag}", help=text + shown, show_default=False)]
    metavar = {int: "N", float: "X", tuple: "JSON"}.get(type(default), "TEXT")
    if default is None or default == "":
        shown = ""
    else:
        shown = f" [{json.dumps(default) if isinstance(default, tuple) else default}]"
    return Annotated[str | None, typer.Option(f"--{flag}", help=text + shown, metavar=metavar, show_default=False)]
