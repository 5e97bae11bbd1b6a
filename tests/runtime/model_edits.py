"""Registry of edits that make an exported decoder hostile, and helpers to edit a model."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Edit = Callable[[onnx.ModelProto], bytes | None]
"""Function that either changes a model in place and returns None, or returns the bytes of a changed file."""

EDITS: dict[str, Edit] = {}
"""Edits by name. They expect the decoder of a conditional model for 8x8-pixel digits."""


def register(edit: Edit) -> Edit:
    EDITS[edit.__name__] = edit
    return edit


def append_nodes(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: Any) -> None:
    """Append nodes that compute a new "image"; the model's own image is renamed to "before"."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == "image" else name for name in node.output]
    model.graph.initializer.extend(constant(name, value) for name, value in constants.items())
    model.graph.node.extend(nodes)


def constant(name: str, value: Any) -> TensorProto:
    array = np.asarray(value)
    return numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)


def node(op: str, inputs: str, outputs: str = "image", **attributes: Any) -> onnx.NodeProto:
    """Return a node. The names in `inputs` and `outputs` are separated by spaces, and "-" stands for an empty name."""
    return helper.make_node(op, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def change_spec(model: onnx.ModelProto, **changes: Any) -> None:
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), **changes})


def largest_weight(model: onnx.ModelProto) -> TensorProto:
    return max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
