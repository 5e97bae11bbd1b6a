"""ONNX graph under construction."""

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor, nn

from cvae.exporters.onnx.tracing import BatchMultiple, Call, Constant, Untraceable

IR_VERSION = 10
"""Version of the file format."""

TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(bool): TensorProto.BOOL,
}


class Value(NamedTuple):
    """Value in a graph: its name, and its shape with the batch size of the recording."""

    name: str
    shape: tuple[int, ...]


class Builder:
    """ONNX graph under construction.

    Args:
        module: module whose weights the graph contains.
        inputs: example inputs (B, ...) of the recording, by name.
    """

    def __init__(self, module: nn.Module, inputs: dict[str, Tensor]) -> None:
        self.inputs = inputs
        self.nodes: list[NodeProto] = []
        self.producers: dict[str, NodeProto] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.constants: dict[tuple[Any, ...], str] = {}
        self.outputs: dict[tuple[Any, ...], list[str]] = {}  # by the operator, inputs and attributes of the node
        self.values: dict[int, Value] = {}  # by the id of the tensor
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            self.arrays[name] = tensor.detach().numpy()
            self.values[id(tensor)] = Value(name, tuple(tensor.shape))
        for name, tensor in inputs.items():
            self.values[id(tensor)] = Value(name, tuple(tensor.shape))

    def set_outputs(self, call: Call, names: list[str]) -> None:
        """Name the outputs of a call."""
        for name, tensor in zip(names, call.outputs, strict=False):  # a conversion may leave out unused outputs
            self.values[id(tensor)] = Value(name, tuple(tensor.shape))

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node, and return the names of its outputs. Equal nodes are stored once."""
        key = operator, inputs, outputs, repr(sorted(attributes.items()))
        if key in self.outputs:
            return self.outputs[key]
        stem = f"{operator.lower()}_{len(self.nodes)}"
        names = [f"{stem}_{i}" for i in range(outputs)] if outputs > 1 else [stem]
        node = helper.make_node(operator, inputs, names, name=f"node_{stem}", **attributes)
        self.nodes.append(node)
        self.producers |= dict.fromkeys(names, node)
        self.outputs[key] = names
        return names

    def constant(self, value: Any) -> str:
        """Store a constant as float32 or int64, and return its name. Equal constants are stored once."""
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = f"constant_{len(self.constants)}"
            self.arrays[self.constants[key]] = array
        return self.constants[key]

    def shape(self, sizes: list[int | BatchMultiple]) -> str:
        """Add a shape, and return its name. Only the first size may be the batch size."""
        rest = sizes[1:] if sizes[0] == BatchMultiple(1) else sizes
        if any(isinstance(size, BatchMultiple) for size in rest):
            raise Untraceable(f"the batch size is not the first size of a shape: {sizes}")
        if len(rest) == len(sizes):
            return self.constant(sizes)
        batch = self.add("Shape", next(iter(self.inputs)), start=0, end=1)
        return self.add("Concat", *batch, self.constant(rest), axis=0)[0]

    def argument(self, argument: Any) -> Any:
        """Return an argument of a call, with each tensor replaced by its `Value`."""
        if isinstance(argument, Tensor):
            if id(argument) not in self.values:
                raise Untraceable("the module uses an output of an operator, but the conversion leaves out this output")
            return self.values[id(argument)]
        if isinstance(argument, Constant):
            return self._add_constant(*(tensor.numpy() for tensor in argument))
        return [self.argument(item) for item in argument] if isinstance(argument, list) else argument

    def _add_constant(self, first: np.ndarray, second: np.ndarray) -> Value:
        """Add a constant tensor. If it has one row for each image, all rows must be equal."""
        if first.shape == second.shape and np.array_equal(first, second):
            return Value(self.constant(first), first.shape)
        if first.ndim == 0 or first.shape[1:] != second.shape[1:] or np.ptp([*first, *second], axis=0).any():
            raise Untraceable("a constant depends on the batch size")
        shape = self.shape([BatchMultiple(1), *first.shape[1:]])
        return Value(self.add("Expand", self.constant(first[:1]), shape)[0], first.shape)

    def build(self, outputs: dict[str, Tensor], opset: int) -> onnx.ModelProto:
        """Return the model, without nodes and initializers that no output depends on.

        Args:
            outputs: outputs of the recording, by name.
            opset: version of the operator set.
        """
        names = {self.values[id(tensor)].name: name for name, tensor in outputs.items()}
        if len(names) < len(outputs) or not names.keys() <= self.producers.keys():
            raise Untraceable("an output is an input, a weight or another output")
        used, nodes = set(names), list[NodeProto]()
        for node in reversed(self.nodes):
            if not used.isdisjoint(node.output):
                nodes.insert(0, node)
                used.update(node.input)
        for node in nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        weights = [numpy_helper.from_array(array, name) for name, array in self.arrays.items() if name in used]
        graph = helper.make_graph(nodes, "graph", _describe(self.inputs), _describe(outputs), weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)


def _describe(tensors: dict[str, Tensor]) -> list[ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, TYPES[tensor.numpy().dtype], ["batch", *tensor.shape[1:]])
        for name, tensor in tensors.items()
    ]
