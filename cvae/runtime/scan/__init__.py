"""Scanner of untrusted ONNX files: checks what a file contains and costs before onnxruntime sees it.

The ONNX checker is not a sandbox: a file of a hundred bytes can pass it and then allocate gigabytes. The scan accepts
only what exports of cvae contain. It walks the graph once and derives the shape of every tensor from the inputs and
the weights; shapes that the file declares are compared with these, never believed. The batch size stays unknown and is
always the first axis, so the scan knows the cost of one image, and a batch costs that many times more.

The scan imports neither torch nor onnxruntime. It is fast because it reads names, shapes and attributes, not weights.

Modules:
    graph: walks the graph; `scan` is here.
    limits: how large a file, its tensors and its work may be.
    protobuf: reads the protobuf wire format.
    schema: reads the messages of onnx.proto.
    tensor: the types and shapes of tensors.
    operators: the supported operators, with the allowed values of their attributes.
    math_ops, image_ops, layout_ops: shape inference of these operators.
"""

from cvae.runtime.scan.graph import scan, signature

__all__ = ["scan", "signature"]
