"""What a person sees of a training: a live bar on a terminal, and a line for some of the epochs everywhere."""

import sys
import time
from itertools import count
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 60
"""Where there is no terminal for a bar, as in a log, a line is printed this often."""

REPORTS = 20
"""At most so many epochs of a run print a line and save sample pictures, besides the first and the last."""


def report_every(epochs: int) -> int:
    """1, 2, 5, 10, 20, 50, ...: the first that gives no more than `REPORTS` in a run of so many epochs."""
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    return next(step for step in steps if epochs <= step * REPORTS)


class TrainingProgress:
    """A bar over all steps, with images per second and the terms of the bound. Silent when `quiet`."""

    def __init__(self, total_steps: int, done: int, *, quiet: bool) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total_steps, completed=done, figures="")
        self._drawn = self._told = time.monotonic()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def due(self, seconds: float = 0.5) -> bool:
        """Whether the bar was last drawn so long ago; reading the losses before that would only stall the device."""
        return time.monotonic() - self._drawn >= seconds

    def draw(self, step: int, description: str, figures: str) -> None:
        self._drawn = time.monotonic()
        self.bar.update(self.task, completed=step, description=description, figures=figures)
        if not self.console.is_terminal and self._drawn - self._told > LINE_SECONDS:
            self.line(f"{description}  step {step:,}  {figures}")

    def line(self, text: str) -> None:
        self._told = time.monotonic()
        self.console.print(text)
