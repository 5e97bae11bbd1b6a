"""A short walk over protobuf bytes, enough to read an ONNX file before any other code sees it.

Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx/onnx.proto.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cvae.errors import CvaeError, one_line

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

METADATA_PROPS = 14
"""ModelProto.metadata_props, of StringStringEntryProto: key = 1, value = 2."""

MAX_FIELDS, MAX_ENTRY = 64, 2**21
"""Fields of a model, whose graph is one; bytes of a metadata entry."""


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is cut off or too long")


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """The fields of one message: number, wire type, and the value: an integer for VARINT, else bytes, uncopied.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    position, end = 0, len(message)
    while position < end:
        key = message[position]
        if key < 0x80:  # most numbers are of one byte, and a call costs more than all else here
            position += 1
        else:
            key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == BYTES and number:
            if position < end and message[position] < 0x80:
                length = message[position]
                position += 1
            else:
                length, position = _varint(message, position)
        elif kind == VARINT:
            if position < end and message[position] < 0x80:
                yield number, kind, message[position]
                position += 1
            else:
                value, position = _varint(message, position)
                yield number, kind, value
            continue
        elif kind in (FIXED64, FIXED32) and number:
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"field {number} has the wire type {kind}")
        if length > end - position:
            raise ValueError(f"field {number} is cut off")
        yield number, kind, message[position : position + length]
        position += length


Layout = Mapping[int, tuple[str, int, bool]]
"""The fields that a message may have: number -> name, wire type, whether it may come more than once."""


def strictly(message: memoryview, layout: Layout, most: int = 16) -> dict[str, Any]:
    """The fields of a message by name, those that may come more than once as lists.

    Where two readers of protobuf could disagree, it is refused: a field that is not in the layout (one reader skips
    it, another knows it), one of another wire type, and a single one that comes twice (the last wins, or both are
    merged). So are more than `most` fields, counting the numbers packed into one.

    Raises:
        ValueError: it is no message of this layout.
    """
    found: dict[str, Any] = {}
    for count, (number, kind, value) in enumerate(fields(message)):
        if count >= most:
            raise ValueError(f"a message has more than {most} fields")
        try:
            name, expected, many = layout[number]
        except KeyError:
            raise ValueError(f"it has a field {number} that no export has") from None
        if many and kind == BYTES and expected == VARINT and isinstance(value, memoryview):  # packed into one field
            numbers, position = found.setdefault(name, []), 0
            while position < len(value) and len(numbers) < most:
                one, position = _varint(value, position)
                numbers.append(one)
            if position < len(value):
                raise ValueError(f"the field {name!r} has more than {most} numbers")
        elif kind != expected:
            raise ValueError(f"the field {name!r} has the wire type {kind}")
        elif many:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise ValueError(f"the field {name!r} is there twice")
        else:
            found[name] = value
    return found


def text(value: memoryview) -> str:
    """The text of a field of bytes.

    Raises:
        ValueError: it is not UTF-8.
    """
    return str(value, "utf-8")


def metadata(model: bytes, source: str) -> dict[str, str]:
    """The metadata entries of an ONNX model; `source` names it in errors.

    Raises:
        CvaeError: the bytes are no ONNX model.
    """
    entries = {}
    try:
        for count, (number, _, value) in enumerate(fields(memoryview(model))):
            if count >= MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            if number == METADATA_PROPS and isinstance(value, memoryview):
                if len(value) > MAX_ENTRY:
                    raise ValueError(f"a metadata entry has {len(value)} bytes, more than {MAX_ENTRY}")
                entry = {n: text(v) for n, _, v in fields(value) if isinstance(v, memoryview)}
                entries[entry.get(1, "")] = entry.get(2, "")
    except ValueError as error:
        raise CvaeError(f"{source!r} is no intact ONNX file: {one_line(error)}") from error
    return entries
