"""How a training ends before its time: on a signal, or by an error that has a cause and a fix."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from cvae.engine.randomness import Shard
from cvae.errors import CvaeError


class Stop:
    """Whether a signal has asked the training to stop after the step at hand."""

    def __init__(self) -> None:
        self.signals: set[int] = set()

    @property
    def asked(self) -> bool:
        return bool(self.signals)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks; the same once more ends the process at once, by KeyboardInterrupt.

        The same, since after a Ctrl-C torchrun sends a SIGTERM of its own.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            if number in self.signals:
                raise KeyboardInterrupt
            if not self.asked:
                os.write(2, b"\nstopping after this step; once more stops at once\n")  # print may not be entered anew
            self.signals.add(number)

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, stop) for number in numbers}
        except ValueError:  # not in the main thread, where signals are somebody else's
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says so: torch has a class of its own for GPUs only."""
    pattern = "not enough memory|can't allocate memory|out of memory"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(re.search(pattern, str(error), re.I))


def lost_connection(error: BaseException) -> bool:
    """Whether it is about another process that can't be reached."""
    return isinstance(error, dist.DistError) or bool(re.search("gloo|nccl|connection|peer", str(error), re.I))


def explain_failure(error: Exception, step: int, shard: Shard, again: str, batch_size: int) -> CvaeError | None:
    """Return what torch or the system raised at a step as one line with its fix, or None if it is neither's.

    Args:
        shard: this process among all.
        again: the command that continues the run.
    """
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, OSError):
        return CvaeError(f"step {step:,}: {reason}; once that is fixed, continue with: {again}")
    if out_of_memory(error):
        return CvaeError(f"not enough memory for --batch-size {batch_size}; --accumulate 4 splits it ({reason})")
    if shard.count > 1 and lost_connection(error):
        return CvaeError(
            f"process {shard.index} of {shard.count} lost another one near step {step:,}; start all of them again "
            f"with: {again} ({reason})"
        )
    return None
