"""Progress output during training: a live bar on a terminal, and lines for some epochs."""

import sys
import time
from itertools import count
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 60
"""Minimum number of seconds between lines if the output is not a terminal, for example a log file."""

MAX_REPORTS = 20
"""Maximum number of epochs that print a line and save sample images, in addition to the first and the last epoch."""


def report_every(epochs: int) -> int:
    """Return the epochs between reports: the first of 1, 2, 5, 10, 20, ... with at most `MAX_REPORTS` reports."""
    intervals = (digit * 10**power for power in count() for digit in (1, 2, 5))
    return next(interval for interval in intervals if epochs <= interval * MAX_REPORTS)


class TrainingProgress:
    """A progress bar over all steps, with images per second and the terms of the bound.

    Args:
        total_steps: number of steps of the run.
        done: number of steps that are already done.
        quiet: whether to print nothing.
    """

    def __init__(self, total_steps: int, done: int, *, quiet: bool) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total_steps, completed=done, metrics="")
        self._update_time = self._line_time = time.monotonic()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def due(self, seconds: float = 0.5) -> bool:
        """Return whether the last update was at least `seconds` ago. More frequent updates would stall the device."""
        return time.monotonic() - self._update_time >= seconds

    def draw(self, step: int, description: str, metrics: str) -> None:
        """Update the bar. Without a terminal, print a line if the last line was `LINE_SECONDS` ago."""
        self._update_time = time.monotonic()
        self.bar.update(self.task, completed=step, description=description, metrics=metrics)
        if not self.console.is_terminal and self._update_time - self._line_time > LINE_SECONDS:
            self.line(f"{description}  step {step:,}  {metrics}")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._line_time = time.monotonic()
        self.console.print(text)
