"""Reasons to stop a training run early: signals, and errors with a known cause."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from cvae.config import TrainConfig
from cvae.engine.randomness import Shard
from cvae.errors import CvaeError, Diverged


class Stop:
    """Request to stop training after the current step, made by a signal."""

    def __init__(self) -> None:
        self.signals: set[int] = set()

    @property
    def is_requested(self) -> bool:
        return bool(self.signals)

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM: the first signal requests a stop, and repeating it stops immediately.

        After one of the two signals, the other has no effect, because torchrun sends its own SIGTERM after a Ctrl-C.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            if number in self.signals:
                raise KeyboardInterrupt
            if not self.is_requested:
                os.write(2, b"\nstopping after this step; repeat to stop immediately\n")  # print is not reentrant
            self.signals.add(number)

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            previous = {number: signal.signal(number, stop) for number in numbers}
        except ValueError:  # signals can be handled only in the main thread
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the type or the message of an error says that memory is exhausted.

    The message matters because torch has a special error type only for GPU memory.
    """
    pattern = "not enough memory|can't allocate memory|out of memory"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(re.search(pattern, str(error), re.I))


def is_connection_error(error: BaseException) -> bool:
    """Return whether an error means that another process can't be reached."""
    return isinstance(error, dist.DistError) or bool(re.search("gloo|nccl|connection|peer", str(error), re.I))


def explain_failure(
    error: Exception, step: int, shard: Shard, resume_command: str, batch_size: int
) -> CvaeError | None:
    """Return an error that states the cause of `error` and how to fix it, or None if the cause is not known.

    Args:
        error: Error that training raised.
        step: Number of the step.
        shard: Part of the batch that belongs to this process.
        resume_command: Command that resumes the run.
        batch_size: Images per step over all processes.
    """
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, OSError):
        return CvaeError(f"step {step:,}: {reason}; once that is fixed, continue with: {resume_command}")
    if is_out_of_memory(error):
        return CvaeError(
            f"not enough memory for --batch-size {batch_size}; --accumulate 4 splits each batch ({reason})"
        )
    if shard.count > 1 and is_connection_error(error):
        return CvaeError(
            f"process {shard.index} of {shard.count} lost the connection to another process near step {step:,}; "
            f"restart all of them with: {resume_command} ({reason})"
        )
    return None


def explain_divergence(reason: str, training: TrainConfig) -> Diverged:
    """Return an error that says what can be done if the numbers of a run are no longer finite.

    Args:
        reason: What is not finite, and at which step.
        training: Training config of the run.
    """
    return Diverged(
        f"{reason}: the learning rate {training.lr} is probably too high (lower --lr, or use --warmup 1000, "
        "--precision fp32, or a smaller --clip), or an image is unusual (to skip its batch: --on-nan skip, which also "
        "works with --resume); the last good weights have been saved"
    )
