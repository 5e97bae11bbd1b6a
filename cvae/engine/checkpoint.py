"""What a run leaves on disk: safetensors and JSON, whole or not at all, no pickle anywhere.

`model.safetensors` holds the weights to use. `last/` holds the two newest checkpoints to resume from: all tensors
in `<step>.safetensors`, everything else in `<step>.json`, which is written last and carries the hash of the other.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from cvae.serialization import MAX_TEXT, parse_json

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
"""What safetensors calls them."""


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    write_file(path, _bytes(state))


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def load_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read tensors whose names, shapes and types must be those of `expected`, and finite.

    Raises:
        CvaeError: the file can't be read, is damaged, or holds something else.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    data = read_at_most(path, 8 + MAX_TEXT + size)  # and not more, before the header is compared
    header = _header(path, data)
    for name in [*expected, *header]:
        if name not in header or name not in expected:
            where = "lacks" if name not in header else "has an unexpected"
            raise CvaeError(
                f"{str(path)!r} {where} tensor {one_line(repr(name))}: it does not belong to this config.json"
            )
        found, wanted = header[name], (DTYPES.get(expected[name].dtype), list(expected[name].shape))
        if found != wanted:
            raise CvaeError(f"{str(path)!r}: tensor {name!r} is {one_line(found)}, the config says {wanted}")
    try:
        tensors = load(data)  # which refuses overlaps and holes
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise CvaeError(f"{str(path)!r} is no intact safetensors file: {one_line(error)}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CvaeError(f"{str(path)!r}: tensor {name!r} holds values that are not finite")
    return tensors


def _header(path: Path, start: bytes) -> dict[str, tuple[Any, Any]]:
    """Name -> type and shape of each tensor, as the file claims; `start` are its bytes, or the first of them.

    Format: https://huggingface.co/docs/safetensors

    Raises:
        CvaeError: there is no such header, or one larger than that of any model.
    """
    try:
        length = int.from_bytes(start[:8], "little")
        if not len(start) >= 8 + length or length > MAX_TEXT:
            raise ValueError(f"its header is said to have {length} bytes")
        header = parse_json(start[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        return {name: (tensor["dtype"], tensor["shape"]) for name, tensor in header.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise CvaeError(f"{str(path)!r} is no intact safetensors file: {one_line(error)}") from error


def load_model(run: str | Path) -> tuple[VAE, Config]:
    """The trained model of a run folder, in evaluation mode on the CPU, and its config.

    Raises:
        CvaeError: the folder is no run, or a file in it is damaged.
    """
    run = Path(run)
    config = read_config(run)
    path = run / WEIGHTS
    header = _header(path, read_at_most(path, 8 + MAX_TEXT, rest=True))
    try:
        with torch.device("meta"), _no_larger_than(len(header), path):
            sketch = build(config.model).state_dict()  # shapes alone
        tensors = load_weights(path, sketch)
        model = build(config.model)
    except (UsageError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CvaeError(f"{str(run / CONFIG)!r} describes no model that can be built: {one_line(error)}") from error
    model.load_state_dict(tensors)
    return model.eval(), config


@contextmanager
def _no_larger_than(tensors: int, path: Path) -> Iterator[None]:
    """While a model is built that a config describes, stop when it has far more tensors than the file of its weights.

    A config of a few bytes may ask for a billion layers. (That they are large costs nothing, on the device "meta".)

    Raises:
        CvaeError: it does.
    """
    left = {"tensors": 16 + 2 * tensors, "modules": 1000 + 16 * tensors}

    def count(module: nn.Module, name: str, part: object) -> None:
        left["tensors" if isinstance(part, Tensor) else "modules"] -= 1
        if min(left.values()) < 0:
            raise CvaeError(f"{str(path)!r} holds less than the model that its config.json describes")

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
    """Tensors by name, and a state of plain JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Add a checkpoint to `folder`, and remove all but the two newest."""
    data = _bytes(checkpoint.tensors)
    name = f"{step:09d}"
    write_file(folder / f"{name}.safetensors", data)
    digest = hashlib.sha256(data).hexdigest()
    write_file(folder / f"{name}.json", json.dumps({"sha256": digest, **checkpoint.state}))
    kept = {path.stem for path in sorted(folder.glob("*.json"))[-2:]}
    for path in [*folder.glob("*.json"), *folder.glob("*.safetensors")]:
        if path.stem not in kept:
            path.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint in `folder`, and the names of the damaged ones that were passed over for it.

    None when there is no checkpoint yet: a run may be stopped before its first.

    Raises:
        CvaeError: there are checkpoints, and all of them are damaged.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            state = json.loads(path.read_bytes())
            data = path.with_suffix(".safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() == state.pop("sha256"):
                return Checkpoint(load(data), state), damaged
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError, RuntimeError, OverflowError):
            pass
        damaged.append(path.stem)
    if damaged:
        raise CvaeError(
            f"no checkpoint in {str(folder)!r} is intact: damaged are {', '.join(damaged)}; "
            "remove the folder to begin the run again"
        )
    return None, []


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `optimizer.<parameter index>.<name>`."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": torch.as_tensor(v) for i, state in states.items() for name, v in state.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `pack_optimizer` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            states.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    # A file holds rows; the fused kernels want moments laid out in memory as their parameter is, channels last.
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        state = optimizer.state.get(parameter, {})
        for name, tensor in state.items():
            if tensor.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(tensor)
