"""Files from strangers: refused in one line, within a second and 200 MB; and what the scan knows is what is true."""

import copy
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import strangers
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import cvae
from cvae.errors import CvaeError, UsageError, one_line
from cvae.imaging.reader import MAX_PIXELS, ORIENTATION, cover, read
from cvae.runtime import protobuf, session
from cvae.runtime import scan as scanning
from cvae.runtime.session import read_spec
from cvae.serialization import MAX_TEXT, parse_json

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "model_zoo" / "mnist-resnet-conditional"
SCRIPT = Path(strangers.__file__)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")


# -- what the scan knows -----------------------------------------------------------------------------------------------


def shapes_in_onnxruntime(data: bytes, inputs: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that onnxruntime computes, the graph as it is."""
    model = onnx.load_from_string(data)
    names = [name for node in model.graph.node for name in node.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {name: value.shape for name, value in zip(names, found.run(names, inputs), strict=True)}


@pytest.mark.parametrize("role", ["decoder", "encoder"])
@pytest.mark.parametrize("kind", ["labels", "plain", "zoo"])
def test_the_scan_knows_every_shape_that_onnxruntime_computes(trained, kind, role):
    path = (ZOO if kind == "zoo" else trained[kind]) / f"{role}.onnx"
    spec, data = read_spec(path)
    elements, known = scanning.infer(data, spec)
    shape = (spec.latent_dim,) if role == "decoder" else spec.image_shape
    inputs = {"noise" if role == "decoder" else "image": np.zeros((5, *shape), np.float32)}
    if spec.classes is not None:
        inputs["label"] = np.arange(5)
    actual = shapes_in_onnxruntime(data, inputs)
    assert {name: tuple(5 if d is None else d for d in known[name].shape) for name in actual} == actual
    for_one = sum(np.prod(known[name].shape[1:] if None in known[name].shape else known[name].shape) for name in actual)
    assert for_one <= elements <= 1.5 * for_one


def test_the_scan_agrees_with_onnxruntime_on_random_graphs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import fuzz_scan

    report = fuzz_scan.fuzz(200, seed=1)  # the script takes 20,000
    assert [text for kind, text in report if kind == "difference"] == []
    assert sum(count for (kind, _), count in report.items() if kind == "accepted") > 1000


VARINTS = [0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**66]


@pytest.mark.parametrize("value", VARINTS)
def test_integers_are_read_as_protobuf_reads_them(value):
    """Fields of 64 and of 32 bits, single, repeated and packed, of numbers that take up to ten bytes."""
    number = strangers.varint(value)
    attribute = b"\x18" + number + b"\x40" + number + b"\x42" + strangers.varint(2 * len(number)) + number * 2
    theirs = onnx.AttributeProto.FromString(attribute)
    ours = protobuf.parse_message(memoryview(attribute), scanning.ATTRIBUTE)
    assert (ours["i"], ours["ints"]) == (theirs.i, list(theirs.ints))
    tensor = b"\x08" + number + b"\x10" + number
    theirs = onnx.TensorProto.FromString(tensor)
    ours = protobuf.parse_message(memoryview(tensor), scanning.TENSOR)
    assert (ours["dims"], ours["data_type"]) == (list(theirs.dims), theirs.data_type)


@pytest.mark.parametrize("data", [b"\x18" + b"\x80" * 10 + b"\x00", b"\x98\x80\x80\x80\x80\x80\x00\x01", b"\x00\x01"])
def test_numbers_that_protobuf_refuses_are_refused(data):
    """One of eleven bytes, a key of seven, the field 0."""
    with pytest.raises(DecodeError):
        onnx.AttributeProto.FromString(data)
    with pytest.raises(ValueError):
        protobuf.parse_message(memoryview(data), scanning.ATTRIBUTE)


def test_outputs_of_another_shape_than_the_spec_says_are_an_error(trained, monkeypatch):
    """Even if the scan had missed it."""
    model = cvae.load(trained["plain"])
    run = model._decoder._session.run

    class Wrong:
        def run(self, names: Any, inputs: dict[str, np.ndarray]) -> Any:
            return [output[:, :, :4] for output in run(names, inputs)]

    monkeypatch.setattr(model._decoder, "_session", Wrong())
    with pytest.raises(CvaeError, match=r"'image' is float32 \(3, 1, 4, 8\), not float32 \(3, 1, 8, 8\)"):
        model.generate(3)


def test_real_files_stay_far_from_the_caps(monkeypatch):
    monkeypatch.setattr(scanning, "ELEMENTS_PER_PIXEL", scanning.ELEMENTS_PER_PIXEL // 4)
    monkeypatch.setattr(scanning, "ELEMENTS", scanning.ELEMENTS // 4)
    monkeypatch.setattr(scanning, "WORK", scanning.WORK // 4)
    monkeypatch.setattr(scanning, "MAX_NODES", scanning.MAX_NODES // 4)
    for role in ("decoder", "encoder"):
        spec, data = read_spec(ZOO / f"{role}.onnx")
        scanning.scan(data, spec, "")


def test_a_costly_model_is_run_on_fewer_images_at_once(trained, monkeypatch):
    expected = cvae.load(trained["labels"]).generate(9, label=3, seed=0)
    spec, data = read_spec(trained["labels"] / "decoder.onnx")
    monkeypatch.setattr(session, "MAX_ELEMENTS", 2 * scanning.scan(data, spec, ""))
    model = cvae.load(trained["labels"])
    sizes, run = [], model._decoder._session.run

    class Counted:
        def run(self, names: Any, inputs: dict[str, np.ndarray]) -> Any:
            sizes.append(len(inputs["noise"]))
            return run(names, inputs)

    model._decoder._session = Counted()
    assert np.array_equal(model.generate(9, label=3, seed=0), expected)
    assert sizes == [2, 2, 2, 2, 1]


# -- a suite of hostile files ------------------------------------------------------------------------------------------

Edit = Callable[[onnx.ModelProto], bytes | None]
EDITS: dict[str, Edit] = {}


def hostile(edit: Edit) -> Edit:
    EDITS[edit.__name__] = edit
    return edit


def after(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: Any) -> None:
    """Append nodes: the image is called "before" now, and the last of them makes the new one."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == "image" else name for name in node.output]
    model.graph.initializer.extend(constant(name, value) for name, value in constants.items())
    model.graph.node.extend(nodes)


def constant(name: str, value: Any) -> TensorProto:
    array = np.asarray(value)
    return numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)


