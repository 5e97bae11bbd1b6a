"""Weights and checkpoints of a run: safetensors and JSON files, written atomically, without pickle.

`model.safetensors` holds the final weights. `last/` holds the two newest checkpoints to resume from. Each of them
consists of `<step>.safetensors` with all tensors and `<step>.json` with everything else. The JSON file is written last,
and contains the hash of the tensor file.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from cvae.atomic import read_at_most, write_file
from cvae.config import Config
from cvae.errors import CvaeError, UsageError, one_line
from cvae.models import VAE, build
from cvae.run import CONFIG, WEIGHTS, read_config
from cvae.runtime.weights import WeightsFile, open_weights

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the tensor types in a safetensors file."""


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    write_file(path, _serialize(state))


def is_finite(model: nn.Module) -> bool:
    """Return whether all weights and buffers of a network are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def _serialize(tensors: Mapping[str, Tensor]) -> bytes:
    # Copy the tensors, because safetensors rejects tensors that share memory, such as tied weights.
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def load_model(run: str | Path) -> tuple[VAE, Config]:
    """Load the trained model of a run folder, in evaluation mode on the CPU, and its config.

    Raises:
        CvaeError: If the folder is not a run, or a file in the folder is damaged.
    """
    return load_model_and_hash(run)[:2]


def load_model_and_hash(run: str | Path) -> tuple[VAE, Config, str]:
    """Load a model like `load_model`, and also return the SHA-256 of its weights file."""
    run, sha256 = Path(run), hashlib.sha256()
    config = read_config(run)
    # The values are read into the model: a copy of them could take gigabytes.
    with open_weights(run / WEIGHTS, sha256) as weights:
        try:
            with torch.device("meta"), _limit_size(len(weights.header), weights.path):
                expected = build(config.model).state_dict()  # shapes without data
            _check_header(weights, expected)
            model = build(config.model)
        except (UsageError, ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise CvaeError(f"{str(run / CONFIG)!r} does not describe a valid model: {one_line(error)}") from error
        weights.read({name: _view_bytes(tensor) for name, tensor in model.state_dict().items()})
    return model.eval(), config, sha256.hexdigest()


def _check_header(weights: WeightsFile, expected: Mapping[str, Tensor]) -> None:
    """Compare the names, types and shapes of tensors with those of a model.

    Raises:
        CvaeError: If they differ.
    """
    for name in [*expected, *weights.header]:
        if name not in weights.header or name not in expected:
            problem = "lacks" if name not in weights.header else "has an unexpected"
            raise CvaeError(
                f"{str(weights.path)!r} {problem} tensor {one_line(repr(name))}: the file does not match its "
                "config.json"
            )
        actual = weights.header[name]["dtype"], weights.header[name]["shape"]
        declared = DTYPES.get(expected[name].dtype), list(expected[name].shape)
        if actual != declared:
            raise CvaeError(
                f"{str(weights.path)!r}: tensor {name!r} is {one_line(actual)}, but its config.json describes "
                f"{declared}"
            )


def _view_bytes(tensor: Tensor) -> np.ndarray:
    """Return the bytes of a contiguous tensor, which share its memory."""
    view: np.ndarray = tensor.view(-1).view(torch.uint8).numpy()
    return view


@contextmanager
def _limit_size(tensors: int, path: Path) -> Iterator[None]:
    """Stop the `with` block as soon as it has created far more tensors or modules than the weights file implies.

    A config of a few bytes can describe a billion layers. On the device "meta" large tensors cost nothing, but each
    layer still takes time and memory.

    Args:
        tensors: number of tensors in the weights file.
        path: path of the weights file, for error messages.

    Raises:
        CvaeError: If the limit is exceeded.
    """
    remaining = {"tensors": 16 + 2 * tensors, "modules": 1000 + 16 * tensors}

    def count(module: nn.Module, name: str, child: object) -> None:
        remaining["tensors" if isinstance(child, Tensor) else "modules"] -= 1
        if min(remaining.values()) < 0:
            raise CvaeError(f"{str(path)!r} holds fewer tensors than the model that its config.json describes")

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Checkpoint(NamedTuple):
    """Tensors by name, and a state that can be stored as JSON."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to `folder`, and remove all but the two newest checkpoints."""
    data = _serialize(checkpoint.tensors)
    name = f"{step:09d}"
    write_file(folder / f"{name}.safetensors", data)
    digest = hashlib.sha256(data).hexdigest()
    write_file(folder / f"{name}.json", json.dumps({"sha256": digest, **checkpoint.state}))
    newest = {path.stem for path in sorted(folder.glob("*.json"))[-2:]}
    for path in [*folder.glob("*.json"), *folder.glob("*.safetensors")]:
        if path.stem not in newest:
            path.unlink(missing_ok=True)


def load_checkpoint(folder: Path, max_bytes: int = sys.maxsize) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest intact checkpoint in `folder`.

    Args:
        folder: folder of the checkpoints.
        max_bytes: maximum size of a file; a larger one counts as damaged.

    Returns:
        The checkpoint (None if the run was interrupted before it wrote one), and the names of damaged checkpoints,
        which are newer.

    Raises:
        CvaeError: If the folder has checkpoints, and all of them are damaged.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            state = json.loads(read_at_most(path, max_bytes))
            data = read_at_most(path.with_suffix(".safetensors"), max_bytes)
            if hashlib.sha256(data).hexdigest() == state.pop("sha256"):
                return Checkpoint(load(data), state), damaged
        except (CvaeError, ValueError, KeyError, AttributeError, SafetensorError, RuntimeError, OverflowError):
            pass
        damaged.append(path.stem)
    if damaged:
        raise CvaeError(
            f"all checkpoints in {str(folder)!r} are damaged ({', '.join(damaged)}); remove the folder to start over"
        )
    return None, []


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors, `<parameter index>.<name>`."""
    states = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(v) for i, state in states.items() for name, v in state.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the optimizer's state from tensors that `pack_optimizer` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    # Tensors from a file are contiguous, but the fused kernels need the moments in the memory layout of the parameters,
    # which can be channels last.
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        state = optimizer.state.get(parameter, {})
        for name, tensor in state.items():
            if tensor.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(tensor)
