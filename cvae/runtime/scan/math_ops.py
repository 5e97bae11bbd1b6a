"""Shape inference of operators that compute values: elementwise operators, matrix products, normalization, sums.

Each function takes the attributes of a node, keyed by name, and the input tensors. It raises a ValueError if they do
not fit together.
"""

from typing import Any

from cvae.runtime.scan.tensor import (
    BOOL,
    FLOAT,
    HALF,
    INT64,
    NodeResult,
    Tensor,
    axis_size,
    broadcast,
    float_type,
    normalize_axis,
    num_elements,
    read_constants,
    require,
    shape_size,
)


def elementwise(attributes: dict[str, Any], *inputs: Tensor | None) -> NodeResult:
    """Infer the output of an operator that computes each value separately and broadcasts its inputs."""
    tensors = [tensor for tensor in inputs if tensor is not None]
    return NodeResult([Tensor(float_type(*tensors), broadcast(*(tensor.shape for tensor in tensors)))])


def compare(attributes: dict[str, Any], a: Tensor, b: Tensor) -> NodeResult:
    float_type(a, b)
    return NodeResult([Tensor(BOOL, broadcast(a.shape, b.shape))])


def where(attributes: dict[str, Any], condition: Tensor, a: Tensor, b: Tensor) -> NodeResult:
    require(condition.type == BOOL, condition)
    return NodeResult([Tensor(float_type(a, b), broadcast(condition.shape, a.shape, b.shape))])


def clip(attributes: dict[str, Any], x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> NodeResult:
    require(all(bound is None or bound.shape == () for bound in (low, high)), low, high)
    return NodeResult([Tensor(float_type(x, low, high), x.shape)])


def cast(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    """Infer the output of a cast to a float type.

    Files with fp16 weights cast these, because their inputs and outputs are float32. Files with conditions cast the
    indices of categories, and the flags of known values.
    """
    require(x.type in (FLOAT, HALF, INT64, BOOL), x)
    return NodeResult([Tensor(attributes["to"], x.shape)])


def log_softmax(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    normalize_axis(attributes["axis"], x.shape)
    return NodeResult([Tensor(float_type(x), x.shape)], work=4 * num_elements(x))


def layer_norm(attributes: dict[str, Any], x: Tensor, scale: Tensor, bias: Tensor | None = None) -> NodeResult:
    normalized = x.shape[normalize_axis(attributes["axis"], x.shape) :]
    require(scale.shape == normalized and (bias is None or bias.shape == normalized), x, scale, bias)
    return NodeResult([Tensor(float_type(x, scale, bias), x.shape)], work=4 * num_elements(x))


def reduce_sum(attributes: dict[str, Any], x: Tensor, axes: Tensor) -> NodeResult:
    reduced = {normalize_axis(axis, x.shape) for axis in read_constants(axes)}
    require(bool(reduced), x, axes)
    if attributes["keepdims"]:
        shape = tuple(1 if axis in reduced else size for axis, size in enumerate(x.shape))
    else:
        shape = tuple(size for axis, size in enumerate(x.shape) if axis not in reduced)
    return NodeResult([Tensor(float_type(x), shape)], work=num_elements(x))


def gemm(attributes: dict[str, Any], a: Tensor, b: Tensor, c: Tensor | None = None) -> NodeResult:
    require(len(a.shape) == len(b.shape) == 2, a, b)
    inner, columns = b.shape[::-1] if attributes["transB"] else b.shape  # (k, n)
    shape = (a.shape[0], columns)
    require(a.shape[1] == inner and None not in b.shape, a, b)
    require(c is None or broadcast(shape, c.shape) == shape, a, b, c)
    return NodeResult([Tensor(float_type(a, b, c), shape)], work=num_elements(a) * axis_size(shape, 1))


def matmul(attributes: dict[str, Any], a: Tensor, b: Tensor) -> NodeResult:
    require(len(a.shape) >= 2 and len(b.shape) >= 2 and a.shape[-1] == b.shape[-2] is not None, a, b)
    shape = (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    return NodeResult([Tensor(float_type(a, b), shape)], work=shape_size(shape) * axis_size(b.shape, -2))
