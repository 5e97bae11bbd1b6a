"""Edits of an exported decoder whose files contain what no export contains, or contradict their spec."""

import copy
import json
import struct
from typing import Any

import numpy as np
import onnx
from model_edits import EDITS, append_nodes, change_spec, constant, largest_weight, node, register
from onnx import TensorProto, helper, numpy_helper
from untrusted import varint

from cvae.serialization import MAX_TEXT

# -- contents that no export has ---------------------------------------------------------------------------------------


def move_data_outside(name: str, *where: str) -> None:
    def edit(model: onnx.ModelProto) -> None:
        tensor = largest_weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in zip(("location", "offset", "length"), where, strict=False):
            tensor.external_data.add(key=key, value=value)

    EDITS[name] = edit


move_data_outside("external_data_in_a_parent_folder", "../../etc/passwd")
move_data_outside("external_data_at_an_absolute_path", "/etc/passwd")
move_data_outside("external_data_behind_a_symlink", ".link", "0", "400")
move_data_outside("external_data_in_a_device", "/dev/zero", "0", str(2**40))


@register
def external_data_without_location(model):
    largest_weight(model).data_location = TensorProto.EXTERNAL


@register
def local_function(model):
    body = helper.make_function("", "Sigmoid", ["x"], ["y"], [node("Tile", "x x", "y")], model.opset_import)
    model.functions.append(body)


@register
def subgraph(model):
    graph = helper.make_graph([node("Neg", "before", "x")], "body", [], [onnx.ValueInfoProto(name="x")])
    true = numpy_helper.from_array(np.array(True), "true")
    model.graph.initializer.append(true)
    append_nodes(model, node("If", "true", then_branch=graph, else_branch=graph))


@register
def subgraph_in_a_known_operator(model):
    model.graph.node[-1].attribute.append(helper.make_attribute("body", model.graph))


@register
def loop(model):
    trips = constant("trips", 2**40)
    body = helper.make_graph([node("Neg", "x", "y")], "body", [], [])
    model.graph.initializer.append(trips)
    append_nodes(model, node("Loop", "trips - before", body=body))


@register
def deep_subgraphs(model):
    """The nesting is deeper than the recursion limit of a parser."""
    data = b""
    for _ in range(2000):
        data = b"".join([b"\x32", varint(len(data)), data])  # attribute g
        data = b"".join([b"\x2a", varint(len(data)), data])  # node attribute
        data = b"".join([b"\x0a", varint(len(data)), data])  # graph node
    return model.SerializeToString() + b"\x3a" + varint(len(data)) + data


@register
def other_domain(model):
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)


@register
def other_domain_not_imported(model):
    model.graph.node[0].domain = "com.microsoft"


@register
def training_domain(model):
    model.opset_import.add(domain="ai.onnx.training", version=1)


@register
def huge_opset_version(model):
    model.opset_import[0].version = 2**40


@register
def no_opset(model):
    del model.opset_import[:]


for _op in (
    "RandomNormalLike",
    "NonZero",
    "Identity",
    "Softmax",
    "Range",
    "Einsum",
    "StringNormalizer",
    "",
    "x" * 10_000,
):

    def _edit(model: onnx.ModelProto, op: str = _op) -> None:
        append_nodes(model, node("Neg", "before"))
        model.graph.node[-1].op_type = op

    EDITS[f"operator_{_op[:20]}"] = _edit


@register
def training_info(model):
    model.training_info.add()


@register
def sparse_weight(model):
    model.graph.sparse_initializer.add().dims.append(2**40)


@register
def quantization(model):
    model.graph.quantization_annotation.add()


@register
def declared_shapes(model):
    model.graph.value_info.append(helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]))


@register
def node_metadata(model):
    model.graph.node[0].metadata_props.add(key="x", value="y")


@register
def additional_metadata(model):
    model.metadata_props.add(key="ort_config", value='{"session_options": {"intra_op_num_threads": 100000}}')


@register
def spec_twice(model):
    model.metadata_props.append(copy.deepcopy(model.metadata_props[0]))


@register
def no_spec(model):
    del model.metadata_props[:]


@register
def huge_metadata(model):
    model.metadata_props.add(key="x", value="y" * (MAX_TEXT + 1))


@register
def internal_format_of_onnxruntime(model):
    """Four bytes make onnxruntime read another format; the rest is a valid model."""
    model.ClearField("ir_version")
    producer = b"\x12" + varint(100) + b"xxORTM" + b"x" * 94
    model.producer_name = ""
    return producer + b"\x08\x0a" + model.SerializeToString().replace(b"\x12\x00", b"", 1)


