"""Edits that make the graph of an exported decoder too expensive or invalid."""

import itertools
from typing import Any

import numpy as np
import onnx
from model_edits import EDITS, append_nodes, node, register
from onnx import helper
from untrusted import varint

# -- time and memory ---------------------------------------------------------------------------------------------------
# Most edits compute a tensor "big" from the image (B, 1, 8, 8), and slice "big" back to the size of the image.

SMALL = {"zero": [0, 0], "eight": [8, 8], "axes": [2, 3], "ones": [1, 1]}
SLICE = node("Slice", "big zero eight axes ones")


@register
def tile(model):
    append_nodes(model, node("Tile", "before times", "big"), SLICE, times=[1, 1, 5000, 5000], **SMALL)


@register
def expand(model):
    shape = node("Shape", "before", "batch", start=0, end=1)
    target = node("Concat", "batch rest", "shape", axis=0)
    cut = node("ReduceSum", "big two", "image", keepdims=1)
    append_nodes(model, shape, target, node("Expand", "before shape", "big"), cut, rest=[2**26, 8, 8], two=[1])


@register
def expand_of_a_constant(model):
    small = node("ReduceSum", "big all", "sum", keepdims=0)
    append_nodes(
        model, node("Expand", "one wide", "big"), small, node("Add", "before sum"), one=1.0, wide=[2**31], all=[0]
    )


@register
def expand_whose_size_overflows(model):
    small = node("ReduceSum", "big all", "sum", keepdims=0)
    wide = [2**32, 2**32, 2**32]
    append_nodes(
        model, node("Expand", "one wide", "big"), small, node("Add", "before sum"), one=1.0, wide=wide, all=[0, 1, 2]
    )


@register
def constant_of_shape(model):
    small = node("ReduceSum", "big all", "sum", keepdims=0)
    append_nodes(model, node("ConstantOfShape", "wide", "big"), small, node("Add", "before sum"), wide=[2**30], all=[0])


@register
def resize(model):
    shape = node("Shape", "before", "start", start=0, end=2)
    target = node("Concat", "start rest", "shape", axis=0)
    big = node("Resize", "before - - shape", "big", mode="nearest")
    append_nodes(model, shape, target, big, SLICE, rest=[40_000, 40_000], **SMALL)


@register
def resize_by_scales(model):
    append_nodes(
        model, node("Resize", "before - scales", "big", mode="nearest"), SLICE, scales=[1.0, 1.0, 5e3, 5e3], **SMALL
    )


@register
def pad(model):
    append_nodes(model, node("Pad", "before pads", "big"), SLICE, pads=[0, 0, 0, 0, 0, 0, 30_000, 30_000], **SMALL)


@register
def pad_with_negative_amounts(model):
    append_nodes(model, node("Pad", "before pads", "image"), pads=[0, 0, -1, 0, 0, 0, 1, 0])


@register
def pad_with_amounts_from_the_image(model):
    append_nodes(model, node("Cast", "before", "pads", to=7), node("Pad", "before pads", "big"), SLICE, **SMALL)


@register
def transposed_convolution_with_huge_strides(model):
    big = node("ConvTranspose", "before kernel", "big", strides=[4000, 4000])
    append_nodes(model, big, SLICE, kernel=[[[[1.0]]]], **SMALL)


@register
def convolution_with_huge_padding(model):
    append_nodes(model, node("Conv", "before kernel", "big", pads=[4000] * 4), SLICE, kernel=[[[[1.0]]]], **SMALL)


@register
def repeated_doubling(model):
    names = ["before", *(f"d{i}" for i in range(30))]
    doublings = [node("Concat", f"{a} {a}", b, axis=1) for a, b in itertools.pairwise(names)]
    append_nodes(model, *doublings, node("Slice", "d29 start end axis step"), start=[0], end=[1], axis=[1], step=[1])