def node(op: str, inputs: str, outputs: str = "image", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def respec(model: onnx.ModelProto, **changes: Any) -> None:
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), **changes})


def weight(model: onnx.ModelProto) -> TensorProto:
    return max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))


# Demands. The image of the file is (B, 1, 8, 8), and what is made here is cut down to that again.

SMALL = {"zero": [0, 0], "eight": [8, 8], "axes": [2, 3], "ones": [1, 1]}
CUT = node("Slice", "big zero eight axes ones")


@hostile
def tile(model):
    after(model, node("Tile", "before times", "big"), CUT, times=[1, 1, 5000, 5000], **SMALL)


@hostile
def expand(model):
    shape = node("Shape", "before", "batch", start=0, end=1)
    to = node("Concat", "batch rest", "shape", axis=0)
    cut = node("ReduceSum", "big two", "image", keepdims=1)
    after(model, shape, to, node("Expand", "before shape", "big"), cut, rest=[2**26, 8, 8], two=[1])


@hostile
def expand_of_a_constant(model):
    small = node("ReduceSum", "big all", "sum", keepdims=0)
    after(model, node("Expand", "one wide", "big"), small, node("Add", "before sum"), one=1.0, wide=[2**31], all=[0])


@hostile
def expand_whose_size_overflows(model):
    small = node("ReduceSum", "big all", "sum", keepdims=0)
    wide = [2**32, 2**32, 2**32]
    after(model, node("Expand", "one wide", "big"), small, node("Add", "before sum"), one=1.0, wide=wide, all=[0, 1, 2])


@hostile
def constant_of_shape(model):
    small = node("ReduceSum", "big all", "sum", keepdims=0)
    after(model, node("ConstantOfShape", "wide", "big"), small, node("Add", "before sum"), wide=[2**30], all=[0])


@hostile
def resize(model):
    shape = node("Shape", "before", "start", start=0, end=2)
    to = node("Concat", "start rest", "shape", axis=0)
    big = node("Resize", "before - - shape", "big", mode="nearest")
    after(model, shape, to, big, CUT, rest=[40_000, 40_000], **SMALL)


@hostile
def resize_by_scales(model):
    after(model, node("Resize", "before - scales", "big", mode="nearest"), CUT, scales=[1.0, 1.0, 5e3, 5e3], **SMALL)


@hostile
def pad(model):
    after(model, node("Pad", "before pads", "big"), CUT, pads=[0, 0, 0, 0, 0, 0, 30_000, 30_000], **SMALL)


@hostile
def pad_that_cuts(model):
    after(model, node("Pad", "before pads", "image"), pads=[0, 0, -1, 0, 0, 0, 1, 0])


@hostile
def pad_by_the_image(model):
    after(model, node("Cast", "before", "pads", to=7), node("Pad", "before pads", "big"), CUT, **SMALL)


@hostile
def transposed_convolution(model):
    big = node("ConvTranspose", "before kernel", "big", strides=[4000, 4000])
    after(model, big, CUT, kernel=[[[[1.0]]]], **SMALL)


@hostile
def padded_convolution(model):
    after(model, node("Conv", "before kernel", "big", pads=[4000] * 4), CUT, kernel=[[[[1.0]]]], **SMALL)


@hostile
def doubling(model):
    names = ["before", *(f"d{i}" for i in range(30))]
    doublings = [node("Concat", f"{a} {a}", b, axis=1) for a, b in itertools.pairwise(names)]
    after(model, *doublings, node("Slice", "d29 start end axis step"), start=[0], end=[1], axis=[1], step=[1])


@hostile
def outer_products(model):
    flat, long = node("Reshape", "before flat", "a0"), []
    for i in range(12):
        long += [node("MatMul", f"a{i} row", f"b{i}"), node("Reshape", f"b{i} column", f"a{i + 1}")]
    cut = [node("Slice", "a12 start end axis step", "cut"), node("Reshape", "cut shape")]
    constants = {"row": [[1.0, 1.0, 1.0, 1.0]], "column": [-1, 1], "flat": [-1, 64, 1], "shape": [-1, 1, 8, 8]}
    after(model, flat, *long, *cut, start=[0], end=[64], axis=[1], step=[1], **constants)


@hostile
def endless_time(model):
    """Each product is small in memory; all of them would take minutes."""
    start = [node("Reshape", "before column", "c"), node("MatMul", "c wide", "m0")]
    long = [node("MatMul", f"m{i} square", f"m{i + 1}") for i in range(4000)]
    end = [node("Slice", "m4000 start end axis step", "cut"), node("Reshape", "cut shape")]
    square, wide = np.eye(512, dtype=np.float32), np.ones((1, 512), np.float32)
    shapes = {"column": [-1, 64, 1], "shape": [-1, 1, 8, 8]}
    after(model, *start, *long, *end, square=square, wide=wide, start=[0], end=[1], axis=[2], step=[1], **shapes)


@hostile
def many_nodes(model):
    names = ["before", *(f"d{i}" for i in range(10_000)), "image"]
    after(model, *(node("Neg", a, b) for a, b in itertools.pairwise(names)))


@hostile
def many_empty_nodes(model):
    data = model.graph.SerializeToString() + b"\x0a\x00" * 1_000_000
    model.ClearField("graph")
    return model.SerializeToString() + b"\x3a" + strangers.varint(len(data)) + data


@hostile
def many_edges(model):
    rows = [node("Concat", " ".join(["noise"] * 250), f"row{i}", axis=1) for i in range(2000)]
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*rows, *own])


@hostile
def a_shape_of_shapes_of_shapes(model):
    """Three rows of integers, each hundreds of times as long as the one before: 60 million in the last."""
    rows = [node("Concat", " ".join([a] * n), b, axis=0) for a, n, b in zip("pqr", (250, 250, 60), "qrs", strict=True)]
    after(model, *rows, node("Reshape", "before s"), p=list(range(16)))


@hostile
def many_attributes(model):
    data = b"\x2a\x00" * 1_000_000
    data = b"\x0a" + strangers.varint(len(data)) + data + model.graph.SerializeToString()
    model.ClearField("graph")
    return model.SerializeToString() + b"\x3a" + strangers.varint(len(data)) + data