@register
def two_graphs(model):
    """A reader that takes the last graph and one that merges both see different models."""
    other = onnx.ModelProto(graph=onnx.GraphProto(node=[node("Tile", "image image", "x")]))
    return model.SerializeToString() + other.SerializeToString()


@register
def two_versions(model):
    return model.SerializeToString() + b"\x08\x0a"


@register
def unknown_field(model):
    return model.SerializeToString() + b"\xf8\x3f\x01"


@register
def other_wire_type(model):
    return model.SerializeToString() + b"\x45\x01\x02\x03\x04"  # opset_import as four bytes


@register
def nested_groups(model):
    return model.SerializeToString() + b"\x0b" * 10_000


@register
def number_without_end(model):
    return model.SerializeToString() + b"\x08" + b"\x80" * 1_000_000


@register
def key_beyond_32_bits(model):
    return model.SerializeToString() + b"\xba\x80\x80\x80\x80\x80\x01\x00"


@register
def millions_of_fields(model):
    return b"\x30\x01" * 3_000_000


# -- names -------------------------------------------------------------------------------------------------------------


@register
def duplicate_output_name(model):
    append_nodes(model, node("Neg", "before"), node("Neg", "before"))


@register
def node_that_overwrites_an_input(model):
    append_nodes(model, node("Neg", "before", "noise"), node("Neg", "before"))


@register
def cycle(model):
    append_nodes(model, node("Add", "before b", "a"), node("Neg", "a", "b"), node("Neg", "b"))


@register
def unknown_input_name(model):
    append_nodes(model, node("Add", "before nowhere"))


@register
def name_that_is_not_utf8(model):
    return model.SerializeToString().replace(b"label", b"\xff\xfe\xfd\xfc\xfb")


@register
def huge_name(model):
    append_nodes(model, node("Neg", "before", "x" * 1_000_000), node("Neg", "x" * 1_000_000))


@register
def huge_input_name(model):
    append_nodes(model, node("Neg", "x" * 100_000_000))


@register
def no_graph(model):
    model.ClearField("graph")


@register
def no_nodes(model):
    del model.graph.node[:]


# -- weights -----------------------------------------------------------------------------------------------------------


def reshape_weight(name: str, *dims: int) -> None:
    def edit(model: onnx.ModelProto) -> None:
        largest_weight(model).dims[:] = dims

    EDITS[name] = edit


reshape_weight("negative_dimension", -1, -8)
reshape_weight("zero_by_huge", 2**62, 0)
reshape_weight("huge_dimension", 2**62)
reshape_weight("overflowing_product", 2**32, 2**32, 1)
reshape_weight("without_dimensions")
reshape_weight("many_dimensions", *[1] * 500)


@register
def data_longer_than_its_shape(model):
    largest_weight(model).raw_data += b"\0" * 4


@register
def data_shorter_than_its_shape(model):
    largest_weight(model).raw_data = largest_weight(model).raw_data[4:]


@register
def data_in_another_field(model):
    tensor = largest_weight(model)
    values = numpy_helper.to_array(tensor).ravel().tolist()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values)


for _type in (0, TensorProto.DOUBLE, TensorProto.STRING, TensorProto.INT8, TensorProto.INT64, 99, 2**31 - 1):

    def _edit_type(model: onnx.ModelProto, type: int = _type) -> None:
        largest_weight(model).data_type = type

    EDITS[f"weights_of_type_{_type}"] = _edit_type

for _value in ("nan", "inf", "-inf"):

    def _edit_value(model: onnx.ModelProto, value: str = _value) -> None:
        tensor = largest_weight(model)
        tensor.raw_data = struct.pack("<f", float(value)) * (len(tensor.raw_data) // 4)

    EDITS[f"weights_{_value}"] = _edit_value


@register
def one_weight_of_half_precision(model):
    tensor = largest_weight(model)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


# -- inputs and outputs ------------------------------------------------------------------------------------------------


def declare(name: str, part: str, index: int, type: int, shape: list[Any]) -> None:
    def edit(model: onnx.ModelProto) -> None:
        value = getattr(model.graph, part)[index]
        value.CopyFrom(helper.make_tensor_value_info(value.name, type, shape))

    EDITS[name] = edit


declare("noise_of_doubles", "input", 0, TensorProto.DOUBLE, ["batch", 8])
declare("noise_of_text", "input", 0, TensorProto.STRING, ["batch", 8])
declare("noise_of_rank_3", "input", 0, TensorProto.FLOAT, ["batch", 8, 1])
declare("noise_without_batch", "input", 0, TensorProto.FLOAT, [1, 8])
declare("noise_of_free_size", "input", 0, TensorProto.FLOAT, ["batch", "size"])
declare("labels_of_int32", "input", 1, TensorProto.INT32, ["batch"])
declare("labels_of_rank_2", "input", 1, TensorProto.INT64, ["batch", 1])
declare("images_of_doubles", "output", 0, TensorProto.DOUBLE, ["batch", 1, 8, 8])
declare("images_of_bytes", "output", 0, TensorProto.UINT8, ["batch", 1, 8, 8])
declare("images_of_rank_3", "output", 0, TensorProto.FLOAT, ["batch", 8, 8])
declare("images_declared_smaller", "output", 0, TensorProto.FLOAT, ["batch", 1, 4, 4])


@register
def images_larger_than_declared(model):
    append_nodes(model, node("Concat", "before before", axis=2))


@register
def images_without_a_batch(model):
    append_nodes(model, node("ReduceSum", "before batch", keepdims=1), batch=[0])


@register
def additional_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 8]))


