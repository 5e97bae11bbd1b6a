"""Shape inference of operators on images: convolution, pooling, resizing.

Each function takes the attributes of a node, keyed by name, and its input tensors. It raises a ValueError if they do
not fit together. Images have shape (B, C, H, W).
"""

import math
from typing import Any

from cvae.runtime.scan.limits import MAX_WINDOW
from cvae.runtime.scan.tensor import NodeResult, Tensor, axis_size, float_type, read_integers, require, shape_size


def _read_window(attributes: dict[str, Any], x: Tensor, weight: Tensor) -> tuple[list[int], ...]:
    """Check the parameters of a convolution, and return each of them as a pair of values, for height and width.

    Returns:
        Image sizes, kernel sizes, strides, dilations, and the total padding at both ends.
    """
    kernel = [axis_size(weight.shape, axis) for axis in range(2, len(weight.shape))]
    strides, dilations = (list(attributes[name] or (1, 1)) for name in ("strides", "dilations"))
    pads = list(attributes["pads"] or (0, 0, 0, 0))
    require(len(x.shape) == len(weight.shape) == 4 and None not in (*x.shape[1:], *weight.shape), x, weight)
    require(list(attributes["kernel_shape"] or kernel) == kernel, x, weight)
    require(max(kernel) <= MAX_WINDOW and attributes["group"] <= axis_size(weight.shape, 0), x, weight)
    sizes = [axis_size(x.shape, 2), axis_size(x.shape, 3)]
    return sizes, kernel, strides, dilations, [pads[0] + pads[2], pads[1] + pads[3]]


def conv(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> NodeResult:
    sides = []
    for size, kernel, stride, dilation, pad in zip(*_read_window(attributes, x, weight), strict=True):
        sides.append((size + pad - dilation * (kernel - 1) - 1) // stride + 1)
    out_channels, in_channels, group = axis_size(weight.shape, 0), axis_size(weight.shape, 1), attributes["group"]
    require(x.shape[1] == in_channels * group and out_channels % group == 0, x, weight)
    require(bias is None or bias.shape == (out_channels,), weight, bias)
    require(min(sides) > 0, x, weight)
    # onnxruntime may arrange channels in blocks of 16 and pad the last block.
    blocked = shape_size((x.shape[0], -(-out_channels // 16) * 16, *sides))
    shape = (x.shape[0], out_channels, *sides)
    return NodeResult(
        [Tensor(float_type(x, weight, bias), shape)],
        work=shape_size(shape) * shape_size(weight.shape[1:]),
        scratch=blocked - shape_size(shape),
    )


def conv_transpose(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> NodeResult:
    output_padding = attributes["output_padding"] or (0, 0)
    sides = []
    window = zip(*_read_window(attributes, x, weight), output_padding, strict=True)
    for size, kernel, stride, dilation, pad, extra in window:
        require(extra < max(stride, dilation), x, weight)
        sides.append((size - 1) * stride + dilation * (kernel - 1) + 1 + extra - pad)
    in_channels, out_channels, group = axis_size(weight.shape, 0), axis_size(weight.shape, 1), attributes["group"]
    require(x.shape[1] == in_channels and in_channels % group == 0, x, weight)
    require(bias is None or bias.shape == (out_channels * group,), weight, bias)
    require(min(sides) > 0, x, weight)
    # Each position of x is multiplied by the entire kernel. onnxruntime holds all products before it adds them.
    products = shape_size(x.shape[2:]) * out_channels * group * shape_size(weight.shape[2:])
    shape = (x.shape[0], out_channels * group, *sides)
    return NodeResult(
        [Tensor(float_type(x, weight, bias), shape)], work=products * in_channels // group, scratch=products
    )


def max_pool(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    kernel, strides = attributes["kernel_shape"], attributes["strides"] or (1, 1)
    require(attributes["outputs"] == 1 and len(x.shape) == 4 and None not in x.shape[1:], x)
    require(len(kernel) == 2 and all(stride <= side for stride, side in zip(strides, kernel, strict=True)), x)
    sides = []
    for size, side, stride in zip(x.shape[2:], kernel, strides, strict=True):
        span = (size or 0) - side
        sides.append((-(-span // stride) if attributes["ceil_mode"] else span // stride) + 1)
    require(min(sides) > 0, x)
    shape = (*x.shape[:2], *sides)
    return NodeResult([Tensor(float_type(x), shape)], work=shape_size(shape) * math.prod(kernel))


def resize(
    attributes: dict[str, Any],
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> NodeResult:
    shape = read_integers(sizes)
    require(roi is None and scales is None, x, roi, scales)
    require(len(x.shape) == len(shape) == 4 and x.shape[:2] == shape[:2] and None not in shape[2:], x)
    return NodeResult([Tensor(float_type(x), shape)])


def depth_to_space(attributes: dict[str, Any], x: Tensor) -> NodeResult:
    require(len(x.shape) == 4 and None not in x.shape[1:], x)
    block, (batch, channels, height, width) = attributes["blocksize"], x.shape
    require(channels % block**2 == 0, x)
    return NodeResult([Tensor(float_type(x), (batch, channels // block**2, height * block, width * block))])
