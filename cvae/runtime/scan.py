"""What an ONNX file asks of a machine, found out before onnxruntime sees it; what no export of cvae asks is refused.

The ONNX checker is no sandbox: a file of a hundred bytes may pass it and demand gigabytes. Here the graph is walked
once, with the shape of every tensor derived from the inputs and the weights. Shapes that the file merely claims are
compared, never believed. The batch is an unknown number that stays the first axis of all that depends on it, so what
an image costs is known, and a batch costs as many times that.

Torch-free, and quick: it reads names, shapes and attributes, not weights.
"""

import math
import struct
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cvae.errors import CvaeError, one_line
from cvae.runtime.protobuf import BYTES, FIXED32, MAX_FIELDS, VARINT32, VARINT64, parse_message
from cvae.spec import KEY, Spec

MAX_NODES, MAX_WEIGHTS, MAX_EDGES, MAX_ALL_EDGES, MAX_RANK = 4096, 16384, 256, 16384, 8
MAX_NAME, MAX_WINDOW = 512, 4096
"""Nodes; weights and constants; fields of a node; inputs and outputs of all nodes; axes of a tensor; bytes of a name;
kernels, strides, dilations and padding of a convolution. The largest built-in export has 271 nodes."""

MAX_IMAGE = 2**22
"""Numbers in an image, C * H * W: 3 x 1182 x 1182."""

ELEMENTS, ELEMENTS_PER_PIXEL, MAX_ELEMENTS = 2**20, 2**13, 2**30
"""Numbers in all tensors that are computed for an image: so many, and so many more for each pixel, but never more than
the last. Built-in exports have at most 1,300 for each pixel."""

WORK, MAX_WORK = 2**28, 2**36
"""Multiplications for an image: so many, and one more for each weight at each pixel, but never more than the last. In
built-in exports the maps get smaller as the weights get more, and it is a tenth of this."""

Dimension = int | None
"""None is the size of the batch."""

FLOAT, INT64, BOOL, HALF = 1, 7, 9, 10
BYTES_EACH = {FLOAT: 4, INT64: 8, HALF: 2}
"""TensorProto.DataType of weights, and their size."""

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
}
VALUE = {1: ("name", BYTES, False), 2: ("type", BYTES, False), 3: ("doc_string", BYTES, False)}
TYPE = {1: ("tensor_type", BYTES, False), 6: ("denotation", BYTES, False)}
TENSOR_TYPE = {1: ("elem_type", VARINT32, False), 2: ("shape", BYTES, False)}
SHAPE = {1: ("dim", BYTES, True)}
DIMENSION = {1: ("dim_value", VARINT64, False), 2: ("dim_param", BYTES, False), 3: ("denotation", BYTES, False)}
"""The messages of onnx.proto, with the fields that an export has. Not among them are functions, training, sparse and
quantized weights, subgraphs (attributes g, graphs), data outside the file, and value_info."""

EMPTY = memoryview(b"")


class Tensor(NamedTuple):
    """What is known of a tensor: its element type, its shape and, of a short row of integers, the values."""

    type: int
    shape: tuple[Dimension, ...]
    values: tuple[Dimension, ...] | None = None


class NodeResult(NamedTuple):
    """What a node makes: its outputs, the multiplications beyond one for each number of them, and scratch memory."""

    outputs: Sequence[Tensor]
    work: int = 0
    scratch: int = 0


def scan(model: bytes, spec: Spec, source: str) -> int:
    """Check an exported file; `source` names it in errors.

    Returns:
        How many numbers are computed for an image, at most: all tensors of the graph together.

    Raises:
        CvaeError: it holds what no export of cvae holds, asks too much, or contradicts its spec.
    """
    try:
        return infer(model, spec)[0]
    except ValueError as error:
        raise CvaeError(f"{source!r} is refused: {one_line(error)}") from error


