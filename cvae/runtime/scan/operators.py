"""Operators found in exported files, with the allowed values of their attributes."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cvae.runtime.scan import image_ops, layout_ops, math_ops
from cvae.runtime.scan.limits import MAX_EDGES, MAX_RANK, MAX_WINDOW
from cvae.runtime.scan.tensor import FLOAT, HALF, NodeResult


@dataclass(frozen=True)
class Floats:
    """Set of the floats from `minimum` to `maximum`, without NaN."""

    minimum: float
    maximum: float

    def __contains__(self, value: Any) -> bool:
        return self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class Ints:
    """Set of integer tuples: the length is in `lengths`, and all items are in `values`."""

    lengths: Container[int]
    values: Container[int]

    def __contains__(self, ints: Any) -> bool:
        return len(ints) in self.lengths and all(value in self.values for value in ints)


class Attribute(NamedTuple):
    """Default and allowed values of an attribute.

    Any other value is rejected, because onnxruntime could interpret it differently from the scan.
    """

    default: Any
    allowed: Container[Any]


class Operator(NamedTuple):
    """Rules for the nodes of an operator.

    Attributes:
        infer: function that infers the outputs from the attributes, keyed by name, and the inputs.
        inputs: minimum and maximum number of inputs.
        attributes: default and allowed values of each attribute.
    """

    infer: Callable[..., NodeResult]
    inputs: tuple[int, int] = (1, 1)
    attributes: Mapping[str, Attribute] = {}


FINITE = Floats(-3.0e38, 3.0e38)
FLAG = (0, 1)
AXIS = range(-MAX_RANK, MAX_RANK)
SIDE = range(1, MAX_WINDOW + 1)
PAIR, QUADRUPLE = (0, 2), (0, 4)
"""Allowed lengths of a list of values for height and width: 0 (no list), 2 (one per axis) or 4 (two per axis)."""

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
    **{name: Operator(math_ops.elementwise) for name in ("Exp", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh")},
    **{name: Operator(math_ops.elementwise, (2, 2)) for name in ("Add", "Div", "Mul", "Sub")},
    "Cast": Operator(math_ops.cast, attributes={"saturate": Attribute(1, (1,)), "to": Attribute(0, (FLOAT, HALF))}),
    "Clip": Operator(math_ops.clip, (1, 3)),
    "Concat": Operator(layout_ops.concat, (1, MAX_EDGES), {"axis": Attribute(0, AXIS)}),
    "ConstantOfShape": Operator(layout_ops.constant_of_shape),
    "Conv": Operator(image_ops.conv, (2, 3), WINDOW),
    "ConvTranspose": Operator(
        image_ops.conv_transpose,
        (2, 3),
        WINDOW
        | {
            "output_padding": Attribute((), Ints(PAIR, range(MAX_WINDOW))),
            "output_shape": Attribute((), Ints((0,), ())),
        },
    ),
    "DepthToSpace": Operator(
        image_ops.depth_to_space, attributes={"blocksize": Attribute(0, SIDE), "mode": Attribute("DCR", ("DCR", "CRD"))}
    ),
    "Expand": Operator(layout_ops.expand, (2, 2)),
    "Gather": Operator(layout_ops.gather, (2, 2), {"axis": Attribute(0, AXIS)}),
    "Gelu": Operator(math_ops.elementwise, attributes={"approximate": Attribute("none", ("none", "tanh"))}),
    "Gemm": Operator(
        math_ops.gemm,
        (2, 3),
        {
            "alpha": Attribute(1.0, FINITE),
            "beta": Attribute(1.0, FINITE),
            "transA": Attribute(0, (0,)),
            "transB": Attribute(0, FLAG),
        },
    ),
    "Greater": Operator(math_ops.compare, (2, 2)),
    "LayerNormalization": Operator(
        math_ops.layer_norm,
        (2, 3),
        {"axis": Attribute(-1, AXIS), "epsilon": Attribute(1e-5, Floats(0.0, 1.0)), "stash_type": Attribute(1, (1,))},
    ),
    "LeakyRelu": Operator(math_ops.elementwise, attributes={"alpha": Attribute(0.01, FINITE)}),
    "LogSoftmax": Operator(math_ops.log_softmax, attributes={"axis": Attribute(-1, AXIS)}),
    "MatMul": Operator(math_ops.matmul, (2, 2)),
    "MaxPool": Operator(image_ops.max_pool, attributes=POOL),
    "Pad": Operator(layout_ops.pad, (2, 3), {"mode": Attribute("constant", ("constant",))}),
    "ReduceSum": Operator(
        math_ops.reduce_sum, (2, 2), {"keepdims": Attribute(1, FLAG), "noop_with_empty_axes": Attribute(0, FLAG)}
    ),
    "Reshape": Operator(layout_ops.reshape, (2, 2), {"allowzero": Attribute(0, FLAG)}),
    "Resize": Operator(image_ops.resize, (1, 4), RESIZE),
    "Shape": Operator(
        layout_ops.shape_of,
        attributes={"start": Attribute(0, AXIS), "end": Attribute(MAX_RANK, range(-MAX_RANK, MAX_RANK + 1))},
    ),
    "Slice": Operator(layout_ops.slice_, (5, 5)),
    "Split": Operator(
        layout_ops.split, (1, 2), {"axis": Attribute(0, AXIS), "num_outputs": Attribute(0, range(MAX_EDGES))}
    ),
    "Transpose": Operator(
        layout_ops.transpose, attributes={"perm": Attribute((), Ints(range(MAX_RANK + 1), range(MAX_RANK)))}
    ),
    "Unsqueeze": Operator(layout_ops.unsqueeze, (2, 2)),
    "Where": Operator(math_ops.where, (3, 3)),
}
"""All operators in the exported models of the built-in parts and of the plug-in under examples/."""