@register
def repeated_outer_products(model):
    flat, long = node("Reshape", "before flat", "a0"), []
    for i in range(12):
        long += [node("MatMul", f"a{i} row", f"b{i}"), node("Reshape", f"b{i} column", f"a{i + 1}")]
    cut = [node("Slice", "a12 start end axis step", "cut"), node("Reshape", "cut shape")]
    constants = {"row": [[1.0, 1.0, 1.0, 1.0]], "column": [-1, 1], "flat": [-1, 64, 1], "shape": [-1, 1, 8, 8]}
    append_nodes(model, flat, *long, *cut, start=[0], end=[64], axis=[1], step=[1], **constants)


@register
def long_chain_of_products(model):
    """Each product takes little memory, but together they would take minutes."""
    start = [node("Reshape", "before column", "c"), node("MatMul", "c wide", "m0")]
    long = [node("MatMul", f"m{i} square", f"m{i + 1}") for i in range(4000)]
    end = [node("Slice", "m4000 start end axis step", "cut"), node("Reshape", "cut shape")]
    square, wide = np.eye(512, dtype=np.float32), np.ones((1, 512), np.float32)
    shapes = {"column": [-1, 64, 1], "shape": [-1, 1, 8, 8]}
    append_nodes(model, *start, *long, *end, square=square, wide=wide, start=[0], end=[1], axis=[2], step=[1], **shapes)


@register
def many_nodes(model):
    names = ["before", *(f"d{i}" for i in range(10_000)), "image"]
    append_nodes(model, *(node("Neg", a, b) for a, b in itertools.pairwise(names)))


@register
def many_empty_nodes(model):
    data = model.graph.SerializeToString() + b"\x0a\x00" * 1_000_000
    model.ClearField("graph")
    return model.SerializeToString() + b"\x3a" + varint(len(data)) + data


@register
def many_edges(model):
    rows = [node("Concat", " ".join(["noise"] * 250), f"row{i}", axis=1) for i in range(2000)]
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*rows, *own])


@register
def nested_shape_vectors(model):
    """Each of three vectors is up to 250 times as long as the one before; the last has 60 million integers."""
    rows = [node("Concat", " ".join([a] * n), b, axis=0) for a, n, b in zip("pqr", (250, 250, 60), "qrs", strict=True)]
    append_nodes(model, *rows, node("Reshape", "before s"), p=list(range(16)))


@register
def many_attributes(model):
    data = b"\x2a\x00" * 1_000_000
    data = b"\x0a" + varint(len(data)) + data + model.graph.SerializeToString()
    model.ClearField("graph")
    return model.SerializeToString() + b"\x3a" + varint(len(data)) + data


@register
def many_numbers_in_an_attribute(model):
    model.graph.node[-1].attribute.append(helper.make_attribute("pads", [1] * 1_000_000))


@register
def transposed_batch_axis(model):
    append_nodes(
        model, node("Transpose", "before", "turned", perm=[2, 1, 0, 3]), node("Transpose", "turned", perm=[2, 1, 0, 3])
    )


@register
def batch_reshaped_into_channels(model):
    append_nodes(
        model, node("Reshape", "before one", "f"), node("Reshape", "f back"), one=[1, -1, 8, 8], back=[-1, 1, 8, 8]
    )


@register
def negative_block_size(model):
    append_nodes(model, node("DepthToSpace", "before", blocksize=-1))


@register
def zero_block_size(model):
    append_nodes(model, node("DepthToSpace", "before", blocksize=0))


@register
def zero_groups(model):
    append_nodes(model, node("Conv", "before kernel", group=0), kernel=[[[[1.0]]]])


@register
def zero_stride(model):
    append_nodes(model, node("Conv", "before kernel", strides=[0, 0]), kernel=[[[[1.0]]]])


@register
def index_beyond_the_end(model):
    append_nodes(model, node("Gather", "before far", axis=1), far=[1_000_000])


@register
def index_before_the_start(model):
    append_nodes(model, node("Gather", "before far", axis=1), far=[-(2**63)])


@register
def split_larger_than_its_input(model):
    append_nodes(model, node("Split", "before sizes", "image rest", axis=2), sizes=[8, 2**40])