@hostile
def many_numbers(model):
    model.graph.node[-1].attribute.append(helper.make_attribute("pads", [1] * 1_000_000))


@hostile
def the_batch_among_the_images(model):
    after(
        model, node("Transpose", "before", "turned", perm=[2, 1, 0, 3]), node("Transpose", "turned", perm=[2, 1, 0, 3])
    )


@hostile
def the_batch_folded_into_channels(model):
    after(model, node("Reshape", "before one", "f"), node("Reshape", "f back"), one=[1, -1, 8, 8], back=[-1, 1, 8, 8])


@hostile
def negative_block(model):
    after(model, node("DepthToSpace", "before", blocksize=-1))


@hostile
def divided_by_nothing(model):
    after(model, node("DepthToSpace", "before", blocksize=0))


@hostile
def no_groups(model):
    after(model, node("Conv", "before kernel", group=0), kernel=[[[[1.0]]]])


@hostile
def no_stride(model):
    after(model, node("Conv", "before kernel", strides=[0, 0]), kernel=[[[[1.0]]]])


@hostile
def index_out_of_bounds(model):
    after(model, node("Gather", "before far", axis=1), far=[1_000_000])


@hostile
def index_before_bounds(model):
    after(model, node("Gather", "before far", axis=1), far=[-(2**63)])


@hostile
def split_into_more_than_there_is(model):
    after(model, node("Split", "before sizes", "image rest", axis=2), sizes=[8, 2**40])


# Attributes: each value that the scan does not expect may mean another shape to onnxruntime.


@hostile
def resize_that_keeps_the_aspect_ratio(model):
    pair = node("Shape", "before", "pair", start=0, end=2)
    to = node("Concat", "pair wide", "target", axis=0)
    big = node("Resize", "before - - target", "big", mode="nearest", keep_aspect_ratio_policy="not_smaller")
    after(model, pair, to, big, CUT, wide=[8, 384], **SMALL)


@hostile
def sum_that_keeps_its_axes_by_a_two(model):
    """onnxruntime takes only 1 for true, so that a column becomes a row, and their sum a square."""
    reduced = node("ReduceSum", "column second", "row", keepdims=2)
    total = [node("Add", "column row", "square"), node("ReduceSum", "square both", "sum", keepdims=0)]
    ones = np.ones((16384, 1), np.float32)
    after(model, reduced, *total, node("Add", "before sum"), column=ones, second=[1], both=[0, 1])


@hostile
def sum_that_keeps_its_axes_by_66_bits(model):
    """protobuf keeps 64 of them, which are 0."""
    sum_that_keeps_its_axes_by_a_two(model)
    attribute = next(node for node in model.graph.node if node.op_type == "ReduceSum").attribute[0]
    attribute.i = -1  # takes the ten bytes that the longer number takes too
    data, minus_one = model.SerializeToString(), b"\x18" + b"\xff" * 9 + b"\x01"
    assert data.count(minus_one) == 1
    return data.replace(minus_one, b"\x18" + b"\x80" * 9 + b"\x04")


for _op, _inputs, _wrong in (
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

    def _edit_attribute(model: onnx.ModelProto, op: str = _op, inputs: str = _inputs, wrong: Any = _wrong) -> None:
        mode = {"mode": "nearest"} if op == "Resize" else {}
        shape = {} if op != "Resize" else {"shape": [1, 1, 8, 8]}
        after(model, node(op, inputs, **{**mode, **wrong}), **shape)

    EDITS[f"{_op}_with_{'_'.join(map(str, _wrong)) or 'nothing'}_{len(EDITS)}"] = _edit_attribute


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
        after(model, node(op, inputs))

    EDITS[f"{_op}_with_an_empty_input"] = _edit_input


@hostile
def many_outputs(model):
    splits = [
        node("Split", "before", " ".join(f"s{i}x{j}" for j in range(248)), axis=2, num_outputs=248) for i in range(4000)
    ]
    after(model, node("Concat", " ".join(["before"] * 31), "long", axis=2), *splits, node("Neg", "before"))
    for split in splits:
        split.input[0] = "long"


# What no export has.


def outside(name: str, *where: str) -> None:
    def edit(model: onnx.ModelProto) -> None:
        tensor = weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in zip(("location", "offset", "length"), where, strict=False):
            tensor.external_data.add(key=key, value=value)

    EDITS[name] = edit


outside("external_in_the_folder_above", "../../etc/passwd")
outside("external_by_absolute_path", "/etc/passwd")
outside("external_by_symlink", ".link", "0", "400")
outside("external_device", "/dev/zero", "0", str(2**40))


@hostile
def external_without_location(model):
    weight(model).data_location = TensorProto.EXTERNAL


@hostile
def function(model):
    body = helper.make_function("", "Sigmoid", ["x"], ["y"], [node("Tile", "x x", "y")], model.opset_import)
    model.functions.append(body)


@hostile
def subgraph(model):
    graph = helper.make_graph([node("Neg", "before", "x")], "body", [], [onnx.ValueInfoProto(name="x")])
    true = numpy_helper.from_array(np.array(True), "true")
    model.graph.initializer.append(true)
    after(model, node("If", "true", then_branch=graph, else_branch=graph))


@hostile
def subgraph_of_a_known_operator(model):
    model.graph.node[-1].attribute.append(helper.make_attribute("body", model.graph))


@hostile
def loop(model):
    trips = constant("trips", 2**40)
    body = helper.make_graph([node("Neg", "x", "y")], "body", [], [])
    model.graph.initializer.append(trips)
    after(model, node("Loop", "trips - before", body=body))


@hostile
def deep_subgraphs(model):
    """Deeper than a parser's limit of recursion."""
    data = b""
    for _ in range(2000):
        data = b"".join([b"\x32", strangers.varint(len(data)), data])  # attribute g
        data = b"".join([b"\x2a", strangers.varint(len(data)), data])  # node attribute
        data = b"".join([b"\x0a", strangers.varint(len(data)), data])  # graph node
    return model.SerializeToString() + b"\x3a" + strangers.varint(len(data)) + data


@hostile
def foreign_domain(model):
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)


@hostile
def foreign_domain_not_imported(model):
    model.graph.node[0].domain = "com.microsoft"


