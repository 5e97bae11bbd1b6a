"""Conversion of recorded ATen operators to ONNX nodes.

`OPERATORS` contains a conversion for each operator that the built-in parts call. A conversion takes the builder and the
arguments of the operator, in the order of its schema and with a `Value` for each tensor. It returns the names of the
outputs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper

from cvae.exporters.onnx.builder import Builder, Value
from cvae.exporters.onnx.tracing import BatchMultiple, Untraceable

Conversion = Callable[..., list[str]]


def _unary(operator: str) -> Conversion:
    """Return the conversion of an operator that takes one tensor and no options."""
    return lambda graph, x: graph.add(operator, x.name)


def _binary(operator: str) -> Conversion:
    """Return the conversion of an operator with two operands. `alpha` scales the second, a tensor or a number."""

    def convert(graph: Builder, x: Value, y: Value | float, alpha: float = 1) -> list[str]:
        return graph.add(operator, x.name, _scale(graph, y, alpha))

    return convert


def _scale(graph: Builder, x: Value | float, alpha: float) -> str:
    """Multiply a value or number by alpha, and return the name of the product."""
    name = x.name if isinstance(x, Value) else graph.constant(float(x))
    return name if alpha == 1 else graph.add("Mul", name, graph.constant(float(alpha)))[0]


def _rsub(graph: Builder, x: Value, y: float, alpha: float) -> list[str]:
    return graph.add("Sub", graph.constant(float(y)), _scale(graph, x, alpha))


def _to_copy(graph: Builder, x: Value, dtype: Any, *options: Any) -> list[str]:
    _require(dtype is torch.float32)
    return graph.add("Cast", x.name, to=TensorProto.FLOAT)


def _silu(graph: Builder, x: Value) -> list[str]:
    return graph.add("Mul", x.name, *graph.add("Sigmoid", x.name))


def _softplus(graph: Builder, x: Value, beta: float, threshold: float) -> list[str]:
    _require(beta == 1 and threshold >= 20)  # above 20, softplus(x) equals x in float32
    return graph.add("Softplus", x.name)


def _clamp(graph: Builder, x: Value, low: float | None, high: float | None) -> list[str]:
    return graph.add("Clip", x.name, *("" if bound is None else graph.constant(float(bound)) for bound in (low, high)))


def _addmm(graph: Builder, bias: Value, x: Value, weight: Value, beta: float, alpha: float) -> list[str]:
    """Convert a linear layer, whose weight has been transposed by `aten.t`."""
    producer = graph.producers.get(weight.name)
    if producer is None or producer.op_type != "Transpose":
        raise Untraceable("the second factor of a matrix product is not a transposed weight")
    factors = x.name, producer.input[0], bias.name
    return graph.add("Gemm", *factors, alpha=float(alpha), beta=float(beta), transB=1)


def _convolution(
    graph: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> list[str]:
    names = [value.name for value in (x, weight, bias) if value is not None]
    options: dict[str, Any] = {"strides": stride, "pads": padding * 2, "dilations": dilation, "group": groups}
    options["kernel_shape"] = list(weight.shape[2:])
    if transposed:
        options["output_padding"] = output_padding
    return graph.add("ConvTranspose" if transposed else "Conv", *names, **options)


def _layer_norm(
    graph: Builder, x: Value, shape: list[int], weight: Value | None, bias: Value | None, epsilon: float
) -> list[str]:
    """Convert a layer norm over the last axes."""
    _require(weight is not None)
    names = [value.name for value in (x, weight, bias) if value is not None]
    return graph.add("LayerNormalization", *names, axis=-len(shape), epsilon=epsilon)


def _batch_norm(
    graph: Builder,
    x: Value,
    weight: Value,
    bias: Value,
    mean: Value,
    variance: Value,
    training: bool,
    momentum: float,
    epsilon: float,
) -> list[str]:
    """Fuse a batch norm in evaluation mode with the convolution before it."""
    parameters = weight, bias, mean, variance
    _require(not training and all(parameters) and x.name in graph.producers)
    node = graph.producers[x.name]
    _require(node.op_type in ("Conv", "ConvTranspose") and len(x.shape) == 4)
    _require(graph.arrays.keys() >= {*node.input[1:], *(value.name for value in parameters)})
    gain, shift, mu, var = (graph.arrays[value.name].astype(np.float64) for value in parameters)
    scale = gain / np.sqrt(var + epsilon)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    kernel, *offset = (graph.arrays[name] for name in node.input[1:])
    if node.op_type == "Conv":
        kernel = kernel * scale[:, None, None, None]  # (out, in, h, w)
    else:
        _require(attributes["group"] == 1)
        kernel = kernel * scale[:, None, None]  # (in, out, h, w)
    fused = graph.constant(kernel), graph.constant((sum(offset) - mu) * scale + shift)
    return graph.add(node.op_type, node.input[0], *fused, **attributes)


def _cat(graph: Builder, tensors: list[Value], axis: int) -> list[str]:
    return graph.add("Concat", *(value.name for value in tensors), axis=_normalize(axis, tensors[0].shape))


def _stack(graph: Builder, tensors: list[Value], axis: int) -> list[str]:
    axis = _normalize(axis, (*tensors[0].shape, 1))
    names = [graph.add("Unsqueeze", value.name, graph.constant([axis]))[0] for value in tensors]
    return graph.add("Concat", *names, axis=axis)


def _unsqueeze(graph: Builder, x: Value, axis: int) -> list[str]:
    return graph.add("Unsqueeze", x.name, graph.constant([_normalize(axis, (*x.shape, 1))]))


def _select(graph: Builder, x: Value, axis: int, index: int) -> list[str]:
    axis = _normalize(axis, x.shape)
    _require(axis > 0)
    return graph.add("Gather", x.name, graph.constant(index % x.shape[axis]), axis=axis)


def _slice(graph: Builder, x: Value, axis: int, start: int | None, end: int | None, step: int) -> list[str]:
    axis = _normalize(axis, x.shape)
    if axis == 0:
        _require((start or 0) == 0 and end in (None, MAX_INT) and step == 1)
        return [x.name]
    bounds = [0 if start is None else start], [MAX_INT if end is None else end], [axis], [step]
    return graph.add("Slice", x.name, *map(graph.constant, bounds))


def _split(graph: Builder, x: Value, size: int, axis: int) -> list[str]:
    axis = _normalize(axis, x.shape)
    _require(axis > 0)
    if x.shape[axis] % size == 0:
        count = x.shape[axis] // size
        return graph.add("Split", x.name, outputs=count, axis=axis, num_outputs=count)
    sizes = [min(size, x.shape[axis] - start) for start in range(0, x.shape[axis], size)]
    return _split_with_sizes(graph, x, sizes, axis)


def _split_with_sizes(graph: Builder, x: Value, sizes: list[int], axis: int) -> list[str]:
    axis = _normalize(axis, x.shape)
    _require(axis > 0)
    return graph.add("Split", x.name, graph.constant(sizes), outputs=len(sizes), axis=axis)


def _view(graph: Builder, x: Value, sizes: list[int | BatchMultiple]) -> list[str]:
    sizes = [-1 if isinstance(size, BatchMultiple) else size for size in sizes]
    _require(sizes.count(-1) < 2)
    return graph.add("Reshape", x.name, graph.constant(sizes), allowzero=1)


def _expand(graph: Builder, x: Value, sizes: list[int | BatchMultiple], implicit: bool) -> list[str]:
    return graph.add("Expand", x.name, graph.shape([1 if size == -1 else size for size in sizes]))


def _pixel_unshuffle(graph: Builder, x: Value, factor: int) -> list[str]:
    channels, height, width = x.shape[1] * factor**2, x.shape[2] // factor, x.shape[3] // factor
    sizes = graph.constant([-1, x.shape[1], height, factor, width, factor])  # -> (B, C, h, f, w, f)
    blocks = graph.add("Transpose", *graph.add("Reshape", x.name, sizes, allowzero=1), perm=[0, 1, 3, 5, 2, 4])
    return graph.add("Reshape", *blocks, graph.constant([-1, channels, height, width]), allowzero=1)


def _pad(graph: Builder, x: Value, padding: list[int], value: float) -> list[str]:
    """Convert padding. torch lists the sizes before and after each axis, and starts with the last axis."""
    _require(min(padding) >= 0 and len(padding) < 2 * len(x.shape))
    before, after = ([0] * (len(x.shape) - len(padding) // 2) + padding[i::2][::-1] for i in (0, 1))
    return graph.add("Pad", x.name, graph.constant(before + after), graph.constant(float(value)))


def _upsample(graph: Builder, x: Value, size: list[int], *scales: float | None) -> list[str]:
    sizes = graph.add("Concat", *graph.add("Shape", x.name, start=0, end=2), graph.constant(size), axis=0)
    return graph.add(
        "Resize", x.name, "", "", *sizes,
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _sum(graph: Builder, x: Value, axes: list[int] | None, keepdims: bool, dtype: Any) -> list[str]:
    axes = sorted(_normalize(axis, x.shape) for axis in axes or range(len(x.shape)))
    _require(axes[0] > 0)
    return graph.add("ReduceSum", x.name, graph.constant(axes), keepdims=int(keepdims))


def _normalize(axis: int, shape: tuple[int, ...]) -> int:
    """Return the index of an axis, counted from the front."""
    return axis % len(shape)


def _require(condition: bool) -> None:
    """Raise an error unless the condition holds, so that `torch.onnx` exports the module instead."""
    if not condition:
        raise Untraceable("there is no conversion for these options")


MAX_INT = 2**63 - 1
"""End of a slice that extends to the end of its axis."""

OPERATORS: dict[str, Conversion] = {
    "aten._log_softmax.default": lambda graph, x, axis, half: graph.add("LogSoftmax", x.name, axis=axis),
    "aten._to_copy.default": _to_copy,
    "aten.add.Tensor": _binary("Add"),
    "aten.addmm.default": _addmm,
    "aten.alias.default": lambda graph, x: [x.name],
    "aten.cat.default": _cat,
    "aten.clamp.default": _clamp,
    "aten.constant_pad_nd.default": _pad,
    "aten.convolution.default": _convolution,
    "aten.detach.default": lambda graph, x: [x.name],
    "aten.div.Tensor": _binary("Div"),
    "aten.embedding.default": lambda graph, table, index, *options: graph.add("Gather", table.name, index.name, axis=0),
    "aten.exp.default": _unary("Exp"),
    "aten.expand.default": _expand,
    "aten.leaky_relu.default": lambda graph, x, slope: graph.add("LeakyRelu", x.name, alpha=float(slope)),
    "aten.mm.default": lambda graph, x, y: graph.add("MatMul", x.name, y.name),
    "aten.mul.Tensor": _binary("Mul"),
    "aten.native_batch_norm.default": _batch_norm,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.neg.default": _unary("Neg"),
    "aten.permute.default": lambda graph, x, axes: graph.add("Transpose", x.name, perm=axes),
    "aten.pixel_shuffle.default": lambda graph, x, factor: graph.add(
        "DepthToSpace", x.name, blocksize=factor, mode="CRD"
    ),
    "aten.pixel_unshuffle.default": _pixel_unshuffle,
    "aten.relu.default": _unary("Relu"),
    "aten.rsub.Scalar": _rsub,
    "aten.select.int": _select,
    "aten.sigmoid.default": _unary("Sigmoid"),
    "aten.silu.default": _silu,
    "aten.slice.Tensor": _slice,
    "aten.softplus.default": _softplus,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split_with_sizes,
    "aten.stack.default": _stack,
    "aten.sub.Tensor": _binary("Sub"),
    "aten.sum.dim_IntList": _sum,
    "aten.t.default": lambda graph, x: graph.add("Transpose", x.name, perm=[1, 0]),
    "aten.tanh.default": _unary("Tanh"),
    "aten.unsqueeze.default": _unsqueeze,
    "aten.upsample_nearest2d.default": _upsample,
    "aten.view.default": _view,
}
"""Conversions by the name of the operator."""
