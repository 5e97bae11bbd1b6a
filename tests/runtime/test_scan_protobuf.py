"""Protobuf reader of the scan, compared with the protobuf package."""

from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_helpers import DECODER, ENCODER, both_kinds
from untrusted import varint

import cvae
from cvae.errors import CvaeError
from cvae.runtime.scan import protobuf, schema
from cvae.runtime.scan.protobuf import parse_message

VARINTS = [0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**66]


@pytest.mark.parametrize("value", VARINTS)
def test_scan_reads_integers_as_protobuf_does(value):
    """The fields have 64 or 32 bits, and are single, repeated or packed. A number is encoded in up to ten bytes."""
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


fast_settings = settings(deadline=None, max_examples=60)

printable_text = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=12)


@both_kinds
@pytest.mark.parametrize("file", [DECODER, ENCODER])
def test_reader_finds_the_same_fields_as_the_onnx_package(trained, kind, file):
    data = (trained[kind] / file).read_bytes()
    model = onnx.load_from_string(data)
    assert protobuf.read_metadata(data, file) == {p.key: p.value for p in model.metadata_props}
    actual = list(protobuf.iterate_fields(memoryview(data)))
    assert {number for number, _, _ in actual} == {field.number for field, _ in model.ListFields()}
    (graph,) = [value for number, _, value in actual if number == onnx.ModelProto.GRAPH_FIELD_NUMBER]
    assert onnx.GraphProto.FromString(bytes(graph)) == model.graph


keys_and_values = st.lists(
    st.fixed_dictionaries({}, optional={"key": printable_text, "value": printable_text}), max_size=5
)


@fast_settings
@given(keys_and_values, st.integers(-(2**63), 2**63 - 1), printable_text, st.integers(0, 300))
def test_metadata_is_read_and_truncated_fields_are_rejected(entries, version, text, length):
    props = [onnx.StringStringEntryProto(**entry) for entry in entries]
    model = onnx.ModelProto(ir_version=version, model_version=version, producer_name=text, metadata_props=props)
    data = model.SerializeToString()
    assert protobuf.read_metadata(data, "file") == {prop.key: prop.value for prop in model.metadata_props}
    actual = list(protobuf.iterate_fields(memoryview(data)))
    try:
        truncated = list(protobuf.iterate_fields(memoryview(data[:length])))
    except ValueError:
        assert length < len(data)
    else:
        assert truncated == actual[: len(truncated)] and (length < len(data) or truncated == actual)


@fast_settings
@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_metadata_or_raise_a_cvae_error(data):
    try:
        assert isinstance(protobuf.read_metadata(data, "some-file"), dict)
    except CvaeError as error:
        assert "'some-file'" in str(error)


def test_truncated_file_is_rejected(trained, tmp_path):
    data, path = (trained["labels"] / DECODER).read_bytes(), tmp_path / "truncated.onnx"
    for length in [*range(0, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CvaeError, match=r"truncated\.onnx"):
            cvae.load(path)


def test_file_with_a_corrupted_byte_is_loaded_or_rejected(trained, tmp_path):
    data, path = (trained["labels"] / DECODER).read_bytes(), tmp_path / "wrong.onnx"
    rejected = 0
    for position in range(0, 2000, 13):  # positions in the nodes, which precede the weights
        path.write_bytes(data[:position] + b"\xff" + data[position + 1 :])
        try:
            cvae.load(path)
        except CvaeError as error:
            rejected += 1
            assert "\n" not in str(error)
    assert rejected > 20


def assert_rejected_silently(path: Path, data: bytes, capfd) -> None:
    path.write_bytes(data)
    with pytest.raises(CvaeError, match=path.name):
        cvae.load(path)
    assert capfd.readouterr() == ("", "")


def test_dimension_name_that_is_not_utf8_is_rejected(trained, tmp_path, capfd):
    data = (trained["labels"] / DECODER).read_bytes()
    assert_rejected_silently(tmp_path / "wrong.onnx", data.replace(b"\x05batch", b"\x05b\xc0tch"), capfd)


def test_operator_name_that_is_not_utf8_is_rejected(trained, tmp_path, capfd):
    data = (trained["labels"] / DECODER).read_bytes()
    name = onnx.load_from_string(data).graph.node[0].op_type.encode()
    assert_rejected_silently(tmp_path / "wrong.onnx", data.replace(name, b"\xff" * len(name)), capfd)
