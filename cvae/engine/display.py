"""Output of a training run: a header, a table of the epochs with a live progress bar on a terminal, and a summary."""

import math
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from cvae.messages import format_nats, format_seconds, format_warning
from cvae.text import clean_line, clean_lines

MAX_WIDTH = 100
"""Maximum width of a line that is wrapped."""

NAME_WIDTH = 13
"""Width of the column with the names of fields."""

NO_BREAK_SPACE = "\xa0"
"""Space at which a line is not wrapped."""

COLUMNS = {
    "epoch": 9,
    "loss": 11,
    "distortion": 12,
    "rate": 10,
    "validation": 14,
    "images/s": 10,
    "time left": 12,
}
"""Widths of the columns of the table, less than 80 characters in total."""

LINE_SECONDS = 60
"""Minimum number of seconds between rows within an epoch if the output is not a terminal but (say) a log file."""

MAX_REPORTS = 20
"""Maximum number of epochs that print a row and save sample images, in addition to the first and the last epoch."""


def report_every(epochs: int) -> int:
    """Return the number of epochs per report: the smallest of 1, 2, 5, 10, ... with at most `MAX_REPORTS` reports."""
    intervals = (digit * 10**power for power in count() for digit in (1, 2, 5))
    return next(interval for interval in intervals if epochs <= interval * MAX_REPORTS)


class Display:
    """Printer of lines for the user.

    Lines go to standard error. In a notebook, they go to standard output, because notebooks show standard error in red.
    If the output is a file, it is plain text without control characters.

    Args:
        quiet: whether to print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        in_notebook = Console().is_jupyter
        file = sys.stdout if in_notebook else sys.stderr
        self.console = Console(
            file=file,
            quiet=quiet,
            force_terminal=None if file.isatty() else False,
            force_jupyter=False,
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
        )
        self.is_live = not quiet and self.console.is_terminal and not self.console.is_dumb_terminal

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        self.console.print(Text(clean_lines(text), style))

    def warning(self, text: str) -> None:
        """Print a warning in the package's format for warnings."""
        self.line(format_warning(text).rstrip("\n"), "yellow")

    def fields(self, fields: Mapping[str, str]) -> None:
        """Print a line for each field, with its name in a column of its own. Long lines are wrapped."""
        width = min(self.console.width, MAX_WIDTH) - NAME_WIDTH
        for name, value in fields.items():
            lines = textwrap.wrap(value, max(width, NAME_WIDTH), break_long_words=False, break_on_hyphens=False)
            for i, line in enumerate(lines):
                text = clean_line(line.replace(NO_BREAK_SPACE, " "))
                self.console.print(Text.assemble((f"{'' if i else name:{NAME_WIDTH}}", "bold"), text))

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """On a terminal, show `text` with a spinner while the `with` block runs."""
        if not self.is_live:
            yield
            return
        with self.console.status(text, spinner="line"):
            yield


class EpochTable:
    """Table with a row for some of the epochs and, on a terminal, a live progress bar below it.

    Args:
        display: where to print.
        total_steps: number of steps of the run. It may change.
        steps: number of steps in an epoch.
        done: number of steps that are already done.
        has_validation: whether the run has validation images.
    """

    def __init__(self, display: Display, *, total_steps: int, steps: int, done: int, has_validation: bool) -> None:
        self.display, self.has_validation = display, has_validation
        self.total_steps, self.steps = total_steps, steps
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[metrics]}"),
            console=display.console,
            transient=True,
            disable=not display.is_live,
        )
        self.task = self.bar.add_task(self._epoch(done), total=total_steps, completed=done, metrics="")
        self._done, self._started = done, time.monotonic()
        self._update_time = self._line_time = self._started
        self._has_title = False

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    @property
    def epochs(self) -> int:
        """Number of epochs of the run. The last one may be incomplete."""
        return math.ceil(self.total_steps / self.steps)

    def _epoch(self, step: int) -> str:
        return f"epoch {min(step // self.steps + 1, self.epochs)}/{self.epochs}"

    def due(self, seconds: float = 0.5) -> bool:
        """Return whether the last update was at least `seconds` ago. More frequent updates would stall the device."""
        return time.monotonic() - self._update_time >= seconds

    def update(self, step: int, metrics: Mapping[str, float], speed: float) -> None:
        """Update the bar within an epoch. Without a terminal, print a row if the last row is `LINE_SECONDS` old.

        Args:
            step: number of steps so far.
            metrics: means of the loss and its terms over the epoch so far.
            speed: images per second.
        """
        self._update_time = time.monotonic()
        text = f"loss {format_nats(metrics['loss'])}  {speed:,.0f} images/s  {self._time_left(step)} left"
        self.bar.update(self.task, total=self.total_steps, completed=step, description=self._epoch(step), metrics=text)
        if not self.display.is_live and self._update_time - self._line_time > LINE_SECONDS:
            self._row(f"{step / self.steps:.1f}/{self.epochs}", metrics, "", speed, step)

    def epoch(self, record: Mapping[str, Any], validation: float | None, *, has_improved: bool) -> None:
        """Print the row of an epoch.

        Args:
            record: record of the epoch.
            validation: validation bound of the epoch, or None.
            has_improved: whether the validation bound has reached a new minimum since the last row.
        """
        text = "-  " if validation is None else f"{format_nats(validation)} {'*' if has_improved else ' '}"
        number = f"{record['epoch']}/{self.epochs}"
        self._row(number, record["train"], text, record["images_per_second"], record["step"])

    def _row(self, epoch: str, metrics: Mapping[str, float], validation: str, speed: float, step: int) -> None:
        if not self._has_title:
            mark = "; * marks a new lowest validation bound, and its weights are saved" if self.has_validation else ""
            self.display.line(f"\nnats per image{mark}", "dim")
            titles = [name + " " * 2 * (name == "validation") for name in COLUMNS]
            self.display.line(_align(titles), "bold")
            self._has_title = True
        self._line_time = time.monotonic()
        terms = [format_nats(metrics[term]) for term in ("loss", "distortion", "rate")]
        self.display.line(_align([epoch, *terms, validation, f"{speed:,.0f}", self._time_left(step)]))

    def _time_left(self, step: int) -> str:
        taken = step - self._done
        seconds = (time.monotonic() - self._started) / taken * (self.total_steps - step) if taken else math.inf
        return format_seconds(seconds) if math.isfinite(seconds) else "?"


def _align(cells: list[str]) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, COLUMNS.values(), strict=True)).rstrip()
