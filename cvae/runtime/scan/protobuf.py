"""Reader of the protobuf wire format. It reads an untrusted ONNX file before any other code does.

Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx/onnx.proto.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cvae.errors import CvaeError, one_line
from cvae.runtime.scan.limits import MAX_ENTRY, MAX_FIELDS

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of fields."""

PROCESSED = -1
"""Type of a field that exported files never have, but files that another program has processed do."""

VARINT64, VARINT32 = 64, 32
"""Types of varint fields, named after the number of bits that protobuf keeps."""

MAX_KEY_BYTES = MAX_LENGTH_BYTES = 5
"""Maximum size, in bytes, of the encoded key of a field and of its encoded length, as in protobuf."""

METADATA_PROPS = 14
"""Field number of ModelProto.metadata_props, which consists of StringStringEntryProto messages: key = 1, value = 2."""

Schema = Mapping[int, tuple[str, int, bool]]
"""Fields of a message: number -> name, type (BYTES, FIXED32, VARINT32, VARINT64 or PROCESSED), whether repeated."""


def _read_varint(message: memoryview, position: int, max_bytes: int = 10) -> tuple[int, int]:
    """Read an unsigned number, and return it with the position after it."""
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


def _to_signed(value: int, bits: int) -> int:
    """Convert a varint to a signed integer as protobuf does: from its lowest 32 or 64 bits, in two's complement."""
    value &= 2**bits - 1
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def iterate_fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Iterate over the fields of a message, without descending into nested messages.

    Yields:
        Field number, wire type and value: an unsigned integer for VARINT, otherwise a view of the bytes.

    Raises:
        ValueError: If the bytes are not a protobuf message.
    """
    position, end = 0, len(message)
    while position < end:
        key = message[position]
        if key < 0x80:  # most numbers take one byte; a function call would cost more than the rest of the loop
            position += 1
        else:
            key, position = _read_varint(message, position, MAX_KEY_BYTES)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise ValueError(f"a field has the invalid number {number}")
        if wire_type == BYTES:
            if position < end and message[position] < 0x80:
                length = message[position]
                position += 1
            else:
                length, position = _read_varint(message, position, MAX_LENGTH_BYTES)
        elif wire_type == VARINT:
            if position < end and message[position] < 0x80:
                yield number, wire_type, message[position]
                position += 1
            else:
                value, position = _read_varint(message, position)
                yield number, wire_type, value
            continue
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"field {number} has an unknown wire type {wire_type}")
        if length > end - position:
            raise ValueError(f"field {number} is cut off")
        yield number, wire_type, message[position : position + length]
        position += length


def parse_message(message: memoryview, schema: Schema, max_fields: int = 16) -> dict[str, Any]:
    """Parse a message into a dictionary of its fields by name, with lists for repeated fields.

    A message that two protobuf readers could read differently is rejected. Such a message has a field that is not in
    the schema (some readers skip it, others use it), a field of the wrong wire type, or a non-repeated field twice
    (some readers use the last value, others merge them).

    Args:
        message: the bytes of the message.
        schema: allowed fields.
        max_fields: maximum number of fields, and of numbers packed into one field.

    Raises:
        ValueError: If the bytes are not a message of this schema.
    """
    values: dict[str, Any] = {}
    for count, (number, wire_type, value) in enumerate(iterate_fields(message)):
        if count >= max_fields:
            raise ValueError(f"a message has more than {max_fields} fields")
        try:
            name, field_type, repeated = schema[number]
        except KeyError:
            raise ValueError(f"it has a field {number}, which does not occur in exported files") from None
        if field_type == PROCESSED:
            raise ValueError(f"it has {name}, which exported files never have")
        is_varint = field_type in (VARINT32, VARINT64)
        if is_varint and repeated and isinstance(value, memoryview) and wire_type == BYTES:  # a packed field
            numbers, position = values.setdefault(name, []), 0
            while position < len(value) and len(numbers) < max_fields:
                item, position = _read_varint(value, position)
                numbers.append(_to_signed(item, field_type))
            if position < len(value):
                raise ValueError(f"the field {name!r} has more than {max_fields} numbers")
            continue
        if wire_type != (VARINT if is_varint else field_type):
            raise ValueError(f"the field {name!r} has the wrong wire type {wire_type}")
        if isinstance(value, int):
            value = _to_signed(value, field_type)
        if repeated:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise ValueError(f"the field {name!r} occurs twice")
        else:
            values[name] = value
    return values


def read_metadata(model: bytes, source: str) -> dict[str, str]:
    """Read the metadata entries of an ONNX model.

    Args:
        model: the content of the file.
        source: name of the file in error messages.

    Raises:
        CvaeError: If the bytes are not an ONNX model.
    """
    entries = {}
    try:
        for count, (number, _, value) in enumerate(iterate_fields(memoryview(model))):
            if count >= MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            if number == METADATA_PROPS and isinstance(value, memoryview):
                if len(value) > MAX_ENTRY:
                    raise ValueError(f"a metadata entry has {len(value)} bytes, more than {MAX_ENTRY}")
                entry = {n: str(v, "utf-8") for n, _, v in iterate_fields(value) if isinstance(v, memoryview)}
                entries[entry.get(1, "")] = entry.get(2, "")
    except ValueError as error:
        raise CvaeError(f"{source!r} is damaged or not an ONNX file: {one_line(error)}") from error
    return entries
