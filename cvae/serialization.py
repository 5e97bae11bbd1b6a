"""Safe parsing of JSON, and conversion of dataclasses to and from plain values. Does not import torch."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from cvae.errors import UsageError, one_line, suggest
from cvae.text import describe_character, find_unsafe

MAX_TEXT = 2**21
"""Maximum size of a JSON file, in bytes."""

MAX_DEPTH = 16
"""Maximum depth of nested lists and dicts."""

MAX_NAME = 1024
"""Maximum length of a name, in characters."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON from an untrusted file.

    Raises:
        ValueError: If the text is not valid JSON, is longer than `MAX_TEXT`, is nested deeper than `MAX_DEPTH`, has a
            duplicate key (parsers disagree on which value counts), or has a number that is not finite.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has {len(text)} bytes; the limit is {MAX_TEXT}")
    try:
        data = json.loads(
            text, object_pairs_hook=_parse_object, parse_constant=_parse_number, parse_float=_parse_number
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    check_depth(data)
    return data


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"the key {key[:80]!r} occurs twice")
        data[key] = value
    return data


def _parse_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:80]} is not finite")
    return number


def check_depth(data: Any) -> None:
    """Check that dicts and lists are not nested too deeply.

    Raises:
        ValueError: If they are nested deeper than `MAX_DEPTH`.
    """
    layer = [data]
    for _ in range(MAX_DEPTH):
        layer = [
            item
            for parent in layer
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not layer:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def check_text(text: str) -> None:
    """Check that a string, such as a name, is safe to print in a terminal.

    Raises:
        UsageError: If the string is longer than `MAX_NAME`, or has characters that control a terminal, or reorder or
            hide text.
    """
    if len(text) > MAX_NAME:
        raise UsageError(f"the string {quote(text)} has more than {MAX_NAME} characters")
    if (character := find_unsafe(text)) is not None:
        raise UsageError(
            f"the string {quote(text)} has the character {describe_character(character)}, which controls, reorders or "
            "hides text; rename it"
        )


def quote(value: Any) -> str:
    """Quote a value for error messages, in at most 80 characters."""
    return one_line(repr(value), 80)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a value from JSON or TOML to the type `hint`, or raise an error that quotes the value."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [arg for arg in args if arg is not type(None)]
        return _convert(value, next((arg for arg in choices if type(value) is arg), choices[0]), where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return from_dict(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is not ... and len(value) != len(args):
            raise UsageError(f"{where}: {quote(value)} should have {len(args)} items")
        item_hints = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(_convert(v, h, where) for v, h in zip(value, item_hints, strict=True))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise UsageError(f"{where}: {quote(value)} should be of type {getattr(hint, '__name__', hint)}")


def from_dict(cls: type[Any], data: Mapping[str, Any], where: str = "") -> Any:
    """Create an instance of the dataclass `cls`.

    Args:
        cls: the dataclass.
        data: values of the fields; dataclasses, tuples and mappings may be nested.
        where: path of `data` in its file, for error messages.

    Raises:
        UsageError: If a key is unknown or missing, or a value has the wrong type; the message says where.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        if key not in fields:
            raise UsageError(f"{where or cls.__name__}: unknown key {quote(key)}; {suggest(key[:80], fields)}")
        values[key] = _convert(value, hints[key], f"{where}.{key}".lstrip("."))
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where or cls.__name__}: the key {name!r} is missing")
    return cls(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a dataclass to plain dicts, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config)))
