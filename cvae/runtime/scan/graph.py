"""Scan of an ONNX graph: it checks every node, infers all types and shapes, and adds up the cost of one image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cvae.conditions import graph_inputs
from cvae.errors import CvaeError, one_line
from cvae.runtime.scan import limits
from cvae.runtime.scan.operators import OPERATORS, Operator
from cvae.runtime.scan.protobuf import parse_message
from cvae.runtime.scan.schema import (
    ENTRY,
    GRAPH,
    MODEL,
    NODE,
    OPSET,
    read_attribute,
    read_string,
    read_strings,
    read_value_info,
    read_weight,
)
from cvae.runtime.scan.tensor import BOOL, FLOAT, INT64, NodeResult, Tensor, num_elements
from cvae.spec import KEY, Spec


class Cost(NamedTuple):
    """Upper bounds on what the graph takes for one image.

    Attributes:
        elements: number of values in all tensors.
        work: number of multiplications, comparisons and values.
    """

    elements: int
    work: int


def scan(model: bytes, spec: Spec, source: str) -> Cost:
    """Check an exported file before onnxruntime loads it.

    Args:
        model: the content of the file.
        spec: the spec from its metadata.
        source: name of the file in error messages.

    Returns:
        Upper bounds on the cost of one image.

    Raises:
        CvaeError: If the file has content that cvae never exports, costs too much, or contradicts its spec.
    """
    try:
        return infer(model, spec)[0]
    except ValueError as error:
        raise CvaeError(f"{source!r} was rejected: {one_line(error)}") from error


def signature(spec: Spec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the inputs and the outputs that a file with this spec must have, by name."""
    noise, image = Tensor(FLOAT, (None, spec.latent_dim)), Tensor(FLOAT, (None, *spec.image_shape))
    types = {"float32": FLOAT, "int64": INT64, "bool": BOOL}
    conditions = {
        name: Tensor(types[dtype], (None,) if columns is None else (None, columns))
        for name, (dtype, columns) in graph_inputs(spec.conditions).items()
    }
    if spec.role == "decoder":
        return {"noise": noise, **conditions}, {"image": image}
    return {"image": image, **conditions}, {"mean": noise, "std": noise}


def infer(data: bytes, spec: Spec) -> tuple[Cost, dict[str, Tensor]]:
    """Infer the types and shapes of all tensors of a graph.

    Returns:
        The bounds that `scan` returns, and all tensors by name.

    Raises:
        ValueError: If `scan` would reject the file.
    """
    if data[4:8] == b"ORTM":  # onnxruntime takes such a file for its own format, even if it is a protobuf message too
        raise ValueError("it is in the internal format of onnxruntime, not in ONNX format")
    if math.prod(spec.image_shape) > limits.MAX_IMAGE:
        raise ValueError(f"an image of shape {spec.image_shape} has more than {limits.MAX_IMAGE} values")
    graph = _read_graph(data)
    nodes, weights = graph.get("node", ()), graph.get("initializer", ())
    if len(nodes) > limits.MAX_NODES:
        raise ValueError(f"it has {len(nodes)} nodes, more than {limits.MAX_NODES}")
    if len(weights) > limits.MAX_WEIGHTS:
        raise ValueError(f"it has {len(weights)} weights, more than {limits.MAX_WEIGHTS}")

    inputs, outputs = signature(spec)
    for field, expected in (("input", inputs), ("output", outputs)):
        actual = [read_value_info(value) for value in graph.get(field, ())]
        if dict(actual) != expected or len(actual) != len(expected):
            description = ", ".join(f"{name!r} {tensor}" for name, tensor in actual)
            raise ValueError(f"it contradicts its own spec: its {field}s are {description or 'missing'}")
    tensors = dict(inputs)
    for weight in weights:
        _add_tensor(tensors, *read_weight(weight))
    cost = _infer_nodes(nodes, tensors, spec, weights=sum(map(num_elements, tensors.values())))
    for name, tensor in outputs.items():
        if tensors.get(name) != tensor:
            raise ValueError(f"it contradicts its own spec: its output {name!r} is {tensors.get(name, 'missing')}")
    return cost, tensors