def signature(spec: Spec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs and outputs that a file with this spec must have, by name."""
    noise, image = Tensor(FLOAT, (None, spec.latent_dim)), Tensor(FLOAT, (None, *spec.image_shape))
    label = {} if spec.classes is None else {"label": Tensor(INT64, (None,))}
    if spec.role == "decoder":
        return {"noise": noise, **label}, {"image": image}
    return {"image": image, **label}, {"mean": noise, "std": noise}


def infer(data: bytes, spec: Spec) -> tuple[int, dict[str, Tensor]]:
    """What `scan` returns, and all tensors of the graph by name.

    Raises:
        ValueError: as `scan` refuses it.
    """
    if data[4:8] == b"ORTM":  # a protobuf message may have this there, and onnxruntime would read another format
        raise ValueError("it is in a format of onnxruntime's own")
    if math.prod(spec.image_shape) > MAX_IMAGE:
        raise ValueError(f"an image of the shape {spec.image_shape} has more than {MAX_IMAGE} numbers")
    model = parse_message(memoryview(data), MODEL, MAX_FIELDS)
    if not 8 <= model.get("ir_version", 0) <= 13:
        raise ValueError(f"its ir_version is {model.get('ir_version')}, that of an export is 10")
    opsets = [parse_message(opset, OPSET) for opset in model.get("opset_import", ())]
    if [(_text(opset, "domain"), 18 <= opset.get("version", 0) <= 20) for opset in opsets] != [("", True)]:
        raise ValueError("it imports operators other than the standard ones of opset 18 to 20")
    keys = [_text(parse_message(entry, ENTRY), "key") for entry in model.get("metadata_props", ())]
    if keys != [KEY]:
        raise ValueError(f"its metadata has the keys {keys}, those of an export {[KEY]}")
    if "graph" not in model:
        raise ValueError("it has no graph")
    graph = parse_message(model["graph"], GRAPH, MAX_NODES + MAX_WEIGHTS + MAX_FIELDS)
    nodes, weights = graph.get("node", ()), graph.get("initializer", ())
    if len(nodes) > MAX_NODES or len(weights) > MAX_WEIGHTS:
        raise ValueError(f"{len(nodes)} nodes and {len(weights)} weights are more than {MAX_NODES} and {MAX_WEIGHTS}")

    inputs, outputs = signature(spec)
    for part, expected in (("input", inputs), ("output", outputs)):
        declared = [_declared(value) for value in graph.get(part, ())]
        if dict(declared) != expected or len(declared) != len(expected):
            said = ", ".join(f"{name!r} {_shown(tensor)}" for name, tensor in declared)
            raise ValueError(f"it contradicts its own spec: its {part}s are {said or 'none'}")
    known = dict(inputs)
    for weight in weights:
        _add(known, *_weight(weight))
    elements = _cost(nodes, known, spec, weights=sum(_elements(tensor) for tensor in known.values()))
    for name, tensor in outputs.items():
        if known.get(name) != tensor:
            said = _shown(known[name]) if name in known else "not made"
            raise ValueError(f"it contradicts its own spec: its output {name!r} is {said}")
    return elements, known


def _cost(nodes: Sequence[memoryview], known: dict[str, Tensor], spec: Spec, weights: int) -> int:
    """The numbers computed for an image; what the nodes make is added to the tensors that are known."""
    pixels = math.prod(spec.image_shape[1:])
    most_elements = min(ELEMENTS + ELEMENTS_PER_PIXEL * pixels, MAX_ELEMENTS)
    most_work = min(WORK + weights * pixels, MAX_WORK)
    elements = work = edges = 0
    for message in nodes:
        node = parse_message(message, NODE, MAX_EDGES)
        edges += len(node.get("input", ())) + len(node.get("output", ()))
        if edges > MAX_ALL_EDGES:
            raise ValueError(f"its nodes have more than {MAX_ALL_EDGES} inputs and outputs")
        kind = ".".join(filter(None, (_text(node, "domain"), _text(node, "op_type"))))
        if kind not in OPERATORS:
            raise ValueError(f"it has the operator {kind!r}, which no export has")
        name = _text(node, "name")
        try:
            result = _infer(node, OPERATORS[kind], known, spec)
            outputs = _names(node, "output")
            if len(outputs) != len(result.outputs):
                raise ValueError(f"it has the outputs {outputs}")
            for output, tensor in zip(outputs, result.outputs, strict=True):
                _add(known, output, tensor)
        except ValueError as error:
            raise ValueError(f"its {kind} {name!r} is not that of an export: {error}") from None
        new = result.scratch + sum(_elements(tensor) for tensor in result.outputs)
        elements += new
        work += new + result.work
        if elements > most_elements or work > most_work:
            raise ValueError(
                f"it asks too much for images of the shape {spec.image_shape}: {elements} numbers and {work} "
                f"multiplications each, up to its {kind} {name!r}"
            )
    return elements


def _infer(node: Mapping[str, Any], operator: "Operator", known: Mapping[str, Tensor], spec: Spec) -> NodeResult:
    """Return what a node makes of the tensors that are known."""
    names = _names(node, "input")
    if unknown := [name for name in names if name and name not in known]:
        raise ValueError(f"its input {unknown[0]!r} is not made before it")
    inputs = [known[name] if name else None for name in names]
    min_inputs, max_inputs = operator.inputs
    if not min_inputs <= len(inputs) <= max_inputs or None in inputs[:min_inputs]:
        raise ValueError(f"it has the inputs {names}")
    values: dict[str, Any] = {}
    for message in node.get("attribute", ()):
        name, value = _attribute(message)
        if name not in operator.attributes or name in values:
            raise ValueError(f"it has the attribute {name!r}, unknown or twice")
        values[name] = value
    for name, attribute in operator.attributes.items():
        value = values.setdefault(name, attribute.default)
        if type(value) is not type(attribute.default) or value not in attribute.allowed:
            raise ValueError(f"its attribute {name!r} is {value!r}")
    values |= {"outputs": len(node.get("output", ())), "classes": len(spec.classes or ())}
    return operator.infer(values, *inputs)


# -- reading messages --------------------------------------------------------------------------------------------------


def _text(message: Mapping[str, Any], field: str) -> str:
    """A short text; "" where there is none."""
    return _decode(message.get(field, EMPTY), field)


def _names(message: Mapping[str, Any], field: str) -> list[str]:
    return [_decode(value, field) for value in message.get(field, ())]


def _decode(value: memoryview, field: str) -> str:
    if len(value) > MAX_NAME:
        raise ValueError(f"its {field} has {len(value)} bytes, more than {MAX_NAME}")
    return str(value, "utf-8")


def _add(known: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    """A new tensor, of a size that makes sense, with the batch, if at all, along the first axis."""
    if not name or name in known:
        raise ValueError(f"the name {name!r} is empty or there twice")
    if len(tensor.shape) > MAX_RANK or None in tensor.shape[1:] or not all(d is None or d > 0 for d in tensor.shape):
        raise ValueError(f"{name!r} is {_shown(tensor)}")
    known[name] = tensor


def _shown(tensor: Tensor) -> str:
    kind = {FLOAT: "float", INT64: "int64", BOOL: "bool", HALF: "float16"}.get(tensor.type, tensor.type)
    return f"{kind} ({', '.join('batch' if d is None else str(d) for d in tensor.shape)})"


def _declared(message: memoryview) -> tuple[str, Tensor]:
    """An input or output as the graph declares it: ValueInfoProto."""
    value = parse_message(message, VALUE)
    kind = parse_message(parse_message(value.get("type", EMPTY), TYPE).get("tensor_type", EMPTY), TENSOR_TYPE)
    dimensions = [
        parse_message(dim, DIMENSION) for dim in parse_message(kind.get("shape", EMPTY), SHAPE).get("dim", ())
    ]
    shape = tuple(None if _text(dim, "dim_param") else dim.get("dim_value") for dim in dimensions)
    if any("dim_value" in dim and "dim_param" in dim for dim in dimensions):
        raise ValueError("an axis of an input or output has both a size and a name")
    return _text(value, "name"), Tensor(kind.get("elem_type", 0), shape)


def _weight(message: memoryview) -> tuple[str, Tensor]:
    """A weight or constant, in the file itself and as long as its shape says: TensorProto."""
    weight = parse_message(message, TENSOR)
    name, kind, shape = _text(weight, "name"), weight.get("data_type", 0), tuple(weight.get("dims", ()))
    data = weight.get("raw_data", EMPTY)
    if kind not in BYTES_EACH or len(data) != BYTES_EACH[kind] * math.prod(shape):
        raise ValueError(f"the weight {name!r} {_shown(Tensor(kind, shape))} has {len(data)} bytes")
    values = None
    if kind == INT64 and len(shape) < 2 and len(data) <= 8 * 2 * MAX_RANK:
        values = struct.unpack(f"<{len(data) // 8}q", data)
    return name, Tensor(kind, shape, values)


def _attribute(message: memoryview) -> tuple[str, Any]:
    """The name of an attribute, and its value: a float, an int, a str or a tuple of ints."""
    attribute = parse_message(message, ATTRIBUTE)
    name, kind = _text(attribute, "name"), attribute.get("type")
    field = {1: "f", 2: "i", 3: "s", 7: "ints"}.get(kind or 0, "")
    if attribute.keys() - {"name", "type", "doc_string", field}:
        raise ValueError(f"its attribute {name!r} is of the type {kind}")
    if field == "s":
        return name, _text(attribute, "s")
    if field == "ints":
        return name, tuple(attribute.get("ints", ()))
    if field not in attribute:
        raise ValueError(f"its attribute {name!r} has no value")
    return name, struct.unpack("<f", attribute["f"])[0] if field == "f" else attribute["i"]


# -- what operators make: shapes, work ---------------------------------------------------------------------------------


def _size(shape: Sequence[Dimension]) -> int:
    """Numbers in a tensor, for one image."""
    return math.prod(1 if d is None else d for d in shape)


def _elements(tensor: Tensor) -> int:
    return _size(tensor.shape)


def _require(fits: bool, *tensors: Tensor | None) -> None:
    """Refuse a node whose inputs or attributes do not fit together."""
    if not fits:
        shown = ", ".join(_shown(tensor) for tensor in tensors if tensor is not None)
        raise ValueError(f"what it is given does not fit together: {shown}")


def _floats(*tensors: Tensor | None) -> int:
    """The one float type of the tensors."""
    kinds = {tensor.type for tensor in tensors if tensor is not None}
    _require(len(kinds) == 1 and kinds <= {FLOAT, HALF}, *tensors)
    return kinds.pop()


def _integers(tensor: Tensor | None) -> tuple[Dimension, ...]:
    """The values of a row of integers, which must be known."""
    if tensor is None or tensor.values is None:
        raise ValueError("it takes a shape or an axis from a tensor that is not constant")
    return tensor.values


def _constants(tensor: Tensor | None) -> tuple[int, ...]:
    """The values of a row of integers, none of them the batch's size."""
    values = _integers(tensor)
    _require(None not in values, tensor)
    return tuple(value for value in values if value is not None)


def _axis(axis: int, shape: Sequence[Dimension]) -> int:
    """An axis counted from the front; never that of the batch, for images do not depend on each other."""
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis < len(shape) or shape[axis] is None:
        raise ValueError(f"axis {axis} of {_shown(Tensor(FLOAT, tuple(shape)))}")
    return axis


def _length(shape: Sequence[Dimension], axis: int) -> int:
    """The size along an axis that is not the batch's."""
    size = shape[axis]
    if size is None:
        raise ValueError(f"axis {axis} is that of the batch")
    return size


def _broadcast(*shapes: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """https://onnx.ai/onnx/repo-docs/Broadcasting.html"""
    rank = max(map(len, shapes))
    result: list[Dimension] = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if size != 1 and result[i] not in (1, size):
                raise ValueError(f"the shapes {', '.join(_shown(Tensor(FLOAT, tuple(s))) for s in shapes)} differ")
            result[i] = result[i] if size == 1 else size
    return tuple(result)


def _elementwise(attributes: dict[str, Any], *inputs: Tensor | None) -> NodeResult:
    """Number by number; two or more inputs are broadcast."""
    tensors = [tensor for tensor in inputs if tensor is not None]
    return NodeResult([Tensor(_floats(*tensors), _broadcast(*(tensor.shape for tensor in tensors)))])


def _compare(attributes: dict[str, Any], a: Tensor, b: Tensor) -> NodeResult:
    _floats(a, b)
    return NodeResult([Tensor(BOOL, _broadcast(a.shape, b.shape))])


def _where(attributes: dict[str, Any], condition: Tensor, a: Tensor, b: Tensor) -> NodeResult:
    _require(condition.type == BOOL, condition)
    return NodeResult([Tensor(_floats(a, b), _broadcast(condition.shape, a.shape, b.shape))])


def _clip(attributes: dict[str, Any], x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> NodeResult:
    _require(all(limit is None or limit.shape == () for limit in (low, high)), low, high)
    return NodeResult([Tensor(_floats(x, low, high), x.shape)])


def _cast(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    """Between the two types of floats, for weights of half precision behind float32 inputs and outputs."""
    _floats(x)
    return NodeResult([Tensor(attributes["to"], x.shape)])


def _along(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    _axis(attributes["axis"], x.shape)
    return NodeResult([Tensor(_floats(x), x.shape)], work=4 * _elements(x))


def _layer_norm(attributes: dict[str, Any], x: Tensor, scale: Tensor, bias: Tensor | None = None) -> NodeResult:
    normal = x.shape[_axis(attributes["axis"], x.shape) :]
    _require(scale.shape == normal and (bias is None or bias.shape == normal), x, scale, bias)
    return NodeResult([Tensor(_floats(x, scale, bias), x.shape)], work=4 * _elements(x))


def _gemm(attributes: dict[str, Any], a: Tensor, b: Tensor, c: Tensor | None = None) -> NodeResult:
    _require(len(a.shape) == len(b.shape) == 2, a, b)
    rows, columns = b.shape[::-1] if attributes["transB"] else b.shape  # (k, n)
    shape = (a.shape[0], columns)
    _require(a.shape[1] == rows and None not in b.shape, a, b)
    _require(c is None or _broadcast(shape, c.shape) == shape, a, b, c)
    return NodeResult([Tensor(_floats(a, b, c), shape)], work=_elements(a) * _length(shape, 1))


def _matmul(attributes: dict[str, Any], a: Tensor, b: Tensor) -> NodeResult:
    _require(len(a.shape) >= 2 and len(b.shape) >= 2 and a.shape[-1] == b.shape[-2] is not None, a, b)
    shape = (*_broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    return NodeResult([Tensor(_floats(a, b), shape)], work=_size(shape) * _length(b.shape, -2))


def _window(attributes: dict[str, Any], x: Tensor, weight: Tensor) -> tuple[list[int], ...]:
    """Size, kernel, stride, dilation, and padding at both ends, along height and width, of a convolution."""
    kernel = [_length(weight.shape, axis) for axis in range(2, len(weight.shape))]
    strides, dilations = (list(attributes[name] or (1, 1)) for name in ("strides", "dilations"))
    pads = list(attributes["pads"] or (0, 0, 0, 0))
    _require(len(x.shape) == len(weight.shape) == 4 and None not in (*x.shape[1:], *weight.shape), x, weight)
    _require(list(attributes["kernel_shape"] or kernel) == kernel, x, weight)
    _require(max(kernel) <= MAX_WINDOW and attributes["group"] <= _length(weight.shape, 0), x, weight)
    sizes = [_length(x.shape, 2), _length(x.shape, 3)]
    return sizes, kernel, strides, dilations, [pads[0] + pads[2], pads[1] + pads[3]]


def _conv(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> NodeResult:
    sides = []
    for size, kernel, stride, dilation, pad in zip(*_window(attributes, x, weight), strict=True):
        sides.append((size + pad - dilation * (kernel - 1) - 1) // stride + 1)
    channels, each, group = _length(weight.shape, 0), _length(weight.shape, 1), attributes["group"]
    _require(x.shape[1] == each * group and channels % group == 0, x, weight)
    _require(bias is None or bias.shape == (channels,), weight, bias)
    _require(min(sides) > 0, x, weight)
    # onnxruntime may lay channels out in blocks of 16, the rest of which is padding.
    blocked = _size((x.shape[0], -(-channels // 16) * 16, *sides))
    shape = (x.shape[0], channels, *sides)
    return NodeResult(
        [Tensor(_floats(x, weight, bias), shape)],
        work=_size(shape) * _size(weight.shape[1:]),
        scratch=blocked - _size(shape),
    )


def _conv_transpose(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> NodeResult:
    more = attributes["output_padding"] or (0, 0)
    sides = []
    for size, kernel, stride, dilation, pad, extra in zip(*_window(attributes, x, weight), more, strict=True):
        _require(extra < max(stride, dilation), x, weight)
        sides.append((size - 1) * stride + dilation * (kernel - 1) + 1 + extra - pad)
    channels, each, group = _length(weight.shape, 0), _length(weight.shape, 1), attributes["group"]
    _require(x.shape[1] == channels and channels % group == 0, x, weight)
    _require(bias is None or bias.shape == (each * group,), weight, bias)
    _require(min(sides) > 0, x, weight)
    # Each position of x gives a whole kernel, added later.
    spread = _size(x.shape[2:]) * each * group * _size(weight.shape[2:])
    shape = (x.shape[0], each * group, *sides)
    return NodeResult([Tensor(_floats(x, weight, bias), shape)], work=spread * channels // group, scratch=spread)


def _max_pool(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    kernel, strides = attributes["kernel_shape"], attributes["strides"] or (1, 1)
    _require(attributes["outputs"] == 1 and len(x.shape) == 4 and None not in x.shape[1:], x)
    _require(len(kernel) == 2 and all(stride <= size for stride, size in zip(strides, kernel, strict=True)), x)
    sides = []
    for size, side, stride in zip(x.shape[2:], kernel, strides, strict=True):
        steps = (size or 0) - side
        sides.append((-(-steps // stride) if attributes["ceil_mode"] else steps // stride) + 1)
    _require(min(sides) > 0, x)
    shape = (*x.shape[:2], *sides)
    return NodeResult([Tensor(_floats(x), shape)], work=_size(shape) * math.prod(kernel))


def _resize(
    attributes: dict[str, Any],
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> NodeResult:
    shape = _integers(sizes)
    _require(roi is None and scales is None, x, roi, scales)
    _require(len(x.shape) == len(shape) == 4 and x.shape[:2] == shape[:2] and None not in shape[2:], x)
    return NodeResult([Tensor(_floats(x), shape)])


def _depth_to_space(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    _require(len(x.shape) == 4 and None not in x.shape[1:], x)
    side, (batch, channels, height, width) = attributes["blocksize"], x.shape
    _require(channels % side**2 == 0, x)
    return NodeResult([Tensor(_floats(x), (batch, channels // side**2, height * side, width * side))])


def _pad(attributes: dict[str, Any], x: Tensor, pads: Tensor, value: Tensor | None = None) -> NodeResult:
    amounts, rank = _constants(pads), len(x.shape)
    _require(len(amounts) == 2 * rank and min(amounts, default=0) >= 0, x, pads)
    _require(value is None or value.shape == (), value)
    shape: list[Dimension] = []
    for size, before, after in zip(x.shape, amounts[:rank], amounts[rank:], strict=True):
        _require(size is not None or before == after == 0, x)
        shape.append(None if size is None else size + before + after)
    return NodeResult([Tensor(_floats(x, value), tuple(shape))])


def _reshape(attributes: dict[str, Any], x: Tensor, wanted: Tensor) -> NodeResult:
    shape = list(_integers(wanted))
    if -1 in shape:  # this axis takes what the others leave, and the batch if none of them is it
        at = shape.index(-1)
        shape[at] = 1
        rest = _size(shape)
        _require(rest > 0 and _elements(x) % rest == 0, x, wanted)
        shape[at] = _elements(x) // rest
        if None in x.shape and None not in shape:
            _require(shape[at] == 1, x, wanted)
            shape[at] = None
    _require(_size(shape) == _elements(x) and (None in shape) == (None in x.shape), x, wanted)
    return NodeResult([Tensor(_floats(x), tuple(shape))])


def _transpose(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    order = attributes["perm"]
    _require(sorted(order) == list(range(len(x.shape))), x)
    return NodeResult([Tensor(_floats(x), tuple(x.shape[axis] for axis in order))])


def _unsqueeze(attributes: dict[str, Any], x: Tensor, axes: Tensor) -> NodeResult:
    (axis,) = _constants(axes)[:1] or (0,)
    _require(axes.shape in ((), (1,)) and 0 <= axis <= len(x.shape), x, axes)
    return NodeResult([Tensor(_floats(x), (*x.shape[:axis], 1, *x.shape[axis:]))])


def _concat(attributes: dict[str, Any], *inputs: Tensor | None) -> NodeResult:
    tensors = [tensor for tensor in inputs if tensor is not None]
    _require(len(tensors) == len(inputs), *tensors[:2])
    first, axis = tensors[0], attributes["axis"]
    if all(tensor.values is not None and len(tensor.shape) == 1 for tensor in tensors) and axis == 0:
        _require(sum(map(_elements, tensors)) <= 2 * MAX_RANK, *tensors[:2])  # a shape; of shapes a long row grows fast
        values = tuple(value for tensor in tensors for value in _integers(tensor))
        return NodeResult([Tensor(INT64, (len(values),), values)])
    axis = _axis(axis, first.shape)
    for tensor in tensors:
        same = len(tensor.shape) == len(first.shape) and all(
            a == b for i, (a, b) in enumerate(zip(tensor.shape, first.shape, strict=True)) if i != axis
        )
        _require(same, *tensors)
    length = sum(_length(tensor.shape, axis) for tensor in tensors)
    return NodeResult([Tensor(_floats(*tensors), (*first.shape[:axis], length, *first.shape[axis + 1 :]))])


def _split(attributes: dict[str, Any], x: Tensor, sizes: Tensor | None = None) -> NodeResult:
    axis, parts = _axis(attributes["axis"], x.shape), attributes["outputs"]
    length = _length(x.shape, axis)
    if sizes is None:
        _require(attributes["num_outputs"] == parts and length % parts == 0, x)
        lengths: tuple[int, ...] = (length // parts,) * parts
    else:
        lengths = _constants(sizes)
        _require(attributes["num_outputs"] == 0, x, sizes)
    _require(len(lengths) == parts and sum(lengths) == length and min(lengths, default=0) > 0, x, sizes)
    return NodeResult([Tensor(_floats(x), (*x.shape[:axis], part, *x.shape[axis + 1 :])) for part in lengths])


def _slice(
    attributes: dict[str, Any], x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor
) -> NodeResult:
    shape: list[Dimension] = list(x.shape)
    bounds = [_constants(tensor) for tensor in (starts, ends, axes, steps)]
    _require(len({len(values) for values in bounds}) == 1, starts, ends, axes, steps)
    for start, end, axis, step in zip(*bounds, strict=True):
        at = _axis(axis, x.shape)
        _require(step == 1, x)
        shape[at] = len(range(*slice(start, end).indices(_length(x.shape, at))))
    _require(len(set(bounds[2])) == len(bounds[2]), x)
    return NodeResult([Tensor(_floats(x), tuple(shape))])


def _gather(attributes: dict[str, Any], x: Tensor, indices: Tensor) -> NodeResult:
    """A row of a table for each label, or constant places along another axis than the batch's."""
    axis = _axis(attributes["axis"], x.shape)
    if indices == Tensor(INT64, (None,)):  # the label is the only such tensor
        _require(axis == 0 and None not in x.shape, x)
        if x.shape[0] != attributes["classes"]:
            raise ValueError(f"it contradicts its own spec, which has {attributes['classes']} classes: {_shown(x)}")
    else:
        length = _length(x.shape, axis)
        _require(all(-length <= index < length for index in _constants(indices)), x, indices)
    return NodeResult([Tensor(_floats(x), (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))])


def _reduce_sum(attributes: dict[str, Any], x: Tensor, axes: Tensor) -> NodeResult:
    over = {_axis(axis, x.shape) for axis in _constants(axes)}
    _require(bool(over), x, axes)
    kept = dict.fromkeys(over, 1) if attributes["keepdims"] else {}
    shape = [kept.get(axis, size) for axis, size in enumerate(x.shape) if axis not in over or kept]
    return NodeResult([Tensor(_floats(x), tuple(shape))], work=_elements(x))


def _shape(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    values = x.shape[attributes["start"] : attributes["end"]]
    return NodeResult([Tensor(INT64, (len(values),), values)])


def _expand(attributes: dict[str, Any], x: Tensor, wanted: Tensor) -> NodeResult:
    return NodeResult([Tensor(_floats(x), _broadcast(x.shape, _integers(wanted)))])


def _constant_of_shape(attributes: dict[str, Any], wanted: Tensor) -> NodeResult:
    return NodeResult([Tensor(FLOAT, _integers(wanted))])


# -- the operators, and what their attributes may be ------------------------------------------------------------------


@dataclass(frozen=True)
class Floats:
    """The floats from `minimum` to `maximum`; NaN is not among them."""

    minimum: float
    maximum: float

    def __contains__(self, value: Any) -> bool:
        return self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class Ints:
    """Tuples of integers: as many as `lengths` says, each one of `values`."""

    lengths: Container[int]
    values: Container[int]

    def __contains__(self, ints: Any) -> bool:
        return len(ints) in self.lengths and all(value in self.values for value in ints)


class Attribute(NamedTuple):
    """The default of an attribute, and all values that it may have.

    The set of allowed values is closed: shape inference and onnxruntime could read any other value differently.
    """

    default: Any
    allowed: Container[Any]


class Operator(NamedTuple):
    """Shape inference of an operator, its minimum and maximum number of inputs, and its attributes by name."""

    infer: Callable[..., NodeResult]
    inputs: tuple[int, int] = (1, 1)
    attributes: Mapping[str, Attribute] = {}


FINITE = Floats(-3.0e38, 3.0e38)
FLAG = (0, 1)
AXIS = range(-MAX_RANK, MAX_RANK)
SIDE = range(1, MAX_WINDOW + 1)
PAIR, QUADRUPLE = (0, 2), (0, 4)
"""Lengths of a list with one number per axis, or one per end of each axis; it may also be empty."""

WINDOW = {
    "auto_pad": Attribute("NOTSET", ("NOTSET",)),
    "dilations": Attribute((), Ints(PAIR, SIDE)),
    "group": Attribute(1, range(1, 2**16)),
    "kernel_shape": Attribute((), Ints(PAIR, SIDE)),
    "pads": Attribute((), Ints(QUADRUPLE, range(MAX_WINDOW + 1))),
    "strides": Attribute((), Ints(PAIR, SIDE)),
}
POOL = {
    "auto_pad": Attribute("NOTSET", ("NOTSET",)),
    "ceil_mode": Attribute(0, FLAG),
    "dilations": Attribute((), Ints(PAIR, (1,))),
    "kernel_shape": Attribute((), Ints((2,), SIDE)),
    "pads": Attribute((), Ints(QUADRUPLE, (0,))),
    "storage_order": Attribute(0, (0,)),
    "strides": Attribute((), Ints(PAIR, SIDE)),
}
RESIZE = {
    "antialias": Attribute(0, (0,)),
    "coordinate_transformation_mode": Attribute("half_pixel", ("half_pixel", "asymmetric")),
    "cubic_coeff_a": Attribute(-0.75, (-0.75,)),
    "exclude_outside": Attribute(0, (0,)),
    "extrapolation_value": Attribute(0.0, (0.0,)),
    "keep_aspect_ratio_policy": Attribute("stretch", ("stretch",)),
    "mode": Attribute("nearest", ("nearest",)),
    "nearest_mode": Attribute("round_prefer_floor", ("round_prefer_floor", "floor")),
}

OPERATORS = {
    **{name: Operator(_elementwise) for name in ("Exp", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh")},
    **{name: Operator(_elementwise, (2, 2)) for name in ("Add", "Div", "Mul", "Sub")},
    "Cast": Operator(_cast, attributes={"saturate": Attribute(1, (1,)), "to": Attribute(0, (FLOAT, HALF))}),
    "Clip": Operator(_clip, (1, 3)),
    "Concat": Operator(_concat, (1, MAX_EDGES), {"axis": Attribute(0, AXIS)}),
    "ConstantOfShape": Operator(_constant_of_shape),
    "Conv": Operator(_conv, (2, 3), WINDOW),
    "ConvTranspose": Operator(
        _conv_transpose,
        (2, 3),
        WINDOW
        | {
            "output_padding": Attribute((), Ints(PAIR, range(MAX_WINDOW))),
            "output_shape": Attribute((), Ints((0,), ())),
        },
    ),
    "DepthToSpace": Operator(
        _depth_to_space, attributes={"blocksize": Attribute(0, SIDE), "mode": Attribute("DCR", ("DCR", "CRD"))}
    ),
    "Expand": Operator(_expand, (2, 2)),
    "Gather": Operator(_gather, (2, 2), {"axis": Attribute(0, AXIS)}),
    "Gelu": Operator(_elementwise, attributes={"approximate": Attribute("none", ("none", "tanh"))}),
    "Gemm": Operator(
        _gemm,
        (2, 3),
        {
            "alpha": Attribute(1.0, FINITE),
            "beta": Attribute(1.0, FINITE),
            "transA": Attribute(0, (0,)),
            "transB": Attribute(0, FLAG),
        },
    ),
    "Greater": Operator(_compare, (2, 2)),
    "LayerNormalization": Operator(
        _layer_norm,
        (2, 3),
        {"axis": Attribute(-1, AXIS), "epsilon": Attribute(1e-5, Floats(0.0, 1.0)), "stash_type": Attribute(1, (1,))},
    ),
    "LeakyRelu": Operator(_elementwise, attributes={"alpha": Attribute(0.01, FINITE)}),
    "LogSoftmax": Operator(_along, attributes={"axis": Attribute(-1, AXIS)}),
    "MatMul": Operator(_matmul, (2, 2)),
    "MaxPool": Operator(_max_pool, attributes=POOL),
    "Pad": Operator(_pad, (2, 3), {"mode": Attribute("constant", ("constant",))}),
    "ReduceSum": Operator(
        _reduce_sum, (2, 2), {"keepdims": Attribute(1, FLAG), "noop_with_empty_axes": Attribute(0, FLAG)}
    ),
    "Reshape": Operator(_reshape, (2, 2), {"allowzero": Attribute(0, FLAG)}),
    "Resize": Operator(_resize, (1, 4), RESIZE),
    "Shape": Operator(
        _shape,
        attributes={"start": Attribute(0, AXIS), "end": Attribute(MAX_RANK, range(-MAX_RANK, MAX_RANK + 1))},
    ),
    "Slice": Operator(_slice, (5, 5)),
    "Split": Operator(_split, (1, 2), {"axis": Attribute(0, AXIS), "num_outputs": Attribute(0, range(MAX_EDGES))}),
    "Transpose": Operator(_transpose, attributes={"perm": Attribute((), Ints(range(MAX_RANK + 1), range(MAX_RANK)))}),
    "Unsqueeze": Operator(_unsqueeze, (2, 2)),
    "Where": Operator(_where, (3, 3)),
}
"""All operators that exports have, those of the plug-in under examples/ among them."""