@register
def additional_output(model):
    model.graph.output.append(helper.make_tensor_value_info("before", TensorProto.FLOAT, ["batch", 1, 8, 8]))
    append_nodes(model, node("Neg", "before"))


@register
def no_inputs(model):
    del model.graph.input[:]


@register
def sequence_as_input(model):
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(model.graph.input[0].type))


# -- spec --------------------------------------------------------------------------------------------------------------

SPEC_CHANGES: dict[str, dict[str, Any]] = {
    "larger_latent": {"latent_dim": 9},
    "huge_latent": {"latent_dim": 2**40},
    "latent_as_text": {"latent_dim": "8"},
    "latent_with_4000_digits": {"latent_dim": 10**4000},
    "larger_image": {"image_shape": [1, 8, 9]},
    "more_channels": {"image_shape": [3, 8, 8]},
    "huge_image": {"image_shape": [1, 4096, 4096]},
    "overflowing_image": {"image_shape": [2**62, 2**62, 2**62]},
    "image_of_size_zero": {"image_shape": [0, 8, 8]},
    "negative_image": {"image_shape": [1, -8, -8]},
    "image_without_channels": {"image_shape": [8, 8]},
    "no_classes": {"classes": None},
    "empty_classes": {"classes": []},
    "fewer_classes": {"classes": list("012345678")},
    "more_classes": {"classes": list("0123456789a")},
    "many_classes": {"classes": ["x"] * 300_000},
    "classes_as_numbers": {"classes": list(range(10))},
    "class_that_clears_the_screen": {"classes": [*"012345678", "\x1b[2J"]},
    "class_of_two_lines": {"classes": [*"012345678", "9\ncvae: error: all is well"]},
    "huge_class": {"classes": [*"012345678", "9" * 1_000_000]},
    "huge_model_name": {"name": "x" * 1_000_000},
    "unknown_key": {"trust": True},
    "huge_unknown_key": {"k" * 1_000_000: True},
    "other_role": {"role": "encoder"},
    "unknown_role": {"role": "x"},
    "other_value_range": {"value_range": [0, 255]},
    "negative_sigma": {"sigma": -1.0},
    "huge_format": {"format": "9" * 100_000},
    "deep_agreement": {"agreement": json.loads("[" * 100 + "]" * 100)},
    "agreement_that_is_not_an_object": {"agreement": 3},
    "agreement_that_clears_the_screen": {"agreement": {"max_abs_difference": "\x1b[2J"}},
    "half_of_a_surrogate_pair": {"name": "\ud800"},
    "name_with_reversed_text": {"name": "\u202egnp.exe"},
}
for _name, _changes in SPEC_CHANGES.items():

    def _change_spec(model: onnx.ModelProto, changes: dict[str, Any] = _changes) -> None:
        change_spec(model, **changes)

    EDITS[f"spec_{_name}"] = _change_spec

SPEC_TEXTS = {
    "not_json": "{",
    "not_an_object": "[]",
    "empty": "",
    "deep": '{"format": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep_objects": '{"x":' * 50_000 + "1" + "}" * 50_000,
    "many_lists": "[" + ",".join(["[]"] * 600_000) + "]",
    "many_objects": "[" + ",".join(["{}"] * 600_000) + "]",
    "not_finite": '{"format": 1, "sigma": NaN}',
    "overflowing_float": '{"format": 1, "sigma": 1e999}',
    "number_of_a_million_digits": '{"format": ' + "9" * 1_000_000 + "}",
}
for _name, _text in SPEC_TEXTS.items():

    def _replace_spec(model: onnx.ModelProto, text: str = _text) -> None:
        model.metadata_props[0].value = text

    EDITS[f"spec_{_name}"] = _replace_spec


@register
def spec_with_duplicate_key(model):
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"latent_dim": 8', '"latent_dim": 8, "latent_dim": 8')
    assert entry.value.count("latent_dim") == 2
