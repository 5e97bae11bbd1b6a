"""Progress output of a training: a live bar on a terminal, and lines for some of the epochs."""

import sys
import time
from itertools import count
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 60
"""Seconds between lines where there is no terminal for a bar, for example in a log file."""

REPORTS = 20
"""Maximum number of epochs of a run that print a line and save sample images, besides the first and the last."""


def report_every(epochs: int) -> int:
    """Return the interval between reports: the first of 1, 2, 5, 10, 20, ... with at most `REPORTS` reports."""
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    return next(step for step in steps if epochs <= step * REPORTS)


class TrainingProgress:
    """A progress bar over all steps, with images per second and the terms of the bound. It is silent if `quiet`."""

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
        """Return whether the last update is `seconds` ago; reading losses more often would stall the device."""
        return time.monotonic() - self._update_time >= seconds

    def draw(self, step: int, description: str, metrics: str) -> None:
        """Update the bar, or print a line now and then if there is no terminal."""
        self._update_time = time.monotonic()
        self.bar.update(self.task, completed=step, description=description, metrics=metrics)
        if not self.console.is_terminal and self._update_time - self._line_time > LINE_SECONDS:
            self.line(f"{description}  step {step:,}  {metrics}")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._line_time = time.monotonic()
        self.console.print(text)
