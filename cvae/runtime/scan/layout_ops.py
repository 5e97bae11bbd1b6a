"""Shape inference of operators that rearrange, select or repeat values, or that compute with shapes.

Each function takes the attributes of a node, by name, and its input tensors. It raises a ValueError if they do not fit
together.
"""

from typing import Any

from cvae.runtime.scan.limits import MAX_RANK
from cvae.runtime.scan.tensor import (
    FLOAT,
    INT64,
    Dimension,
    NodeResult,
    Tensor,
    axis_size,
    broadcast,
    float_type,
    normalize_axis,
    num_elements,
    read_constants,
    read_integers,
    require,
    shape_size,
)


def reshape(attributes: dict[str, Any], x: Tensor, target: Tensor) -> NodeResult:
    shape = list(read_integers(target))
    if -1 in shape:  # infer the size of this axis, or make it the batch axis if no other axis is
        axis = shape.index(-1)
        shape[axis] = 1
        rest = shape_size(shape)
        require(rest > 0 and num_elements(x) % rest == 0, x, target)
        shape[axis] = num_elements(x) // rest
        if None in x.shape and None not in shape:
            require(shape[axis] == 1, x, target)
            shape[axis] = None
    require(shape_size(shape) == num_elements(x) and (None in shape) == (None in x.shape), x, target)
    return NodeResult([Tensor(float_type(x), tuple(shape))])


def transpose(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    order = attributes["perm"]
    require(sorted(order) == list(range(len(x.shape))), x)
    return NodeResult([Tensor(float_type(x), tuple(x.shape[axis] for axis in order))])


def unsqueeze(attributes: dict[str, Any], x: Tensor, axes: Tensor) -> NodeResult:
    (axis,) = read_constants(axes)[:1] or (0,)
    require(axes.shape in ((), (1,)) and 0 <= axis <= len(x.shape), x, axes)
    return NodeResult([Tensor(float_type(x), (*x.shape[:axis], 1, *x.shape[axis:]))])


def concat(attributes: dict[str, Any], *inputs: Tensor | None) -> NodeResult:
    tensors = [tensor for tensor in inputs if tensor is not None]
    require(len(tensors) == len(inputs), *tensors[:2])
    first, axis = tensors[0], attributes["axis"]
    if all(tensor.values is not None and len(tensor.shape) == 1 for tensor in tensors) and axis == 0:
        # The result is a shape. Its length is limited because nested concatenations of vectors grow exponentially.
        require(sum(map(num_elements, tensors)) <= 2 * MAX_RANK, *tensors[:2])
        values = tuple(value for tensor in tensors for value in read_integers(tensor))
        return NodeResult([Tensor(INT64, (len(values),), values)])
    axis = normalize_axis(axis, first.shape)
    for tensor in tensors:
        matches = len(tensor.shape) == len(first.shape) and all(
            a == b for i, (a, b) in enumerate(zip(tensor.shape, first.shape, strict=True)) if i != axis
        )
        require(matches, *tensors)
    length = sum(axis_size(tensor.shape, axis) for tensor in tensors)
    return NodeResult([Tensor(float_type(*tensors), (*first.shape[:axis], length, *first.shape[axis + 1 :]))])


def split(attributes: dict[str, Any], x: Tensor, sizes: Tensor | None = None) -> NodeResult:
    axis, num_outputs = normalize_axis(attributes["axis"], x.shape), attributes["outputs"]
    length = axis_size(x.shape, axis)
    if sizes is None:
        require(attributes["num_outputs"] == num_outputs and length % num_outputs == 0, x)
        lengths: tuple[int, ...] = (length // num_outputs,) * num_outputs
    else:
        lengths = read_constants(sizes)
        require(attributes["num_outputs"] == 0, x, sizes)
    require(len(lengths) == num_outputs and sum(lengths) == length and min(lengths, default=0) > 0, x, sizes)
    return NodeResult([Tensor(float_type(x), (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in lengths])


def slice_(
    attributes: dict[str, Any], x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor
) -> NodeResult:
    shape: list[Dimension] = list(x.shape)
    bounds = [read_constants(tensor) for tensor in (starts, ends, axes, steps)]
    require(len({len(values) for values in bounds}) == 1, starts, ends, axes, steps)
    for start, end, axis, step in zip(*bounds, strict=True):
        index = normalize_axis(axis, x.shape)
        require(step == 1, x)
        shape[index] = len(range(*slice(start, end).indices(axis_size(x.shape, index))))
    require(len(set(bounds[2])) == len(bounds[2]), x)
    return NodeResult([Tensor(float_type(x), tuple(shape))])


def gather(attributes: dict[str, Any], x: Tensor, indices: Tensor) -> NodeResult:
    """Infer the shape of a lookup: a table row per label, or constant indices along any axis but the batch axis."""
    axis = normalize_axis(attributes["axis"], x.shape)
    if indices == Tensor(INT64, (None,)):  # the label is the only tensor of this type and shape
        require(axis == 0 and None not in x.shape, x)
        if x.shape[0] not in (attributes["classes"], attributes["classes"] + 1):  # the last row may be "any label"
            raise ValueError(f"it contradicts its own spec, which has {attributes['classes']} classes: {x}")
    else:
        length = axis_size(x.shape, axis)
        require(all(-length <= index < length for index in read_constants(indices)), x, indices)
    return NodeResult([Tensor(float_type(x), (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))])


def pad(attributes: dict[str, Any], x: Tensor, pads: Tensor, value: Tensor | None = None) -> NodeResult:
    amounts, rank = read_constants(pads), len(x.shape)
    require(len(amounts) == 2 * rank and min(amounts, default=0) >= 0, x, pads)
    require(value is None or value.shape == (), value)
    shape: list[Dimension] = []
    for size, before, after in zip(x.shape, amounts[:rank], amounts[rank:], strict=True):
        require(size is not None or before == after == 0, x)
        shape.append(None if size is None else size + before + after)
    return NodeResult([Tensor(float_type(x, value), tuple(shape))])


def shape_of(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    values = x.shape[attributes["start"] : attributes["end"]]
    return NodeResult([Tensor(INT64, (len(values),), values)])


def expand(attributes: dict[str, Any], x: Tensor, target: Tensor) -> NodeResult:
    return NodeResult([Tensor(float_type(x), broadcast(x.shape, read_integers(target)))])


def constant_of_shape(attributes: dict[str, Any], target: Tensor) -> NodeResult:
    return NodeResult([Tensor(FLOAT, read_integers(target))])
