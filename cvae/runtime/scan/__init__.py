"""Scanner that checks the content and the cost of an untrusted ONNX file before onnxruntime loads it.

The ONNX checker is not a sandbox: a file of a hundred bytes can pass it and then allocate gigabytes. The scan accepts
only what files exported by cvae contain. It walks the graph once and derives the shape of every tensor from the inputs
and the weights; shapes that the file declares are compared with the derived ones, never trusted. The first
axis is always the batch, whose size stays unknown. The scan therefore computes the cost of one image; the cost of a
batch is proportional to its size.

The scan imports neither torch nor onnxruntime. It is fast because it reads names, shapes and attributes, not weights.

Modules:
    graph: `scan`, the walk over the graph.
    limits: limits on the size of a file, its tensors and its computation.
    protobuf: reader of the protobuf wire format.
    schema: schemas and readers of the messages of onnx.proto.
    tensor: types and shapes of tensors.
    skeleton: `remove_weights`, for a check by onnxruntime in little memory.
    operators: supported operators, with the allowed values of their attributes.
    math_ops, image_ops, layout_ops: shape inference of the operators.
"""

from cvae.runtime.scan.graph import Cost, scan, signature
from cvae.runtime.scan.skeleton import remove_weights

__all__ = ["Cost", "remove_weights", "scan", "signature"]
