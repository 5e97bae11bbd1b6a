"""Safe JSON, and dataclasses to and from plain values. Unknown keys and wrong types are errors. Torch-free."""

import dataclasses
import json
import math
import types
import typing
import unicodedata
from collections.abc import Mapping
from typing import Any

from cvae.errors import UsageError, one_line, suggest

MAX_TEXT, MAX_DEPTH, MAX_NAME = 2**21, 16, 1024
"""Bytes of a JSON file, how deep it may be nested, and characters of a name."""


CONTROL_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of controls, formats (as of the order of writing), surrogates, line and paragraph separators."""


def parse_json(text: str | bytes) -> Any:
    """JSON as this package writes it, of a file that may be anyone's.

    Raises:
        ValueError: it is longer than `MAX_TEXT`, nested deeper than `MAX_DEPTH`, has a key twice (readers would differ
            in which they take), or a number that is not finite.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has {len(text)} bytes, more than {MAX_TEXT}")
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_number, parse_float=_number)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    check_depth(data)
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in found if keys.count(key) > 1)[:80]!r} is there twice")
    return found


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:80]} is not finite")
    return number


def check_depth(data: Any) -> None:
    """
    Raises:
        ValueError: it is nested too deep.
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
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def check_text(text: str) -> None:
    """
    Raises:
        UsageError: it is longer than a name or a remark, or has characters that control the terminal of whoever lists
            it, reorder or break its lines, or are halves of one.
    """
    if len(text) > MAX_NAME or any(unicodedata.category(character) in CONTROL_CATEGORIES for character in text):
        raise UsageError(f"the text {quote(text)} has characters that control or hide others, or over {MAX_NAME}")


def quote(value: Any) -> str:
    """A value for an error line, which may be of any length."""
    return one_line(repr(value), 80)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as JSON or TOML gives it -> what the type hint says, or an error that quotes it."""
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
            raise UsageError(f"{where}: {quote(value)} should have {len(args)} entries")
        item_hints = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(_convert(v, h, where) for v, h in zip(value, item_hints, strict=True))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise UsageError(f"{where}: {quote(value)} should be {getattr(hint, '__name__', hint)}")


def from_dict(cls: type[Any], data: Mapping[str, Any], where: str = "") -> Any:
    """Make the dataclass `cls` from `data`.

    Raises:
        UsageError: a key is unknown or missing, or a value is of another type; the message says where.
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
    """The dataclass as plain dicts, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config)))
