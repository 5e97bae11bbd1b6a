"""Processes that train one model together: one by default, several under torchrun or `accelerate launch`."""

import atexit
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from cvae.config import TrainConfig
from cvae.engine.resolve import choose_device, choose_precision
from cvae.errors import UsageError

AGREEMENT_STEPS = 20
"""Number of steps between two comparisons of flags across processes. Each comparison waits for the slowest process."""


LAUNCHER_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun and `accelerate launch` set."""


def join_processes(training: TrainConfig) -> Accelerator:
    """Join the other processes, if there are any, using the device and the precision of a config."""
    device = choose_device(training.device)
    precision = choose_precision(training.precision, device)
    if restart_count() and not dist.is_initialized():
        # After a restart, torchrun's key-value store may still hold the addresses of processes that have ended.
        store, rank, size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"restart-{restart_count()}", store)
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train several runs, one after another
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=device == "cpu")
    if accelerator.num_processes > 1:
        atexit.register(_leave_processes)
    return accelerator


def check_environment() -> None:
    """Check the environment variables of processes that train together.

    Raises:
        UsageError: If only some of them are set, for example because an earlier job left them in the shell.
    """
    defaults = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    used = [name for name, default in defaults.items() if os.environ.get(name, default) != default]
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if used and missing:
        raise UsageError(
            f"{used[0]}={os.environ[used[0]]} is set, but {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} "
            f"not: to train in one process, run: unset {' '.join(used)}; to train in several, start them with torchrun"
        )


def restart_count() -> int:
    """Return how many times torchrun has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_main_process() -> bool:
    """Return whether this is the process that writes files and prints. The processes need not be joined yet."""
    return os.environ.get("RANK", "0") == "0"


def any_process(accelerator: Accelerator, flag: bool, step: int | None = None) -> bool:
    """Return whether `flag` is true in any process. All processes must call this at the same steps.

    With `step`, several processes compare their flags only every `AGREEMENT_STEPS` steps. In between, the result is
    False.
    """
    if accelerator.num_processes == 1:
        return flag
    if step is not None and step % AGREEMENT_STEPS:
        return False
    return bool(accelerator.gather(torch.tensor([flag], device=accelerator.device)).any())


def copy_from_main(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Copy the values of tensors in the main process to the other processes. All of them must call this."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def _leave_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()  # otherwise threads of the group may abort the process when the interpreter exits