@hostile
def training_domain(model):
    model.opset_import.add(domain="ai.onnx.training", version=1)


@hostile
def newer_operators(model):
    model.opset_import[0].version = 2**40


@hostile
def no_operators(model):
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
        after(model, node("Neg", "before"))
        model.graph.node[-1].op_type = op

    EDITS[f"operator_{_op[:20]}"] = _edit


@hostile
def training_info(model):
    model.training_info.add()


@hostile
def sparse_weight(model):
    model.graph.sparse_initializer.add().dims.append(2**40)


@hostile
def quantization(model):
    model.graph.quantization_annotation.add()


@hostile
def claimed_shapes(model):
    model.graph.value_info.append(helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]))


@hostile
def metadata_of_a_node(model):
    model.graph.node[0].metadata_props.add(key="x", value="y")


@hostile
def more_metadata(model):
    model.metadata_props.add(key="ort_config", value='{"session_options": {"intra_op_num_threads": 100000}}')


@hostile
def two_specs(model):
    model.metadata_props.append(copy.deepcopy(model.metadata_props[0]))


@hostile
def no_spec(model):
    del model.metadata_props[:]


@hostile
def huge_metadata(model):
    model.metadata_props.add(key="x", value="y" * (MAX_TEXT + 1))


@hostile
def onnxruntimes_own_format(model):
    """The four bytes that make onnxruntime read another format; the rest is a true model."""
    model.ClearField("ir_version")
    producer = b"\x12" + strangers.varint(100) + b"xxORTM" + b"x" * 94
    model.producer_name = ""
    return producer + b"\x08\x0a" + model.SerializeToString().replace(b"\x12\x00", b"", 1)


@hostile
def two_graphs(model):
    """A reader that takes the last, and one that joins them, see different models."""
    other = onnx.ModelProto(graph=onnx.GraphProto(node=[node("Tile", "image image", "x")]))
    return model.SerializeToString() + other.SerializeToString()


@hostile
def two_versions(model):
    return model.SerializeToString() + b"\x08\x0a"


@hostile
def unknown_field(model):
    return model.SerializeToString() + b"\xf8\x3f\x01"


@hostile
def other_wire_type(model):
    return model.SerializeToString() + b"\x45\x01\x02\x03\x04"  # opset_import as four bytes


@hostile
def group(model):
    return model.SerializeToString() + b"\x0b" * 10_000


@hostile
def endless_number(model):
    return model.SerializeToString() + b"\x08" + b"\x80" * 1_000_000


@hostile
def key_beyond_32_bits(model):
    return model.SerializeToString() + b"\xba\x80\x80\x80\x80\x80\x01\x00"


@hostile
def a_million_fields(model):
    return b"\x30\x01" * 3_000_000


# Names.


@hostile
def a_name_twice(model):
    after(model, node("Neg", "before"), node("Neg", "before"))


@hostile
def an_input_made_again(model):
    after(model, node("Neg", "before", "noise"), node("Neg", "before"))


@hostile
def a_circle(model):
    after(model, node("Add", "before b", "a"), node("Neg", "a", "b"), node("Neg", "b"))


@hostile
def a_name_unknown(model):
    after(model, node("Add", "before nowhere"))


@hostile
def a_name_that_is_no_text(model):
    return model.SerializeToString().replace(b"label", b"\xff\xfe\xfd\xfc\xfb")


@hostile
def a_huge_name(model):
    after(model, node("Neg", "before", "x" * 1_000_000), node("Neg", "x" * 1_000_000))


@hostile
def a_huge_name_of_an_input(model):
    after(model, node("Neg", "x" * 100_000_000))


@hostile
def no_graph(model):
    model.ClearField("graph")


@hostile
def no_nodes(model):
    del model.graph.node[:]


# Weights.


def sized(name: str, *dims: int) -> None:
    def edit(model: onnx.ModelProto) -> None:
        weight(model).dims[:] = dims

    EDITS[name] = edit


sized("negative_dimension", -1, -8)
sized("zero_by_huge", 2**62, 0)
sized("huge_dimension", 2**62)
sized("product_that_overflows", 2**32, 2**32, 1)
sized("no_dimensions")
sized("many_dimensions", *[1] * 500)


@hostile
def data_longer_than_its_shape(model):
    weight(model).raw_data += b"\0" * 4


@hostile
def data_shorter_than_its_shape(model):
    weight(model).raw_data = weight(model).raw_data[4:]


@hostile
def data_in_another_field(model):
    tensor = weight(model)
    values = numpy_helper.to_array(tensor).ravel().tolist()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values)


for _type in (0, TensorProto.DOUBLE, TensorProto.STRING, TensorProto.INT8, TensorProto.INT64, 99, 2**31 - 1):

    def _edit_type(model: onnx.ModelProto, type: int = _type) -> None:
        weight(model).data_type = type

    EDITS[f"weights_of_type_{_type}"] = _edit_type

for _value in ("nan", "inf", "-inf"):

    def _edit_value(model: onnx.ModelProto, value: str = _value) -> None:
        tensor = weight(model)
        tensor.raw_data = struct.pack("<f", float(value)) * (len(tensor.raw_data) // 4)

    EDITS[f"weights_{_value}"] = _edit_value


@hostile
def weights_of_half_precision_among_others(model):
    tensor = weight(model)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


# Inputs and outputs.


def typed(name: str, part: str, index: int, type: int, shape: list[Any]) -> None:
    def edit(model: onnx.ModelProto) -> None:
        value = getattr(model.graph, part)[index]
        value.CopyFrom(helper.make_tensor_value_info(value.name, type, shape))

    EDITS[name] = edit


typed("noise_of_doubles", "input", 0, TensorProto.DOUBLE, ["batch", 8])
typed("noise_of_text", "input", 0, TensorProto.STRING, ["batch", 8])
typed("noise_of_rank_3", "input", 0, TensorProto.FLOAT, ["batch", 8, 1])
typed("noise_without_batch", "input", 0, TensorProto.FLOAT, [1, 8])
typed("noise_of_free_size", "input", 0, TensorProto.FLOAT, ["batch", "size"])
typed("labels_of_int32", "input", 1, TensorProto.INT32, ["batch"])
typed("labels_of_rank_2", "input", 1, TensorProto.INT64, ["batch", 1])
typed("images_of_doubles", "output", 0, TensorProto.DOUBLE, ["batch", 1, 8, 8])
typed("images_of_bytes", "output", 0, TensorProto.UINT8, ["batch", 1, 8, 8])
typed("images_of_rank_3", "output", 0, TensorProto.FLOAT, ["batch", 8, 8])
typed("images_that_are_claimed_smaller", "output", 0, TensorProto.FLOAT, ["batch", 1, 4, 4])


@hostile
def images_that_are_larger(model):
    after(model, node("Concat", "before before", axis=2))


@hostile
def images_without_a_batch(model):
    after(model, node("ReduceSum", "before batch", keepdims=1), batch=[0])


@hostile
def one_more_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 8]))


