"""Recording of the operators that a module calls, and of the arguments that depend on the batch size.

`torch.export` finds these arguments with symbolic shapes, which takes seconds. Here the module runs twice, with two
batch sizes: an integer that differs between the runs is a multiple of the batch size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

SIZES = (2, 3)
"""Batch sizes of the two runs."""


class Untraceable(Exception):
    """Error for a module that can't be exported from a recording of its operators."""


class BatchMultiple(NamedTuple):
    """Integer that is `factor` times the batch size."""

    factor: int


class Constant(NamedTuple):
    """Values in the two runs of a tensor that no recorded operator has returned.

    The tensor may have one row for each image.
    """

    first: Tensor
    second: Tensor


class Call(NamedTuple):
    """Call of an operator.

    Attributes:
        operator: name of the operator, such as "aten.add.Tensor".
        arguments: all arguments in the order of the operator's schema, with defaults. An input, parameter, buffer or
            output of another call is the tensor of the first run; any other tensor is a `Constant`.
        outputs: output tensors of the first run.
    """

    operator: str
    arguments: list[Any]
    outputs: list[Tensor]


class Recording(NamedTuple):
    """Outputs of a module in the first run, and the calls on which they depend, in order."""

    calls: list[Call]
    outputs: list[Tensor]


CREATION = {"aten.zeros_like.default", "aten.new_zeros.default", "aten.zeros.default", "aten.lift_fresh.default"}
"""Operators that create constants. They are not recorded: their outputs become constants."""


def record(module: nn.Module, inputs: dict[str, Tensor]) -> Recording:
    """Record the operators that a module calls.

    Args:
        module: module to record, which is called with keyword arguments and returns a tensor or a tuple of tensors.
        inputs: inputs (B, ...) by name, with B = `SIZES[0]`.

    Raises:
        Untraceable: If the two runs differ in anything but multiples of the batch size.
    """
    larger = {name: torch.cat([value, value[: SIZES[1] - SIZES[0]]]) for name, value in inputs.items()}
    runs = [_Recorder(), _Recorder()]
    results = []
    for run, batch in zip(runs, (inputs, larger), strict=True):
        # In inference_mode, composite operators such as `linear` would not be decomposed.
        with torch.no_grad(), run:
            results.append(_tensors(module(**batch)))
    first, second = (run.calls for run in runs)
    if [call.operator for call in first] != [call.operator for call in second]:
        raise Untraceable("the operators depend on the batch size")
    needed = {id(tensor) for tensor in results[0]}
    known = {id(tensor) for tensor in (*inputs.values(), *module.parameters(), *module.buffers())}
    known |= {id(tensor) for call in first for tensor in call.outputs}
    calls = []
    for call, other in zip(reversed(first), reversed(second), strict=True):
        if needed.isdisjoint(map(id, call.outputs)):
            continue
        for a, b in zip(call.outputs, other.outputs, strict=True):
            if a.shape[1:] != b.shape[1:] or a.dtype != torch.float32:
                raise Untraceable(f"{call.operator} returns {a.dtype} {tuple(a.shape)} and {tuple(b.shape)}")
        arguments = [_merge(a, b, known) for a, b in zip(call.arguments, other.arguments, strict=True)]
        needed.update(id(tensor) for argument in arguments for tensor in _tensors(argument))
        calls.append(call._replace(arguments=arguments))
    return Recording(calls[::-1], results[0])


class _Recorder(TorchDispatchMode):
    """Mode that records the calls of ATen operators, and keeps their tensors alive, so that their ids stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Don't hide `__torch_dispatch__` from the compiler. Hiding it would import the compiler, which takes 2 s."""
        return False

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if operator._schema.is_mutable:
            raise Untraceable(f"{operator} changes a tensor in place")
        if str(operator) not in CREATION:
            schema = operator._schema.arguments
            values = dict(zip((argument.name for argument in schema), args, strict=False)) | (kwargs or {})
            arguments = [values.get(argument.name, argument.default_value) for argument in schema]
            self.calls.append(Call(str(operator), arguments, _tensors(result)))
        return result


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in an argument or a result."""
    if isinstance(value, Tensor):
        return [value]
    return [item for item in value if isinstance(item, Tensor)] if isinstance(value, tuple | list) else []


def _merge(first: Any, second: Any, known: set[int]) -> Any:
    """Merge the two values that an argument has in the two runs."""
    if isinstance(first, Tensor):
        return first if id(first) in known else Constant(first, second)
    if isinstance(first, Sequence) and not isinstance(first, str) and len(first) == len(second):
        return [_merge(a, b, known) for a, b in zip(first, second, strict=True)]
    if first == second:
        return first
    if isinstance(first, int) and first % SIZES[0] == 0 and first // SIZES[0] * SIZES[1] == second:
        return BatchMultiple(first // SIZES[0])
    raise Untraceable(f"an argument is {first!r} for a batch of {SIZES[0]} and {second!r} for one of {SIZES[1]}")
