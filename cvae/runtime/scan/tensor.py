"""Types and shapes of the tensors in a graph, and checks for shape inference."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Dimension = int | None
"""Size of an axis. None stands for the batch size."""

FLOAT, INT64, BOOL, HALF = 1, 7, 9, 10
"""Element types: TensorProto.DataType of onnx.proto."""

TYPE_NAMES = {FLOAT: "float", INT64: "int64", BOOL: "bool", HALF: "float16"}


class Tensor(NamedTuple):
    """Element type and shape of a tensor and, if it is a short integer vector, its values."""

    type: int
    shape: tuple[Dimension, ...]
    values: tuple[Dimension, ...] | None = None

    def __str__(self) -> str:
        return f"{TYPE_NAMES.get(self.type, self.type)} {describe_shape(self.shape)}"


class NodeResult(NamedTuple):
    """Outputs of a node, and its cost for one image.

    Attributes:
        outputs: computed tensors.
        work: number of multiplications in addition to one per output value.
        scratch: number of temporary values.
    """

    outputs: Sequence[Tensor]
    work: int = 0
    scratch: int = 0


def describe_shape(shape: Sequence[Dimension]) -> str:
    """Return a shape as text for error messages, such as "(batch, 1, 28, 28)"."""
    return f"({', '.join('batch' if size is None else str(size) for size in shape)})"


def shape_size(shape: Sequence[Dimension]) -> int:
    """Return the number of values that a tensor of this shape has for one image."""
    return math.prod(1 if size is None else size for size in shape)


def num_elements(tensor: Tensor) -> int:
    """Return the number of values that a tensor has for one image."""
    return shape_size(tensor.shape)


def require(condition: bool, *tensors: Tensor | None) -> None:
    """Check a condition that the inputs and attributes of a node must meet. The error shows `tensors`.

    Raises:
        ValueError: If the condition is false.
    """
    if not condition:
        shown = ", ".join(str(tensor) for tensor in tensors if tensor is not None)
        raise ValueError(f"its inputs and attributes do not fit together: {shown}")


def float_type(*tensors: Tensor | None) -> int:
    """Return the common float type of the tensors.

    Raises:
        ValueError: If the types differ or are not float types.
    """
    types = {tensor.type for tensor in tensors if tensor is not None}
    require(len(types) == 1 and types <= {FLOAT, HALF}, *tensors)
    return types.pop()


def read_integers(tensor: Tensor | None) -> tuple[Dimension, ...]:
    """Return the values of a vector of integers, in which None stands for the batch size.

    Raises:
        ValueError: If the values are not known before the graph runs.
    """
    if tensor is None or tensor.values is None:
        raise ValueError("it takes a shape or an axis from a tensor that is not constant")
    return tensor.values


def read_constants(tensor: Tensor | None) -> tuple[int, ...]:
    """Return the values of a vector of integers, none of which may be the batch size.

    Raises:
        ValueError: If the values are not known before the graph runs, or the batch size is among them.
    """
    values = read_integers(tensor)
    require(None not in values, tensor)
    return tuple(value for value in values if value is not None)


def normalize_axis(axis: int, shape: Sequence[Dimension]) -> int:
    """Return the index of an axis counted from the front, where a negative `axis` counts from the back.

    Raises:
        ValueError: If the axis does not exist, or is the batch axis, because images must not depend on each other.
    """
    normalized = axis + len(shape) if axis < 0 else axis
    if not 0 <= normalized < len(shape) or shape[normalized] is None:
        raise ValueError(f"axis {axis} of a tensor of shape {describe_shape(shape)} is not allowed")
    return normalized


def axis_size(shape: Sequence[Dimension], axis: int) -> int:
    """Return the size of an axis.

    Raises:
        ValueError: If the axis is the batch axis.
    """
    size = shape[axis]
    if size is None:
        raise ValueError(f"axis {axis} is the batch axis")
    return size


def broadcast(*shapes: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return the shape that the given shapes broadcast to: https://onnx.ai/onnx/repo-docs/Broadcasting.html.

    Raises:
        ValueError: If the shapes do not broadcast.
    """
    rank = max(map(len, shapes))
    result: list[Dimension] = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if size != 1 and result[i] not in (1, size):
                raise ValueError(f"the shapes {', '.join(map(describe_shape, shapes))} do not broadcast")
            result[i] = result[i] if size == 1 else size
    return tuple(result)
