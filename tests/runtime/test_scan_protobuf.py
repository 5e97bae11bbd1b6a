"""Protobuf reader of the scan, compared with the protobuf package."""

import onnx
import pytest
from google.protobuf.message import DecodeError
from untrusted import varint

from cvae.runtime.scan import schema
from cvae.runtime.scan.protobuf import parse_message

VARINTS = [0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**66]


@pytest.mark.parametrize("value", VARINTS)
def test_scan_reads_integers_as_protobuf_does(value):
    """Fields have 64 and 32 bits and are single, repeated and packed; numbers take up to ten bytes."""
    number = varint(value)
    attribute = b"\x18" + number + b"\x40" + number + b"\x42" + varint(2 * len(number)) + number * 2
    expected = onnx.AttributeProto.FromString(attribute)
    actual = parse_message(memoryview(attribute), schema.ATTRIBUTE)
    assert (actual["i"], actual["ints"]) == (expected.i, list(expected.ints))
    tensor = b"\x08" + number + b"\x10" + number
    expected = onnx.TensorProto.FromString(tensor)
    actual = parse_message(memoryview(tensor), schema.TENSOR)
    assert (actual["dims"], actual["data_type"]) == (list(expected.dims), expected.data_type)


@pytest.mark.parametrize(
    "data",
    [b"\x18" + b"\x80" * 10 + b"\x00", b"\x98\x80\x80\x80\x80\x80\x00\x01", b"\x00\x01"],
    ids=["number of eleven bytes", "key of seven bytes", "field number zero"],
)
def test_scan_rejects_numbers_that_protobuf_rejects(data):
    with pytest.raises(DecodeError):
        onnx.AttributeProto.FromString(data)
    with pytest.raises(ValueError):
        parse_message(memoryview(data), schema.ATTRIBUTE)
