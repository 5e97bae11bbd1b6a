"""A short walk over protobuf bytes, enough to read an ONNX file's metadata before any other code sees the file.

Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx/onnx.proto.
"""

from collections.abc import Iterator

from cvae.errors import CvaeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

METADATA_PROPS = 14
"""ModelProto.metadata_props, of StringStringEntryProto: key = 1, value = 2."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: number, and the value as an integer or as bytes.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    position = 0

    def varint() -> int:
        nonlocal position
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(message):
                break
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number is cut off or too long")

    while position < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            yield number, varint()
            continue
        if kind not in (FIXED64, BYTES, FIXED32) or number == 0:
            raise ValueError(f"field {number} has the wire type {kind}")
        length = varint() if kind == BYTES else 8 if kind == FIXED64 else 4
        if length > len(message) - position:
            raise ValueError(f"field {number} is cut off")
        yield number, message[position : position + length]
        position += length


def metadata(model: bytes, source: str) -> dict[str, str]:
    """The metadata entries of an ONNX model; `source` names it in errors.

    Raises:
        CvaeError: the bytes are no ONNX model.
    """
    entries = {}
    try:
        for number, value in fields(memoryview(model)):
            if number == METADATA_PROPS and isinstance(value, memoryview):
                entry = {n: bytes(v).decode() for n, v in fields(value) if isinstance(v, memoryview)}
                entries[entry.get(1, "")] = entry.get(2, "")
    except ValueError as error:
        raise CvaeError(f"{source!r} is no intact ONNX file: {error}") from error
    return entries
