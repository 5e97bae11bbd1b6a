"""Typer options that are generated from the flags of a config."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, TypeVar

import typer

from cvae.cli import _completion
from cvae.flags import Flag, ShortFlag, flags_of
from cvae.registry import REGISTRIES

METAVARS = {int: "N", float: "X", str: "NAME"}

Command = TypeVar("Command", bound=Callable[..., Any])


def flag_option(
    name: str, flag: Flag, kind: type, default: str | None = None, *, repeated: bool = False, hidden: bool = False
) -> Any:
    """Return the typer option of a flag.

    Args:
        name: name of the config field.
        flag: description of the flag.
        kind: type of the value; for a flag that may be repeated, type of each value.
        default: text that describes the default in the help; None for no text.
        repeated: whether the flag may be repeated.
        hidden: whether the help omits the flag.
    """
    spelling, text = flag.spelling(name), help_text(flag, repeated)
    return typer.Option(
        f"{spelling}/--no-{spelling[2:]}" if kind is bool else spelling,
        help=text if default is None else f"{text} [default: {default}]",
        metavar=choose_metavar(flag, kind),
        parser=flag.parse,
        show_default=False,
        hidden=hidden,
        rich_help_panel=flag.group,
        autocompletion=_choose_completion(name, flag),
    )


def help_text(flag: Flag, repeated: bool) -> str:
    """Return the help of a flag, which also says whether the flag may be repeated."""
    return f"{flag.help} May be repeated." if repeated else flag.help


def _choose_completion(name: str, flag: Flag) -> _completion.Completion | None:
    if name in REGISTRIES:
        return _completion.parts(name)
    if name == "init":
        return _completion.models
    return _completion.choices(*flag.choices) if flag.choices else None


def choose_metavar(flag: Flag, kind: type) -> str | None:
    """Return the metavar of a flag, or None for a flag without a value."""
    return flag.metavar or "|".join(flag.choices) or METAVARS.get(kind)


def field_flag(config: type, name: str, default: str | None = None) -> Any:
    """Return the typer option of a config field, for a command that has only some of the config's flags."""
    return flag_option(name, flags_of(config)[name], value_type(config, name)[0], default)


def value_type(config: type, name: str) -> tuple[type, bool]:
    """Return the type of one value of a field's flag, and whether the flag may be repeated."""
    hint = typing.get_type_hints(config)[name]
    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    hint = next(item for item in reversed(alternatives) if item is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def default_text(config: type, name: str) -> str | None:
    """Return the text that describes the default of a field in the help, or None if there is nothing to describe."""
    default = next(field.default for field in fields(config) if field.name == name)
    if default is None:
        return flags_of(config)[name].automatic
    if default is False:
        return f"no-{flags_of(config)[name].spelling(name)[2:]}"
    if default == ():
        return None
    return f"{default:g}" if isinstance(default, float) else str(default)


def add_flags(config: type) -> Callable[[Command], Command]:
    """Return a decorator that replaces `**flags` in the signature of a command with the flags of a config.

    The value of an unused flag is None, so that it does not override a recipe. `read_flags` collects the used flags.
    """
    from cvae.api.flags import all_flags

    def decorate(command: Command) -> Command:
        own = inspect.signature(command).parameters.values()
        parameters = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
        for name, flag in all_flags(config).items():
            if isinstance(flag, ShortFlag):
                parameters.append(_make_parameter(name, flag_option(name, flag, flag.type, flag.automatic), flag.type))
                continue
            kind, repeated = value_type(config, name)
            option = flag_option(name, flag, kind, default_text(config, name), repeated=repeated)
            parameters.append(_make_parameter(name, option, kind, repeated))
            for alias in flag.aliases:
                option = flag_option(name, replace(flag, name=alias), kind, hidden=True)
                parameters.append(_make_parameter(_alias_name(name, alias), option, kind, repeated))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return command

    return decorate


def _make_parameter(name: str, option: Any, kind: type, repeated: bool = False) -> inspect.Parameter:
    hint: Any = list[kind] if repeated else kind  # type: ignore[valid-type]
    annotation = Annotated[hint | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _alias_name(name: str, alias: str) -> str:
    return f"{name}_{alias.replace('-', '_')}"


def read_flags(config: type, values: Mapping[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return the config fields that the command line sets.

    Args:
        config: config whose flags the command has through `add_flags`.
        values: values of the flags by parameter name; None for an unused flag.
        assignments: values of `--set`.

    Raises:
        UsageError: If a value is not valid, or an assignment does not have the form PART.OPTION=VALUE.
    """
    from cvae.config import SHORT_FLAGS
    from cvae.recipes import parse_options

    overrides: dict[str, Any] = {}
    for name, flag in flags_of(config).items():
        spellings = (name, *(_alias_name(name, alias) for alias in flag.aliases))
        chosen = [values[spelling] for spelling in spellings if values.get(spelling) is not None]
        if chosen:
            is_list = isinstance(chosen[0], list)
            overrides[name] = [item for value in chosen for item in value] if is_list else chosen[0]
            flag.check(flag.spelling(name), tuple(overrides[name]) if is_list else overrides[name])
    options = parse_options(assignments)
    for name, short in SHORT_FLAGS.items():
        if values.get(name) is not None:
            options.setdefault(short.part, {})[name] = values[name]
    return {**overrides, "options": options}
