"""Flags of a config as keyword arguments of a function: its signature, its documentation, and checks of the values."""

import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from cvae.config import SHORT_FLAGS
from cvae.data_config import GROUPS
from cvae.errors import UsageError, suggest
from cvae.flags import Flag, ShortFlag, flags_of
from cvae.recipes import PARTS, takes_options
from cvae.registry import EXPECTED_VALUES, LOSSES
from cvae.serialization import quote

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS = "Options of the parts, such as {'arch': {'width': 32}}."
"""Documentation of the argument `options`, which is not a flag."""

SYNONYMS = {
    "x": "images",
    "X": "images",
    "y": "labels",
    "learning_rate": "lr",
    "kl_weight": "beta",
    "model": "arch",
    "set": "options",
}
"""Name that users may try -> argument that the error message suggests instead."""


def all_flags(config: type) -> dict[str, Flag]:
    """Return the flags of a config and the short flags for its options, by group."""
    flags = {**flags_of(config), **SHORT_FLAGS}
    return dict(sorted(flags.items(), key=lambda item: GROUPS.index(item[1].group)))


def add_flags(config: type) -> Callable[[Function], Function]:
    """Replace `**flags` in the signature of a function with the flags of a config, and add them to its documentation.

    The function still receives only the flags that the caller sets, so that defaults don't override a recipe.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=[*own, *_parameters(config)])  # type: ignore[attr-defined]
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{_describe_flags(config)}"
        return function

    return decorate


def _parameters(config: type) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(config)
    defaults = {field.name: field.default for field in fields(config)}
    parameters = []
    for name, flag in all_flags(config).items():
        default, hint = defaults.get(name), flag.type | None if isinstance(flag, ShortFlag) else hints[name]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    options = inspect.Parameter(
        "options", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints["options"] | None
    )
    return [*parameters, options]


def _describe_flags(config: type) -> str:
    """Return the part of a docstring that lists the flags by group, with their ranges and their defaults."""
    defaults = {field.name: field.default for field in fields(config)}
    lines = []
    for group in GROUPS:
        lines.append(f"{group}:")
        for name, flag in all_flags(config).items():
            if flag.group == group:
                default = defaults.get(name)
                text = repr(default) if default is not None else flag.automatic
                spelling = f" ({flag.spelling(name)} on the command line)" if flag.name else ""
                lines.append(f"    {name}: {flag.help}{spelling}" + (f" [default: {text}]" if text else ""))
        lines.append("")
    return "\n".join([*lines, "Options:", f"    options: {OPTIONS}"])


def check_flags(config: type, flags: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Return the config fields that keyword arguments set, with their values converted to the types of the fields.

    A flag may also be spelled as on the command line: `exclude_class` sets the field `without`. Short flags are moved
    to the options. Lists, paths, and NumPy and torch numbers are converted.

    Args:
        config: config with the flags.
        flags: keyword arguments.
        function: function of `cvae` that received the arguments, for error messages.

    Raises:
        TypeError: If an argument is not a flag; the message suggests similar arguments of the function.
        UsageError: If a value has the wrong type; the message says what the argument expects.
    """
    hints = typing.get_type_hints(config)
    known = all_flags(config)
    names = {flag.spelling(name)[2:].replace("-", "_"): name for name, flag in known.items()}
    overrides: dict[str, Any] = {}
    options = _check_options(flags.get("options"))
    for key, value in flags.items():
        name = names.get(key, key)
        if key == "options":
            continue
        if name not in known:
            raise _unknown_argument_error(key, function)
        flag = known[name]
        if isinstance(flag, ShortFlag):
            if value is not None:
                options.setdefault(flag.part, {})[name] = convert(key, value, flag.type | None)
        else:
            overrides[name] = convert(key, value, hints[name])
    return {**overrides, "options": options}


def _unknown_argument_error(key: str, function: Callable[..., Any]) -> TypeError:
    name, known = f"cvae.{function.__name__}", list(inspect.signature(function).parameters)
    if SYNONYMS.get(key) in known:
        fix = f"did you mean {SYNONYMS[key]!r}?"
    else:
        fix = suggest(key, known)
        if fix.startswith("known: "):  # it would list more than fifty names
            fix = f"help({name}) lists the arguments"
    return TypeError(f"{name}() got an unexpected keyword argument {key!r}; {fix}")


def _check_options(options: Any) -> dict[str, dict[str, Any]]:
    options = {} if options is None else options
    if not isinstance(options, Mapping) or not all(isinstance(values, Mapping) for values in options.values()):
        raise UsageError(
            f"options is {quote(options)}: it must be a dict from parts to their options, such as "
            "{'arch': {'width': 32}}"
        )
    for part in options:
        if not takes_options(part):
            known = suggest(str(part), (*PARTS, *LOSSES))
            raise UsageError(f"options contains {quote(part)}, which is not a part; {known}")
    return {part: dict(values) for part, values in options.items()}


def convert(name: str, value: Any, hint: Any) -> Any:
    """Convert the value of an argument to the expected type.

    Args:
        name: name of the argument.
        value: its value.
        hint: type annotation: a type, a tuple of any length, or a union of these and None.

    Raises:
        UsageError: If the value has another type.
    """
    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for alternative in alternatives:
        try:
            return _cast(value, alternative)
        except TypeError:
            pass
    raise UsageError(f"{name} is {quote(value)}: it must be {' or '.join(map(_describe, alternatives))}")


def _cast(value: Any, kind: Any) -> Any:
    """Return a value as an instance of a type; raise TypeError if it is of another type."""
    if getattr(value, "ndim", None) == 0:  # a NumPy or torch scalar
        value = value.item()
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_cast(item, typing.get_args(kind)[0]) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise TypeError


def _describe(kind: Any) -> str:
    if kind is types.NoneType:
        return "None"
    if typing.get_origin(kind) is tuple:
        return "a list of " + {str: "strings", int: "integers"}[typing.get_args(kind)[0]]
    return EXPECTED_VALUES[kind].replace("true or false", "True or False")
