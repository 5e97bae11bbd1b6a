"""A short walk over protobuf bytes, enough to read an ONNX file before any other code sees it.

Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx/onnx.proto.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cvae.errors import CvaeError, one_line

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""

VARINT64, VARINT32 = 64, 32
"""Types of fields that are varints: how many bits protobuf keeps."""

MAX_KEY = MAX_LENGTH = 5
"""Longest key of a field, and longest length of one, that protobuf reads, in bytes."""

METADATA_PROPS = 14
"""ModelProto.metadata_props, of StringStringEntryProto: key = 1, value = 2."""

MAX_FIELDS, MAX_ENTRY = 64, 2**21
"""Fields of a model, whose graph is one; bytes of a metadata entry."""


def _varint(message: memoryview, position: int, max_bytes: int = 10) -> tuple[int, int]:
    """Read an unsigned number, and the position after it."""
    value = 0
    for i in range(max_bytes):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position
    raise ValueError("a number is cut off or too long")


def _signed(value: int, bits: int) -> int:
    """Return the integer that protobuf makes of a varint: its lowest 32 or 64 bits, in two's complement."""
    value &= 2**bits - 1
    return value - 2**bits if value >= 2 ** (bits - 1) else value


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
            key, position = _varint(message, position, MAX_KEY)
        number, kind = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise ValueError(f"a field has the number {number}")
        if kind == BYTES:
            if position < end and message[position] < 0x80:
                length = message[position]
                position += 1
            else:
                length, position = _varint(message, position, MAX_LENGTH)
        elif kind == VARINT:
            if position < end and message[position] < 0x80:
                yield number, kind, message[position]
                position += 1
            else:
                value, position = _varint(message, position)
                yield number, kind, value
            continue
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"field {number} has the wire type {kind}")
        if length > end - position:
            raise ValueError(f"field {number} is cut off")
        yield number, kind, message[position : position + length]
        position += length


Layout = Mapping[int, tuple[str, int, bool]]
"""The fields that a message may have: number -> name, type (BYTES, FIXED32, VARINT32 or VARINT64), whether it may be
repeated."""


def parse_message(message: memoryview, layout: Layout, max_fields: int = 16) -> dict[str, Any]:
    """Return the fields of a message by name, repeated ones as lists, integers as protobuf reads them.

    Where two readers of protobuf could disagree, the message is rejected: a field that is not in the layout (one reader
    skips it, another knows it), one of another wire type, and a single one that comes twice (the last wins, or both are
    merged). So are more than `max_fields` fields, counting the numbers packed into one.

    Raises:
        ValueError: it is not a message of this layout.
    """
    found: dict[str, Any] = {}
    for count, (number, wire_type, value) in enumerate(fields(message)):
        if count >= max_fields:
            raise ValueError(f"a message has more than {max_fields} fields")
        try:
            name, kind, repeated = layout[number]
        except KeyError:
            raise ValueError(f"it has a field {number} that no export has") from None
        if kind in (VARINT32, VARINT64) and repeated and isinstance(value, memoryview) and wire_type == BYTES:  # packed
            numbers, position = found.setdefault(name, []), 0
            while position < len(value) and len(numbers) < max_fields:
                one, position = _varint(value, position)
                numbers.append(_signed(one, kind))
            if position < len(value):
                raise ValueError(f"the field {name!r} has more than {max_fields} numbers")
            continue
        if wire_type != (VARINT if kind in (VARINT32, VARINT64) else kind):
            raise ValueError(f"the field {name!r} has the wire type {wire_type}")
        if isinstance(value, int):
            value = _signed(value, kind)
        if repeated:
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