@hostile
def one_more_output(model):
    model.graph.output.append(helper.make_tensor_value_info("before", TensorProto.FLOAT, ["batch", 1, 8, 8]))
    after(model, node("Neg", "before"))


@hostile
def no_inputs(model):
    del model.graph.input[:]


@hostile
def a_sequence(model):
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(model.graph.input[0].type))


# The spec.

LIES: dict[str, dict[str, Any]] = {
    "a_larger_latent": {"latent_dim": 9},
    "a_huge_latent": {"latent_dim": 2**40},
    "a_latent_of_text": {"latent_dim": "8"},
    "a_latent_too_long_to_say": {"latent_dim": 10**4000},
    "a_larger_image": {"image_shape": [1, 8, 9]},
    "more_channels": {"image_shape": [3, 8, 8]},
    "a_huge_image": {"image_shape": [1, 4096, 4096]},
    "an_impossible_image": {"image_shape": [2**62, 2**62, 2**62]},
    "an_image_of_no_size": {"image_shape": [0, 8, 8]},
    "a_negative_image": {"image_shape": [1, -8, -8]},
    "an_image_of_two_sides": {"image_shape": [8, 8]},
    "no_classes": {"classes": None},
    "an_empty_list_of_classes": {"classes": []},
    "fewer_classes": {"classes": list("012345678")},
    "more_classes": {"classes": list("0123456789a")},
    "a_million_classes": {"classes": ["x"] * 300_000},
    "classes_that_are_numbers": {"classes": list(range(10))},
    "a_class_that_clears_the_screen": {"classes": [*"012345678", "\x1b[2J"]},
    "a_class_of_two_lines": {"classes": [*"012345678", "9\ncvae: error: all is well"]},
    "a_huge_class": {"classes": [*"012345678", "9" * 1_000_000]},
    "a_huge_name_of_itself": {"name": "x" * 1_000_000},
    "an_unknown_key": {"trust": True},
    "a_huge_unknown_key": {"k" * 1_000_000: True},
    "another_role": {"role": "encoder"},
    "no_role": {"role": "x"},
    "another_range": {"value_range": [0, 255]},
    "a_negative_sigma": {"sigma": -1.0},
    "another_format": {"format": "9" * 100_000},
    "agreement_that_is_deep": {"agreement": json.loads("[" * 100 + "]" * 100)},
    "agreement_that_is_no_object": {"agreement": 3},
    "agreement_that_clears_the_screen": {"agreement": {"max_abs_difference": "\x1b[2J"}},
    "half_a_character": {"name": "\ud800"},
    "a_name_written_backwards": {"name": "\u202egnp.exe"},
}
for _name, _changes in LIES.items():

    def _lie(model: onnx.ModelProto, changes: dict[str, Any] = _changes) -> None:
        respec(model, **changes)

    EDITS[f"spec_{_name}"] = _lie

