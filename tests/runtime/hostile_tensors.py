"""Edits that give an exported decoder invalid weights, inputs or outputs."""

import struct
from typing import Any

import numpy as np
import onnx
from model_edits import EDITS, append_nodes, largest_weight, node, register
from onnx import TensorProto, helper, numpy_helper

# -- weights -----------------------------------------------------------------------------------------------------------


def reshape_weight(name: str, *dims: int) -> None:
    """Register an edit that declares the shape `dims` for the largest weight."""

    def edit(model: onnx.ModelProto) -> None:
        largest_weight(model).dims[:] = dims

    EDITS[name] = edit


reshape_weight("negative_dimension", -1, -8)
reshape_weight("zero_by_huge_dimension", 2**62, 0)
reshape_weight("huge_dimension", 2**62)
reshape_weight("overflowing_product", 2**32, 2**32, 1)
reshape_weight("without_dimensions")
reshape_weight("many_dimensions", *[1] * 500)


@register
def data_longer_than_its_shape(model):
    largest_weight(model).raw_data += b"\0" * 4


@register
def data_shorter_than_its_shape(model):
    largest_weight(model).raw_data = largest_weight(model).raw_data[4:]


@register
def data_in_another_field(model):
    tensor = largest_weight(model)
    values = numpy_helper.to_array(tensor).ravel().tolist()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values)


for _type in (0, TensorProto.DOUBLE, TensorProto.STRING, TensorProto.INT8, TensorProto.INT64, 99, 2**31 - 1):

    def _edit_type(model: onnx.ModelProto, type: int = _type) -> None:
        largest_weight(model).data_type = type

    EDITS[f"weights_of_type_{_type}"] = _edit_type

for _value in ("nan", "inf", "-inf"):

    def _edit_value(model: onnx.ModelProto, value: str = _value) -> None:
        tensor = largest_weight(model)
        tensor.raw_data = struct.pack("<f", float(value)) * (len(tensor.raw_data) // 4)

    EDITS[f"weights_{_value}"] = _edit_value


@register
def one_weight_of_half_precision(model):
    tensor = largest_weight(model)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


# -- inputs and outputs ------------------------------------------------------------------------------------------------


def declare(name: str, field: str, index: int, type: int, shape: list[Any]) -> None:
    """Register an edit that declares another type and shape for an input or output of the graph."""

    def edit(model: onnx.ModelProto) -> None:
        value = getattr(model.graph, field)[index]
        value.CopyFrom(helper.make_tensor_value_info(value.name, type, shape))

    EDITS[name] = edit


declare("noise_of_doubles", "input", 0, TensorProto.DOUBLE, ["batch", 8])
declare("noise_of_strings", "input", 0, TensorProto.STRING, ["batch", 8])
declare("noise_of_rank_3", "input", 0, TensorProto.FLOAT, ["batch", 8, 1])
declare("noise_with_a_fixed_batch", "input", 0, TensorProto.FLOAT, [1, 8])
declare("noise_of_dynamic_size", "input", 0, TensorProto.FLOAT, ["batch", "size"])
declare("labels_of_int32", "input", 1, TensorProto.INT32, ["batch"])
declare("labels_of_rank_2", "input", 1, TensorProto.INT64, ["batch", 1])
declare("images_of_doubles", "output", 0, TensorProto.DOUBLE, ["batch", 1, 8, 8])
declare("images_of_bytes", "output", 0, TensorProto.UINT8, ["batch", 1, 8, 8])
declare("images_of_rank_3", "output", 0, TensorProto.FLOAT, ["batch", 8, 8])
declare("images_declared_smaller", "output", 0, TensorProto.FLOAT, ["batch", 1, 4, 4])


@register
def images_larger_than_declared(model):
    append_nodes(model, node("Concat", "before before", axis=2))


@register
def images_summed_over_the_batch(model):
    append_nodes(model, node("ReduceSum", "before batch", keepdims=1), batch=[0])


@register
def additional_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 8]))


@register
def additional_output(model):
    model.graph.output.append(helper.make_tensor_value_info("before", TensorProto.FLOAT, ["batch", 1, 8, 8]))
    append_nodes(model, node("Neg", "before"))


@register
def missing_inputs(model):
    del model.graph.input[:]


@register
def sequence_as_input(model):
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(model.graph.input[0].type))