def _read_graph(data: bytes) -> dict[str, Any]:
    """Check all fields of a model message except its graph, and return the fields of the graph."""
    model = parse_message(memoryview(data), MODEL, limits.MAX_FIELDS)
    if not 8 <= model.get("ir_version", 0) <= 13:
        raise ValueError(f"its ir_version is {model.get('ir_version')}; exported files have version 10")
    opsets = [parse_message(opset, OPSET) for opset in model.get("opset_import", ())]
    if [(read_string(opset, "domain"), 18 <= opset.get("version", 0) <= 20) for opset in opsets] != [("", True)]:
        raise ValueError("it imports operators other than the standard operators of opset 18 to 20")
    keys = [read_string(parse_message(entry, ENTRY), "key") for entry in model.get("metadata_props", ())]
    if keys != [KEY]:
        raise ValueError(f"its metadata has the keys {keys}; exported files have the keys {[KEY]}")
    if "graph" not in model:
        raise ValueError("it has no graph")
    return parse_message(model["graph"], GRAPH, limits.MAX_NODES + limits.MAX_WEIGHTS + limits.MAX_FIELDS)


def _infer_nodes(nodes: Sequence[memoryview], tensors: dict[str, Tensor], spec: Spec, weights: int) -> Cost:
    """Add the outputs of all nodes to `tensors`, and return the cost of one image."""
    pixels = math.prod(spec.image_shape[1:])
    max_elements = min(limits.BASE_ELEMENTS + limits.ELEMENTS_PER_PIXEL * pixels, limits.MAX_ELEMENTS)
    max_work = min(limits.BASE_WORK + limits.WORK_PER_WEIGHT * weights * pixels, limits.MAX_WORK)
    elements = work = edges = 0
    for message in nodes:
        node = parse_message(message, NODE, limits.MAX_EDGES)
        edges += len(node.get("input", ())) + len(node.get("output", ()))
        if edges > limits.MAX_ALL_EDGES:
            raise ValueError(f"its nodes have more than {limits.MAX_ALL_EDGES} inputs and outputs")
        operator = ".".join(filter(None, (read_string(node, "domain"), read_string(node, "op_type"))))
        if operator not in OPERATORS:
            raise ValueError(f"its operator {operator!r} does not occur in exported files")
        name = read_string(node, "name")
        try:
            result = _infer_node(node, OPERATORS[operator], tensors, spec)
            outputs = read_strings(node, "output")
            if len(outputs) != len(result.outputs):
                raise ValueError(f"it has the outputs {outputs}, but must have {len(result.outputs)}")
            for output, tensor in zip(outputs, result.outputs, strict=True):
                _add_tensor(tensors, output, tensor)
        except ValueError as error:
            raise ValueError(f"its {operator} node {name!r} is not valid: {error}") from None
        node_elements = result.scratch + sum(map(num_elements, result.outputs))
        elements += node_elements
        work += node_elements + result.work
        if elements > max_elements or work > max_work:
            raise ValueError(
                f"it costs too much for images of shape {spec.image_shape}: {elements} values and {work} "
                f"multiplications per image up to its {operator} node {name!r}"
            )
    return Cost(elements, work)


def _infer_node(node: Mapping[str, Any], operator: Operator, tensors: Mapping[str, Tensor], spec: Spec) -> NodeResult:
    """Check the inputs and attributes of a node, and return its outputs and cost."""
    names = read_strings(node, "input")
    if unknown := [name for name in names if name and name not in tensors]:
        raise ValueError(f"its input {unknown[0]!r} is not computed before it")
    inputs = [tensors[name] if name else None for name in names]
    min_inputs, max_inputs = operator.inputs
    if not min_inputs <= len(inputs) <= max_inputs or None in inputs[:min_inputs]:
        raise ValueError(f"it has the inputs {names}, but must have {min_inputs} to {max_inputs}")
    values: dict[str, Any] = {}
    for message in node.get("attribute", ()):
        name, value = read_attribute(message)
        if name not in operator.attributes:
            raise ValueError(f"its attribute {name!r} does not occur in exported files")
        if name in values:
            raise ValueError(f"it has the attribute {name!r} twice")
        values[name] = value
    for name, attribute in operator.attributes.items():
        value = values.setdefault(name, attribute.default)
        if type(value) is not type(attribute.default) or value not in attribute.allowed:
            raise ValueError(f"its attribute {name!r} is {value!r}, which does not occur in exported files")
    values |= {"outputs": len(node.get("output", ())), "classes": len(spec.classes or ())}
    return operator.infer(values, *inputs)


def _add_tensor(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    """Add a tensor, whose first axis may be the batch.

    Raises:
        ValueError: If the name is empty or already used, or the shape is not valid.
    """
    if not name or name in tensors:
        raise ValueError(f"the name {name!r} is empty or used twice")
    shape = tensor.shape
    if len(shape) > limits.MAX_RANK or None in shape[1:] or not all(size is None or size > 0 for size in shape):
        raise ValueError(f"the shape of {name!r} is not valid: {tensor}")
    tensors[name] = tensor
