"""What a run leaves on disk: safetensors and JSON, whole or not at all, no pickle anywhere.

`model.safetensors` holds the weights to use. `last/` holds the two newest checkpoints to resume from: all tensors
in `<step>.safetensors`, everything else in `<step>.json`, which is written last and carries the hash of the other.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cvae.config import Config
from cvae.errors import CvaeError, UsageError
from cvae.files import write_whole
from cvae.models import VAE, build

WEIGHTS = "model.safetensors"


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    write_whole(path, _bytes(state))


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def load_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read tensors whose names, shapes and types must be those of `expected`, and finite.

    Raises:
        CvaeError: the file can't be read, is damaged, or holds something else.
    """
    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise CvaeError(f"{str(path)!r} is no intact safetensors file: {str(error).splitlines()[0]}") from error
    for name in [*expected, *tensors]:
        if name not in tensors or name not in expected:
            where = "lacks" if name not in tensors else "has an unexpected"
            raise CvaeError(f"{str(path)!r} {where} tensor {name!r}: it does not belong to this config.json")
        found, wanted = tensors[name], expected[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise CvaeError(
                f"{str(path)!r}: tensor {name!r} is {found.dtype} {tuple(found.shape)}, "
                f"the config says {wanted.dtype} {tuple(wanted.shape)}"
            )
        if found.is_floating_point() and not found.isfinite().all():
            raise CvaeError(f"{str(path)!r}: tensor {name!r} holds values that are not finite")
    return tensors


def load_model(run: str | Path) -> tuple[VAE, Config]:
    """The trained model of a run folder, in evaluation mode on the CPU, and its config.

    Raises:
        CvaeError: the folder is no run, or a file in it is damaged.
    """
    run = Path(run)
    config = Config.read(run / "config.json")
    try:
        model = build(config.model)
    except UsageError as error:
        raise CvaeError(f"{str(run / 'config.json')!r} describes no model that can be built: {error}") from error
    model.load_state_dict(load_weights(run / WEIGHTS, model.state_dict()))
    return model.eval(), config


class Checkpoint(NamedTuple):
    """Tensors by name, and a state of plain JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Add a checkpoint to `folder`, and remove all but the two newest."""
    data = _bytes(checkpoint.tensors)
    name = f"{step:09d}"
    write_whole(folder / f"{name}.safetensors", data)
    digest = hashlib.sha256(data).hexdigest()
    write_whole(folder / f"{name}.json", json.dumps({"sha256": digest, **checkpoint.state}))
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
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError):
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
