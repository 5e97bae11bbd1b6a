"""Build step that stores the large weights of zoo models in 16 bits, so that the wheel is small.

The repository, and an editable install of it, keep all 32 bits. This file imports only setuptools, because pip builds a
wheel in an environment without numpy and onnx.

With CVAE_ONNX_GPU=1 in the environment, the distribution is cvae-onnx-gpu, which requires onnxruntime-gpu. An extra of
cvae-onnx could not do this: an extra only adds packages, and onnxruntime and onnxruntime-gpu overwrite each other.

Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx/onnx.proto.
"""

import json
import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

MIN_HALVED = 20_000
"""Minimum number of elements of a weight tensor that is stored in 16 bits. Rounding small tensors causes most of
the error, above all in a flow."""

VARINT, BYTES = 0, 2
"""Wire types."""

FLOAT, FLOAT16 = 1, 10
"""Values of TensorProto.DataType."""

INT = 2
"""Value of AttributeProto.AttributeType."""


GPU = {"cvae-onnx": "cvae-onnx-gpu", "onnxruntime": "onnxruntime-gpu[cuda,cudnn]"}
"""Distributions that take the place of others if CVAE_ONNX_GPU is set. The extras install the libraries of CUDA."""


class CvaeDistribution(Distribution):
    """Distribution whose name and requirements depend on CVAE_ONNX_GPU."""

    def parse_config_files(self, *args: Any, **options: Any) -> None:
        super().parse_config_files(*args, **options)
        if os.environ.get("CVAE_ONNX_GPU") == "1":
            self.metadata.name = GPU[self.metadata.name]
            for requirements in (self.install_requires, *self.extras_require.values()):
                requirements[:] = map(replace_requirement, requirements)


def replace_requirement(requirement: str) -> str:
    """Return a requirement in which the name is replaced as `GPU` says: cvae-onnx[plot] -> cvae-onnx-gpu[plot]."""
    name = re.split(r"[^\w-]", requirement)[0]
    return GPU.get(name, name) + requirement[len(name) :]


class BuildPy(build_py):
    """Build command that stores large weights in 16 bits in the copies of zoo models in the build folder."""

    def build_package_data(self) -> None:
        super().build_package_data()
        for target, source in self.get_output_mapping().items():
            if Path(source).match("model_zoo/*/*.onnx"):
                Path(target).write_bytes(halve(Path(source).read_bytes()))


def halve(model: bytes) -> bytes:
    """Convert the large weights of an exported file to float16, and add nodes that cast them back to float32.

    In its spec, the type of the weights replaces the agreement with torch, which is not measured again.
    """
    result = b""
    for number, value in read_fields(model):
        if number == 7 and isinstance(value, bytes):  # ModelProto.graph
            value = _halve_graph(value)
        elif number == 14 and isinstance(value, bytes):  # ModelProto.metadata_props
            value = _update_spec(value)
        result += encode_field(number, value)
    return result


def _halve_graph(graph: bytes) -> bytes:
    casts, rest = b"", b""
    for number, value in read_fields(graph):
        if number == 5 and isinstance(value, bytes):  # GraphProto.initializer
            weight, cast = _halve_weight(value)
            casts += cast
            rest += encode_field(number, weight)
        else:
            rest += encode_field(number, value)
    return casts + rest  # a node must come after the nodes whose outputs it reads


def _halve_weight(weight: bytes) -> tuple[bytes, bytes]:
    """Return the weight as float16 and the node that casts it back to float32, or a small weight unchanged and b""."""
    fields = list(read_fields(weight))
    dims = [value for number, value in fields if number == 1 and isinstance(value, int)]
    values = dict(fields)
    data_type, name, data = values[2], values[8], values.get(9)  # data_type, name, raw_data
    if data_type != FLOAT or math.prod(dims) < MIN_HALVED:
        return weight, b""
    assert isinstance(name, bytes) and isinstance(data, bytes) and len(data) == 4 * math.prod(dims)
    halved_data = struct.pack(f"<{len(data) // 4}e", *struct.unpack(f"<{len(data) // 4}f", data))
    halved = {2: FLOAT16, 8: name + b".half", 9: halved_data}
    attribute = encode_field(1, b"to") + encode_field(3, FLOAT) + encode_field(20, INT)  # name, i, type
    node = [(1, name + b".half"), (2, name), (4, b"Cast"), (5, attribute)]  # input, output, op_type, attribute
    cast = b"".join(encode_field(number, value) for number, value in node)
    return (
        b"".join(encode_field(number, halved.get(number, value)) for number, value in fields),
        encode_field(1, cast),  # GraphProto.node
    )


def _update_spec(entry: bytes) -> bytes:
    """Return a metadata entry, updated with the type of the weights if it is the spec."""
    fields = dict(read_fields(entry))
    if fields[1] != b"cvae":  # StringStringEntryProto.key
        return entry
    spec = {**json.loads(fields[2]), "agreement": {"weights": "float16"}}
    return encode_field(1, b"cvae") + encode_field(2, json.dumps(spec).encode())


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field of a protobuf message.

    Raises:
        ValueError: If a field is neither an integer nor a sequence of bytes.
    """
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        if key & 7 not in (VARINT, BYTES):
            raise ValueError(f"field {key >> 3} has the unsupported wire type {key & 7}")
        value, position = _read_varint(message, position)
        if key & 7 == VARINT:
            yield key >> 3, value
        else:
            yield key >> 3, message[position : position + value]
            position += value


def encode_field(number: int, value: int | bytes) -> bytes:
    """Return the encoding of a field of a protobuf message."""
    if isinstance(value, int):
        return _encode_varint(number << 3 | VARINT) + _encode_varint(value)
    return _encode_varint(number << 3 | BYTES) + _encode_varint(len(value)) + value


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """Read an unsigned number, and return it with the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _encode_varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPy}, distclass=CvaeDistribution)