TEXTS = {
    "not_json": "{",
    "no_object": "[]",
    "empty": "",
    "deep": '{"format": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep_objects": '{"x":' * 50_000 + "1" + "}" * 50_000,
    "many_lists": "[" + ",".join(["[]"] * 600_000) + "]",
    "many_objects": "[" + ",".join(["{}"] * 600_000) + "]",
    "not_finite": '{"format": 1, "sigma": NaN}',
    "beyond_finite": '{"format": 1, "sigma": 1e999}',
    "a_number_of_a_million_digits": '{"format": ' + "9" * 1_000_000 + "}",
}
for _name, _text in TEXTS.items():

    def _retext(model: onnx.ModelProto, text: str = _text) -> None:
        model.metadata_props[0].value = text

    EDITS[f"spec_{_name}"] = _retext


@hostile
def spec_with_a_key_twice(model):
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"latent_dim": 8', '"latent_dim": 8, "latent_dim": 8')
    assert entry.value.count("latent_dim") == 2


# -- the suite in a process under limits -------------------------------------------------------------------------------


def png(path: Path, width: int, height: int, colour: int = 0) -> None:
    """A picture, all black, of a few kilobytes whatever its size.

    `colour` is that of the format: 0 has one bit of grey a pixel, 2 is RGB, 3 has a palette, here a transparent one.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + {0: width // 8, 2: 3 * width, 3: width}[colour])
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 if colour else 1, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(3 * 256)) + chunk(b"tRNS", b"\x80") if colour == 3 else b""
    parts = chunk(b"IHDR", header) + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def write_pictures(folder: Path) -> None:
    Image.new("L", (8, 8)).save(folder / "_honest.png")
    honest = (folder / "_honest.png").read_bytes()
    side = int(MAX_PIXELS**0.5) // 8 * 8 + 8
    png(folder / "bomb.png", side, side)
    png(folder / "bomb_of_one_row.png", 2**29, 1)
    png(folder / "one_row_of_transparency.png", 2**26, 1, colour=3)
    png(folder / "bomb_in_colour.png", 6500, 6500, colour=2)
    png(folder / "bomb_of_transparency.png", side, side, colour=3)
    Image.new("L", (9000, 9000)).save(folder / "bomb.jpeg", quality=1)
    Image.new("L", (5400, 5400)).save(folder / "bomb_in_passes.jpeg", quality=1, progressive=True)
    Image.new("RGB", (3300, 3300)).save(folder / "bomb.webp", lossless=True, method=0)
    Image.new("RGB", (1800, 1800)).save(folder / "bomb.avif", speed=10)
    Image.new("RGB", (1200, 1200)).save(folder / "bomb.jp2")
    (folder / "bomb.ppm").write_bytes(b"P6 30000 30000 255 ")
    (folder / "bomb.tga").write_bytes(struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 30000, 30000, 24, 0))
    (folder / "claims_more_than_it_has.png").write_bytes(
        honest.replace(struct.pack(">II", 8, 8), b"\x7f\xff\xff\xff" * 2)
    )
    (folder / "cut_off.png").write_bytes(honest[:40])
    for kind in ("gif", "bmp", "jpeg", "webp", "tiff", "avif", "ppm", "jp2", "tga"):
        Image.new("L", (64, 64), 128).save(folder / f"_honest.{kind}")
        data = (folder / f"_honest.{kind}").read_bytes()
        (folder / f"cut_off.{kind}").write_bytes(data[: len(data) // 3])
    for kind in ("eps", "pcx", "ico", "sgi", "msp"):  # formats that Pillow knows, and would read
        Image.new("1" if kind == "msp" else "RGB", (64, 64)).save(folder / f"other_format.{kind}")
        shutil.copy(folder / f"other_format.{kind}", folder / f"other_format_{kind}_as.png")
    (folder / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")


@pytest.fixture(scope="module")
def corpus(trained, tmp_path_factory) -> Path:
    """A folder of exported files that were spoilt, and an honest one."""
    folder, honest = tmp_path_factory.mktemp("strangers"), trained["labels"] / "decoder.onnx"
    shutil.copy(honest, folder / "_honest.onnx")
    (folder / ".link").symlink_to("/etc/passwd")
    for name, edit in EDITS.items():
        model = onnx.load(honest)
        data = edit(model)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString() if data is None else data)
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("no model")
    (folder / "folder.onnx").mkdir()
    os.mkfifo(folder / "pipe.onnx")
    (folder / "device.onnx").symlink_to("/dev/zero")
    with (folder / "larger_than_the_cap.onnx").open("wb") as file:
        file.truncate(session.MAX_BYTES + 1)
    return folder


def write_others(folder: Path, run: Path) -> None:
    shutil.copy(run / "config.json", folder / "_honest.json")
    config = json.loads((run / "config.json").read_text())

    def variant(name: str, **changes: Any) -> None:
        (folder / f"{name}.json").write_text(json.dumps({**config, "model": {**config["model"], **changes}}))

    variant("huge_image", image_shape=[1, 2**40, 2**40])
    variant("huge_latent", latent_dim=2**60)
    variant("unknown_key", trust=True)
    variant("huge_string", latent_dim="x" * 1_000_000)
    variant(
        "an_int_that_is_no_float", likelihood={"name": "gaussian", "options": {"sigma": [10**400]}}, latent_dim=None
    )
    (folder / "deep.json").write_text("[" * 500_000 + "]" * 500_000)
    (folder / "twice.json").write_text((run / "config.json").read_text().replace("{", '{"format": 1, ', 1))
    (folder / "long.json").write_text('{"x": "' + "x" * MAX_TEXT + '"}')
    (folder / "empty.json").write_text("")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")

    (folder / "_honest.toml").write_text("epochs = 1\n")
    recipes = {
        "deep": "x = " + "[" * 4000 + "]" * 4000,
        "deep_tables": "x" + ".x" * 4000 + " = 1",
        "long": "x = '" + "x" * 1_000_000 + "'",
        "twice": "epochs = 1\nepochs = 2",
        "unknown": "trust = true",
        "no_text": "\udcff",
    }
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_bytes(text.encode(errors="surrogateescape"))

    honest = folder / "_honest.detector"
    honest.mkdir()
    for name in ("decoder.onnx", "encoder.onnx"):
        shutil.copy(run / name, honest / name)
    from cvae.detection.detector import CALIBRATION, CODES, FACTS, Detector
    from cvae.evaluation.exported_scorer import ExportedScorer

    normal = np.random.default_rng(0).random((30, 1, 8, 8), dtype=np.float32)
    Detector.fit(ExportedScorer(cvae.load(run)), normal, data="noise", quantile=0.9).save(honest)
    facts, codes = json.loads((honest / FACTS).read_text()), np.load(honest / CODES)

    def detector(name: str, facts: str, codes: bytes | np.ndarray, file: str = CODES) -> None:
        place = Path(shutil.copytree(honest, folder / f"{name}.detector"))
        (place / FACTS).write_text(facts)
        if isinstance(codes, bytes):
            (place / file).write_bytes(codes)
        else:
            np.save(place / file, codes)

    def header(shape: str, type: str = "<f4") -> bytes:
        text = f"{{'descr': '{type}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()

    text = json.dumps(facts)
    detector("pickle", text, np.array([{"a": 1}], dtype=object))
    detector("codes_that_claim_a_terabyte", text, header("(30, 8000000000)"))
    detector("codes_zero_by_huge", text, header(f"({2**62}, 0)"))
    detector("codes_that_overflow", text, header(f"({2**62}, {2**62})"))
    detector("codes_of_a_deep_header", text, header("(" * 4000 + ")" * 4000))
    detector("codes_of_objects", text, header("(30, 8)", "|O") + bytes(240))
    detector("codes_of_text", text, codes.astype(str))
    detector("codes_not_finite", text, np.full_like(codes, np.nan))
    detector("codes_cut_off", text, (honest / CODES).read_bytes()[:-1])
    detector("codes_empty", text, b"")
    detector("scores_that_claim_a_terabyte", text, header("(30, 8000000000)", "<f8"), CALIBRATION)
    detector("scores_of_objects", text, header("(30, 3)", "|O") + bytes(720), CALIBRATION)
    detector("scores_not_finite", text, np.full((30, 3), np.nan), CALIBRATION)
    detector("facts_not_finite", text.replace("0.9", "NaN"), codes)
    detector("facts_twice", text.replace("{", '{"format": 1, ', 1), codes)
    detector("facts_deep", "[" * 100_000, codes)
    detector("facts_of_other_images", text.replace('"images": 30', f'"images": {2**60}'), codes)


def verdicts(folder: Path, *flags: str) -> dict[str, dict[str, Any]]:
    """What a process under limits says to each file."""
    command = [sys.executable, "-P", str(SCRIPT), "load", str(folder), *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.returncode} in {rows[-1:]}: {done.stderr[-2000:]}"
    assert done.stderr == "", "something else than the one line was said"
    return {row["name"]: row for row in rows if "name" in row}


def check_refused(found: dict[str, dict[str, Any]], names: list[str]) -> None:
    wrong = []
    for name in names:
        row = found.pop(name)
        refused = row["kind"] == "refused" and "\n" not in row["said"] and len(row["said"]) < 600
        if not (refused and name in row["said"] and row["seconds"] < 1 and row["grown"] < strangers.MEMORY):
            wrong.append(row)
    assert not wrong, wrong
    assert found and all(row["kind"] == "accepted" for row in found.values()), found


def test_hostile_files_are_refused(trained, corpus):
    """Exported files, pictures, configs, recipes and detectors, in one process that has 200 MB for all of them."""
    write_pictures(corpus)
    write_others(corpus, trained["labels"])
    names = sorted(path.name for path in corpus.iterdir() if not path.name.startswith((".", "_honest")))
    assert len(names) > 200
    found = verdicts(corpus)
    print(f"{len(names)} files; the longest {max(row['seconds'] for row in found.values()):.2f} s")
    check_refused(found, names)


def test_pictures_below_the_cap_are_read_in_as_little_memory(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "_honest.png")
    png(tmp_path / "transparent.png", 8192, 8192, colour=3)
    png(tmp_path / "wide.png", 2**16, 2**10, colour=3)
    png(tmp_path / "colour.png", 6400, 6400, colour=2)
    Image.new("L", (8000, 8000)).save(tmp_path / "photo.jpeg", quality=1)
    Image.new("RGB", (5200, 5200)).save(tmp_path / "passes.jpeg", quality=1, progressive=True, subsampling=0)
    Image.new("RGB", (3200, 3200)).save(tmp_path / "photo.webp", lossless=True, method=0)
    Image.new("RGB", (1790, 1790)).save(tmp_path / "photo.avif", speed=10)
    Image.new("RGB", (1140, 1140)).save(tmp_path / "photo.jp2")
    Image.fromarray(np.zeros((8000, 8000), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((6400, 6400), np.int32)).save(tmp_path / "deep.tiff", compression="tiff_adobe_deflate")
    Image.new("RGB", (6400, 6400)).save(tmp_path / "photo.ppm")
    Image.new("RGB", (6400, 6400)).save(tmp_path / "photo.tga", compression="tga_rle")
    for name in sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("_")):
        (tmp_path / "one").mkdir()
        for each in ("_honest.png", name):
            (tmp_path / "one" / each).symlink_to(tmp_path / each)
        found = verdicts(tmp_path / "one")
        shutil.rmtree(tmp_path / "one")
        print(found[name])
        assert found[name]["kind"] == "accepted" and found[name]["grown"] < strangers.MEMORY, found


def test_a_large_picture_is_the_same_picture(tmp_path):
    """As Pillow scales it in one go, to a level of grey; with transparency, turned by its EXIF data."""
    ramp = np.linspace(0, 255, 3000)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[::-1], ramp[None, :], ramp[:, None] / 2 + 127), -1)
    whole = Image.fromarray(np.rint(np.ascontiguousarray(pixels[:, :2500])).astype(np.uint8), "RGBA")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole.save(tmp_path / "large.png", compress_level=1, exif=exif)
    white = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    expected = np.asarray(cover(white.transpose(Image.Transpose.ROTATE_270), (40, 30)), np.float32) / 255
    found = read(tmp_path / "large.png", (3, 30, 40))
    assert np.abs(found - expected.transpose(2, 0, 1)).max() < 1.5 / 255  # (H, W, 3) -> (3, H, W)
    with pytest.raises(UsageError, match="has 3000x2500 pixels in colour"):
        read(tmp_path / "large.png", (1, 30, 40), exact=True)


def test_the_scan_refuses_before_onnxruntime_does(corpus):
    """All but weights that are not finite, which show in the images."""
    passed = []
    for name in EDITS:
        with suppress(CvaeError):
            spec, data = read_spec(corpus / f"{name}.onnx")
            scanning.scan(data, spec, "x")
            passed.append(name)
    assert passed == ["weights_nan", "weights_inf", "weights_-inf"]


def test_each_demand_is_refused_for_what_it_asks(trained):
    """And not for a slip in its making: with a hundredth of it, the same graph draws the same image."""
    spec, data = read_spec(trained["plain"] / "decoder.onnx")
    honest = onnx.load_from_string(data)
    cases: dict[str, Any] = {
        "resize": ({"rest": [40_000, 40_000]}, {"rest": [16, 16]}),
        "pad": ({"pads": [0, 0, 0, 0, 0, 0, 30_000, 30_000]}, {"pads": [0, 0, 0, 0, 0, 0, 3, 3]}),
        "expand_of_a_constant": ({"wide": [2**31]}, {"wide": [4]}),
        "constant_of_shape": ({"wide": [2**30]}, {"wide": [4]}),
        "endless_time": (None, None),
        "doubling": (None, None),
    }
    for name, (_, less) in cases.items():
        model = copy.deepcopy(honest)
        EDITS[name](model)
        with pytest.raises(CvaeError, match="it asks too much for images"):
            scanning.scan(model.SerializeToString(), spec, "x")
        for initializer in model.graph.initializer:
            if less and initializer.name in less:
                initializer.CopyFrom(constant(initializer.name, less[initializer.name]))
        if less:
            scanning.scan(model.SerializeToString(), spec, "x")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("many_edges", "inputs"), ("a_shape_of_shapes_of_shapes", "not that of an export: what it is given")],
)
def test_what_takes_the_scan_itself_long_is_refused_early(corpus, name, reason):
    spec, data = read_spec(corpus / f"{name}.onnx")
    tracemalloc.start()
    try:
        with pytest.raises(CvaeError, match=reason):
            scanning.scan(data, spec, "x")
        grown = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert grown < 2**20, grown


def test_a_file_cut_off_at_every_kilobyte_is_refused(tmp_path):
    data = (ZOO / "decoder.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data)
    for length in range(len(data) // 1024 * 1024, -1, -1024):
        os.truncate(path, length)
        with pytest.raises(CvaeError, match=r"cut\.onnx"):
            read_spec(path)


# -- weights and runs for torch ----------------------------------------------------------------------------------------


def test_hostile_runs_are_refused(trained, tmp_path):
    """safetensors, and configs that ask for more than their weights."""
    folder = tmp_path / "runs"
    folder.mkdir()
    run = trained["labels"]
    data = (run / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    config = json.loads((run / "config.json").read_text())
    names = [name for name in header if name != "__metadata__"]
    first, second = sorted(names, key=lambda name: header[name]["data_offsets"])[:2]

    def write(name: str, weights: bytes = data, **model: Any) -> None:
        place = folder / f"{name}.run"
        place.mkdir()
        (place / "model.safetensors").write_bytes(weights)
        (place / "config.json").write_text(json.dumps({**config, "model": {**config["model"], **model}}))

    def packed(header: Any, values: bytes = values, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + values

    def changed(name: str, **changes: Any) -> dict[str, Any]:
        return {**header, name: {**header[name], **changes}}

    write("_honest")
    begin, end = header[second]["data_offsets"]
    write("overlap", packed(changed(second, data_offsets=header[first]["data_offsets"])))
    write("overlap_by_one", packed(changed(second, data_offsets=[begin - 4, end - 4])))
    write("hole", packed(changed(second, data_offsets=[begin + 4, end + 4])))
    write("hole_at_the_end", packed(header, values + bytes(400)))
    write("beyond_the_end", packed(changed(second, data_offsets=[2**62, 2**62 + end - begin])))
    write("negative_offsets", packed(changed(second, data_offsets=[-4, 4])))
    write("offsets_that_overflow", packed(changed(second, data_offsets=[2**64, 2**64])))
    write("zero_by_huge", packed(changed(second, shape=[2**62, 0])))
    write("huge_shape", packed(changed(second, shape=[2**40, 2**40])))
    write(
        "one_more_zero_by_huge", packed({**header, "x": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}})
    )
    write(
        "a_name_of_a_megabyte",
        packed({**header, "x" * 1_000_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    )
    write("one_less", packed({name: header[name] for name in names if name != second}))
    write("other_type", packed(changed(second, dtype="I32")))
    write("unknown_type", packed(changed(second, dtype="X")))
    write("no_type", packed({**header, second: {}}))
    write("no_object", packed([]))
    write("number_for_a_tensor", packed({**header, second: 3}))
    write("not_json", packed(b"{" * 1000))
    write("deep_header", packed(b"[" * 1_000_000))
    write(
        "name_twice", packed(json.dumps(header).replace("{", f'{{"{first}": {json.dumps(header[first])},', 1).encode())
    )
    write("giant_header", packed(b" " * (MAX_TEXT + 1)))
    write("header_beyond_the_file", packed(header, length=2**63))
    write("header_of_all_bits", packed(header, length=2**64 - 1))
    write("nan", packed(header, struct.pack("<f", float("nan")) + values[4:]))
    write("infinite", packed(header, values[:-4] + struct.pack("<f", float("-inf"))))
    write("empty", b"")
    write("short", b"\0\0\0")
    for cut in range(0, len(data), max(1024, len(data) // 20)):
        write(f"cut_off_at_{cut}", data[:cut])
    with_options = config["model"]["architecture"]
    write("config_of_a_terabyte", architecture={**with_options, "options": {"hidden": [10**6, 10**6]}})
    write("config_of_a_billion_layers", architecture={**with_options, "options": {"hidden": [1] * 300_000}})
    write("config_beyond_integers", architecture={**with_options, "options": {"hidden": [10**30]}})
    write("config_of_a_billion_couplings", prior={"name": "flow", "options": {"couplings": 10**9, "hidden": 1}})
    write("config_of_an_unknown_part", architecture={"name": "os:system", "options": {}})
    write("config_of_more_labels", classes=[str(i) for i in range(60_000)])
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("_honest"))
    check_refused(verdicts(folder), names)


# -- fuzz --------------------------------------------------------------------------------------------------------------


def fuzz(first: int, count: int, paths: list[Path], folder: Path) -> dict[str, int]:
    """How many mutations were refused and accepted. A crash, or time or memory beyond the limits, fails the test."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(SCRIPT), "fuzz", str(first), str(count), *map(str, paths)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"signal or exit {done.returncode} in {rows[-1:]}: {done.stderr[-2000:]}"
    ended = [row for row in rows if "kind" in row]
    assert len(ended) == count
    wrong = [row for row in ended if row["kind"] == "failed" or "alloc" in row["said"] or "\n" in row["said"]]
    assert not wrong, wrong[:5]
    kinds = [row["kind"] for row in ended]
    onnxruntimes = sum(row["said"].startswith("onnxruntime") for row in ended)
    return {"refused": kinds.count("refused"), "accepted": kinds.count("accepted"), "by onnxruntime": onnxruntimes}


def real_files(trained: dict[str, Path]) -> list[Path]:
    return [trained["labels"] / "decoder.onnx", trained["plain"] / "encoder.onnx", ZOO / "decoder.onnx"]


def test_mutations_of_real_files_are_refused_or_draw(trained, tmp_path):
    found = fuzz(0, 400, real_files(trained), tmp_path)
    print(found)
    assert found["refused"] > 200 and found["accepted"] > 10


@pytest.mark.slow
def test_ten_thousand_mutations(trained, tmp_path):
    total = dict.fromkeys(("refused", "accepted", "by onnxruntime"), 0)
    for first in range(1000, 11_000, 2000):
        for kind, count in fuzz(first, 2000, real_files(trained), tmp_path).items():
            total[kind] += count
    print(total)
    assert total["refused"] + total["accepted"] == 10_000


# -- what it rests on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '{"x": {"a": 1, "a": 2}}', "NaN", "[Infinity]", "-1e400", "[" * 17 + "]" * 17]
)
def test_json_that_two_readers_could_take_for_two_things_is_refused(text):
    assert json.loads(text) is not None
    with pytest.raises(ValueError, match=r"twice|finite|deeper"):
        parse_json(text)


@pytest.mark.parametrize("value", [None, 1, 1.5, "x", [], {}, [1, {"a": [None]}], json.loads("[" * 16 + "]" * 16)])
def test_other_json_is_what_it_was(value):
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(("text", "line"), [("a\nb\tc", "a b c"), ("\x1b[2J", "?[2J"), ("x" * 300, "x" * 197 + "...")])
def test_a_message_is_one_line_of_what_can_be_printed(text, line):
    assert one_line(text) == line
