"""Conversion of valid values on the command line without pydantic, whose import takes longer than that of NumPy."""

import os
import re
from pathlib import Path
from typing import Any, get_args, get_origin

PATTERNS = {int: r"[+-]?\d+", float: r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"}
"""Patterns of numbers that Python and pydantic read alike."""


class Converter:
    """Conversion of the values of a parameter, in place of the conversion in newer versions of typer.

    Typer converts all values with pydantic, even the defaults of unused options. It still converts what this class does
    not convert, such as invalid values, so that error messages are those of typer.

    Args:
        param: parameter of a command.
    """

    def __init__(self, param: Any) -> None:
        self.typer_converter = param.get_runtime_param
        self.kind, self.info = param.type_descriptor.annotation, param.type_descriptor.parameter_info
        self.is_list = param.multiple or param.nargs == -1

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert a value as typer does."""
        try:
            return self._convert(value)
        except (TypeError, ValueError, OSError):
            return self.typer_converter().coerce(value, param=param, ctx=ctx)

    def _convert(self, value: Any) -> Any:
        if value is None:
            return () if self.is_list else None
        if not (get_origin(self.kind) is list) == self.is_list == isinstance(value, list | tuple):
            raise ValueError("only typer can convert this")
        if self.is_list:
            return [self._convert_item(item, get_args(self.kind)[0]) for item in value]
        return self._convert_item(value, self.kind)

    def _convert_item(self, value: Any, kind: Any) -> Any:
        if self.info.parser is not None:
            return self.info.parser(value)
        if kind is str and isinstance(value, str):
            return value
        if kind is Path:
            path = Path(value)
            if path.exists() and not os.access(path, os.R_OK):
                raise ValueError("typer explains that the file is not readable")
            return path
        if kind not in PATTERNS or not re.fullmatch(PATTERNS[kind], str(value), re.ASCII | re.IGNORECASE):
            raise ValueError("only typer can convert this, or explain what is wrong")
        number = kind(value)
        if (self.info.min is not None and number < self.info.min) or (
            self.info.max is not None and number > self.info.max
        ):
            raise ValueError("typer explains that the number is out of range")
        return number


def avoid_pydantic(params: list[Any]) -> None:
    """Let `Converter` convert the values of parameters. Older versions of typer do not use pydantic."""
    for param in params:
        if hasattr(param, "get_runtime_param") and "get_runtime_param" not in vars(param):
            converter = Converter(param)
            param.get_runtime_param = lambda converter=converter: converter
