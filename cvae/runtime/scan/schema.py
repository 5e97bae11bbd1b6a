"""Schemas of the messages in onnx.proto, and readers of weights, attributes, inputs and outputs.

The schemas contain only the fields that exported files use, and names of some that other programs add (PROCESSED). A
message with any other field is rejected. This excludes functions, training info, sparse and quantized weights,
subgraphs (attributes `g`, `graphs`), data outside the file, and `value_info`.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any

from cvae.runtime.scan.limits import MAX_NAME, MAX_RANK
from cvae.runtime.scan.protobuf import BYTES, FIXED32, PROCESSED, VARINT32, VARINT64, parse_message
from cvae.runtime.scan.tensor import FLOAT, HALF, INT64, Tensor

MODEL = {
    1: ("ir_version", VARINT64, False),
    2: ("producer_name", BYTES, False),
    3: ("producer_version", BYTES, False),
    4: ("domain", BYTES, False),
    5: ("model_version", VARINT64, False),
    6: ("doc_string", BYTES, False),
    7: ("graph", BYTES, False),
    8: ("opset_import", BYTES, True),
    14: ("metadata_props", BYTES, True),
}
OPSET = {1: ("domain", BYTES, False), 2: ("version", VARINT64, False)}
ENTRY = {1: ("key", BYTES, False), 2: ("value", BYTES, False)}
GRAPH = {
    1: ("node", BYTES, True),
    2: ("name", BYTES, False),
    5: ("initializer", BYTES, True),
    10: ("doc_string", BYTES, False),
    11: ("input", BYTES, True),
    12: ("output", BYTES, True),
    13: ("the results of shape inference", PROCESSED, True),
    14: ("the parameters of a quantization", PROCESSED, True),
}
NODE = {
    1: ("input", BYTES, True),
    2: ("output", BYTES, True),
    3: ("name", BYTES, False),
    4: ("op_type", BYTES, False),
    5: ("attribute", BYTES, True),
    6: ("doc_string", BYTES, False),
    7: ("domain", BYTES, False),
}
ATTRIBUTE = {
    1: ("name", BYTES, False),
    2: ("f", FIXED32, False),
    3: ("i", VARINT64, False),
    4: ("s", BYTES, False),
    8: ("ints", VARINT64, True),
    13: ("doc_string", BYTES, False),
    20: ("type", VARINT32, False),
}
TENSOR = {
    1: ("dims", VARINT64, True),
    2: ("data_type", VARINT32, False),
    8: ("name", BYTES, False),
    9: ("raw_data", BYTES, False),
    12: ("doc_string", BYTES, False),
    13: ("weights in another file", PROCESSED, True),
    14: ("weights in another file", PROCESSED, False),
}
VALUE = {1: ("name", BYTES, False), 2: ("type", BYTES, False), 3: ("doc_string", BYTES, False)}
TYPE = {1: ("tensor_type", BYTES, False), 6: ("denotation", BYTES, False)}
TENSOR_TYPE = {1: ("elem_type", VARINT32, False), 2: ("shape", BYTES, False)}
SHAPE = {1: ("dim", BYTES, True)}
DIMENSION = {1: ("dim_value", VARINT64, False), 2: ("dim_param", BYTES, False), 3: ("denotation", BYTES, False)}

ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 7: "ints"}
"""Field that holds the value, for each supported AttributeProto.AttributeType."""

WEIGHT_SIZES = {FLOAT: 4, INT64: 8, HALF: 2}
"""Bytes per value, for each TensorProto.DataType that weights may have."""

EMPTY = memoryview(b"")


def read_string(message: Mapping[str, Any], field: str) -> str:
    """Return the string in a field, or "" if the message does not have the field.

    Raises:
        ValueError: If the string is longer than `MAX_NAME` or not UTF-8.
    """
    return _decode(message.get(field, EMPTY), field)


def read_strings(message: Mapping[str, Any], field: str) -> list[str]:
    """Return the strings in a repeated field.

    Raises:
        ValueError: If a string is longer than `MAX_NAME` or not UTF-8.
    """
    return [_decode(value, field) for value in message.get(field, ())]


def _decode(value: memoryview, field: str) -> str:
    if len(value) > MAX_NAME:
        raise ValueError(f"its {field} has {len(value)} bytes, more than {MAX_NAME}")
    return str(value, "utf-8")


def read_value_info(message: memoryview) -> tuple[str, Tensor]:
    """Read a ValueInfoProto: return the name of an input or output, and the tensor declared for it.

    Raises:
        ValueError: If the message is not valid.
    """
    value = parse_message(message, VALUE)
    tensor = parse_message(parse_message(value.get("type", EMPTY), TYPE).get("tensor_type", EMPTY), TENSOR_TYPE)
    dimensions = [
        parse_message(dim, DIMENSION) for dim in parse_message(tensor.get("shape", EMPTY), SHAPE).get("dim", ())
    ]
    shape = tuple(None if read_string(dim, "dim_param") else dim.get("dim_value") for dim in dimensions)
    if any("dim_value" in dim and "dim_param" in dim for dim in dimensions):
        raise ValueError("an axis of an input or output has both a size and a name")
    return read_string(value, "name"), Tensor(tensor.get("elem_type", 0), shape)


def read_weight(message: memoryview) -> tuple[str, Tensor]:
    """Return the name and the tensor of a weight or constant. The tensor of a short integer vector has its values.

    Raises:
        ValueError: If the data are not in the file itself, or their length does not match the shape.
    """
    weight = parse_message(message, TENSOR)
    name, data_type, shape = read_string(weight, "name"), weight.get("data_type", 0), tuple(weight.get("dims", ()))
    data = weight.get("raw_data", EMPTY)
    if data_type not in WEIGHT_SIZES or len(data) != WEIGHT_SIZES[data_type] * math.prod(shape):
        raise ValueError(f"the weight {name!r} has {len(data)} bytes, which do not fit {Tensor(data_type, shape)}")
    values = None
    if data_type == INT64 and len(shape) < 2 and len(data) <= 8 * 2 * MAX_RANK:
        values = struct.unpack(f"<{len(data) // 8}q", data)
    return name, Tensor(data_type, shape, values)


def read_attribute(message: memoryview) -> tuple[str, Any]:
    """Read an AttributeProto: return its name and its value (a float, an int, a str or a tuple of ints).

    Raises:
        ValueError: If the type of the attribute is not supported, or the attribute has no value of this type.
    """
    attribute = parse_message(message, ATTRIBUTE)
    name, attribute_type = read_string(attribute, "name"), attribute.get("type")
    field = ATTRIBUTE_FIELDS.get(attribute_type or 0, "")
    if attribute.keys() - {"name", "type", "doc_string", field}:
        raise ValueError(f"its attribute {name!r} has fields that do not belong to type {attribute_type}")
    if field == "s":
        return name, read_string(attribute, "s")
    if field == "ints":
        return name, tuple(attribute.get("ints", ()))
    if field not in attribute:
        raise ValueError(f"its attribute {name!r} has no value")
    return name, struct.unpack("<f", attribute["f"])[0] if field == "f" else attribute["i"]
