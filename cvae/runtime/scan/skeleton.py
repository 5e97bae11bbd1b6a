"""Copy of an ONNX file without its weights, with which onnxruntime can check the graph in little memory."""

from cvae.runtime.scan.protobuf import BYTES, VARINT, iterate_fields
from cvae.runtime.scan.schema import read_weight

MODEL_GRAPH, GRAPH_INITIALIZER, GRAPH_INPUT = 7, 5, 11
"""Field numbers of ModelProto.graph, GraphProto.initializer and GraphProto.input."""

MAX_CONSTANT = 1024
"""Maximum size in bytes of a weight that stays in the copy. Shapes and axes are much smaller."""


def remove_weights(model: bytes) -> bytes:
    """Return a copy of a scanned ONNX file in which the weights are inputs of the same types and shapes."""
    return b"".join(
        _bytes_field(number, _remove_weights(value))
        if number == MODEL_GRAPH and isinstance(value, memoryview)
        else _field(number, wire_type, value)
        for number, wire_type, value in iterate_fields(memoryview(model))
    )


def _remove_weights(graph: memoryview) -> bytes:
    fields = []
    for number, wire_type, value in iterate_fields(graph):
        if number == GRAPH_INITIALIZER and isinstance(value, memoryview) and len(value) > MAX_CONSTANT:
            name, tensor = read_weight(value)
            # TensorShapeProto.dim = 1, TensorShapeProto.Dimension.dim_value = 1
            shape = b"".join(_bytes_field(1, _field(1, VARINT, size or 0)) for size in tensor.shape)
            # TypeProto.tensor_type = 1, TypeProto.Tensor.elem_type = 1, shape = 2
            kind = _bytes_field(1, _field(1, VARINT, tensor.type) + _bytes_field(2, shape))
            # ValueInfoProto.name = 1, type = 2
            fields.append(_bytes_field(GRAPH_INPUT, _bytes_field(1, name.encode()) + _bytes_field(2, kind)))
        else:
            fields.append(_field(number, wire_type, value))
    return b"".join(fields)


def _field(number: int, wire_type: int, value: int | memoryview) -> bytes:
    key = _varint(number << 3 | wire_type)
    if isinstance(value, int):
        return key + _varint(value)
    return key + (_varint(len(value)) if wire_type == BYTES else b"") + bytes(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _field(number, BYTES, memoryview(value))


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