# -- attributes and inputs with unexpected values, from which onnxruntime may derive other shapes than the scan --------


@register
def resize_keeping_the_aspect_ratio(model):
    pair = node("Shape", "before", "pair", start=0, end=2)
    target = node("Concat", "pair wide", "target", axis=0)
    big = node("Resize", "before - - target", "big", mode="nearest", keep_aspect_ratio_policy="not_smaller")
    append_nodes(model, pair, target, big, SLICE, wide=[8, 384], **SMALL)


@register
def reduce_sum_with_keepdims_2(model):
    """onnxruntime treats only 1 as true and drops the axis. The column becomes a row, and their sum is a square."""
    reduced = node("ReduceSum", "column second", "row", keepdims=2)
    total = [node("Add", "column row", "square"), node("ReduceSum", "square both", "sum", keepdims=0)]
    ones = np.ones((16384, 1), np.float32)
    append_nodes(model, reduced, *total, node("Add", "before sum"), column=ones, second=[1], both=[0, 1])


@register
def reduce_sum_with_keepdims_of_66_bits(model):
    """protobuf keeps the lowest 64 bits, which are 0."""
    reduce_sum_with_keepdims_2(model)
    attribute = next(node for node in model.graph.node if node.op_type == "ReduceSum").attribute[0]
    attribute.i = -1  # takes ten bytes, like the 66-bit number that replaces it
    data, minus_one = model.SerializeToString(), b"\x18" + b"\xff" * 9 + b"\x01"
    assert data.count(minus_one) == 1
    return data.replace(minus_one, b"\x18" + b"\x80" * 9 + b"\x04")


for _op, _inputs, _attributes in (
    ("Resize", "before - - shape", {"mode": "linear"}),
    ("Resize", "before - - shape", {"coordinate_transformation_mode": "tf_crop_and_resize"}),
    ("Resize", "before - - shape", {"nearest_mode": "up"}),
    ("Resize", "before - - shape", {"antialias": 2}),
    ("DepthToSpace", "before", {"blocksize": 1, "mode": "ABC"}),
    ("DepthToSpace", "before", {}),
    ("Gelu", "before", {"approximate": "erf"}),
    ("LeakyRelu", "before", {"alpha": float("nan")}),
    ("LogSoftmax", "before", {"axis": 2**40}),
    ("Cast", "before", {}),
    ("Cast", "before", {"to": 1, "saturate": 0}),
    ("Transpose", "before", {"perm": [0, 1, 2, 2**32 + 3]}),
):

    def _edit_attribute(
        model: onnx.ModelProto, op: str = _op, inputs: str = _inputs, attributes: Any = _attributes
    ) -> None:
        mode = {"mode": "nearest"} if op == "Resize" else {}
        shape = {} if op != "Resize" else {"shape": [1, 1, 8, 8]}
        append_nodes(model, node(op, inputs, **{**mode, **attributes}), **shape)

    EDITS[f"{_op}_with_{'_'.join(map(str, _attributes)) or 'no_attributes'}"] = _edit_attribute


for _op, _inputs in (
    ("MatMul", "before -"),
    ("Add", "before -"),
    ("Conv", "before -"),
    ("Where", "before - -"),
    ("Gemm", "before -"),
    ("Concat", "before -"),
    ("LayerNormalization", "before -"),
    ("Resize", "before - - -"),
    ("Reshape", "before -"),
):

    def _edit_input(model: onnx.ModelProto, op: str = _op, inputs: str = _inputs) -> None:
        append_nodes(model, node(op, inputs))

    EDITS[f"{_op}_with_an_empty_input"] = _edit_input


@register
def many_outputs(model):
    splits = [
        node("Split", "before", " ".join(f"s{i}x{j}" for j in range(248)), axis=2, num_outputs=248) for i in range(4000)
    ]
    append_nodes(model, node("Concat", " ".join(["before"] * 31), "long", axis=2), *splits, node("Neg", "before"))
    for split in splits:
        split.input[0] = "long"
