"""Edits of an exported decoder. Each one gives it contents that no exported file has."""

import copy

import numpy as np
import onnx
from model_edits import EDITS, append_nodes, constant, largest_weight, node, register
from onnx import TensorProto, helper, numpy_helper
from untrusted import varint

from cvae.serialization import MAX_TEXT


def move_data_outside(name: str, *values: str) -> None:
    def edit(model: onnx.ModelProto) -> None:
        tensor = largest_weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in zip(("location", "offset", "length"), values, strict=False):
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
    """Nest subgraphs more deeply than the recursion limit of a parser."""
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
def missing_opset(model):
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
def duplicate_spec(model):
    model.metadata_props.append(copy.deepcopy(model.metadata_props[0]))


@register
def missing_spec(model):
    del model.metadata_props[:]


@register
def huge_metadata(model):
    model.metadata_props.add(key="x", value="y" * (MAX_TEXT + 1))


@register
def internal_format_of_onnxruntime(model):
    """Four bytes make onnxruntime interpret the file as a different format; the rest is a valid model."""
    model.ClearField("ir_version")
    producer = b"\x12" + varint(100) + b"xxORTM" + b"x" * 94
    model.producer_name = ""
    return producer + b"\x08\x0a" + model.SerializeToString().replace(b"\x12\x00", b"", 1)


@register
def two_graphs(model):
    """Readers that merge the graphs and readers that take only the last one see different models."""
    other = onnx.ModelProto(graph=onnx.GraphProto(node=[node("Tile", "image image", "x")]))
    return model.SerializeToString() + other.SerializeToString()


@register
def two_ir_versions(model):
    return model.SerializeToString() + b"\x08\x0a"


@register
def unknown_field(model):
    return model.SerializeToString() + b"\xf8\x3f\x01"


@register
def wrong_wire_type(model):
    return model.SerializeToString() + b"\x45\x01\x02\x03\x04"  # opset_import as four bytes


@register
def nested_groups(model):
    return model.SerializeToString() + b"\x0b" * 10_000


@register
def unterminated_number(model):
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
def missing_graph(model):
    model.ClearField("graph")


@register
def missing_nodes(model):
    del model.graph.node[:]
