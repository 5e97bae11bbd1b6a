"""ONNX graphs: tracing, 16-bit weights and metadata."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from cvae.exporters.onnx.builder import Builder
from cvae.exporters.onnx.operators import OPERATORS
from cvae.exporters.onnx.parity import make_example_inputs
from cvae.exporters.onnx.tracing import SIZES, Untraceable, record
from cvae.exporters.onnx.wrappers import Decoder, Encoder
from cvae.spec import KEY, Spec

OPSET = 20
"""Opset of the files. From opset 21 on, GroupNormalization is one operator; onnxruntime expands it, which is slower."""

MIN_HALVED = 64
"""Minimum number of elements of the weights that `halve` converts. In a smaller weight, a cast takes more bytes than it
saves."""


def to_onnx(module: Decoder | Encoder, spec: Spec) -> onnx.ModelProto:
    """Return the graph of a decoder or an encoder, with a dynamic batch size."""
    return trace(module, make_example_inputs(spec, SIZES[0]), module.outputs)


def trace(module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """Return the graph of a module, with a dynamic batch size and without paths of this machine.

    Args:
        module: module to trace, which is called with keyword arguments.
        inputs: example inputs (B, ...) by name.
        outputs: names of the outputs.
    """
    module.eval()
    try:
        return convert(module, inputs, outputs)
    except Untraceable:
        return trace_with_torch(module, inputs, outputs)


def convert(module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """Return the graph of a module, converted from a recording of its operators.

    Raises:
        Untraceable: If the module can't be recorded, or `OPERATORS` has no conversion for one of its operators.
    """
    recording = record(module, inputs)
    builder = Builder(module, inputs)
    for call in recording.calls:
        if call.operator not in OPERATORS:
            raise Untraceable(f"there is no conversion for {call.operator}")
        builder.set_outputs(call, OPERATORS[call.operator](builder, *map(builder.argument, call.arguments)))
    return builder.build(dict(zip(outputs, recording.outputs, strict=True)), OPSET)


def trace_with_torch(module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """Return the graph of a module from `torch.onnx`, which knows many more operators, but takes seconds."""
    batch = torch.export.Dim("batch", min=1)
    with _silence_torch():
        program = torch.onnx.export(
            module,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: {0: batch} for name in inputs},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns a program
    graph = program.model_proto
    inner = graph.graph
    for proto in (graph, inner, *inner.node, *inner.input, *inner.output, *inner.initializer):
        proto.doc_string = ""
        del proto.metadata_props[:]  # stack traces, with the paths of this machine
    del graph.graph.value_info[:]
    graph.producer_version = ""
    return graph


def halve(graph: onnx.ModelProto) -> None:
    """Store the weights of a graph as float16, in place.

    onnxruntime casts the weights to float32 when it loads the file, so inference is as fast as with float32 weights.
    """
    casts = []
    for weight in graph.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and math.prod(weight.dims) >= MIN_HALVED:
            name, values = weight.name, onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def set_metadata(graph: onnx.ModelProto, spec: Spec) -> None:
    """Write the spec into the metadata of a graph."""
    graph.producer_name = spec.producer
    graph.graph.name = spec.role
    onnx.helper.set_model_props(graph, {KEY: spec.to_json()})


@contextmanager
def _silence_torch() -> Iterator[None]:
    """Hide the deprecation warnings and log messages of `torch.onnx`, which do not help the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
