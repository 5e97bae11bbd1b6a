"""Formatting of numbers and times, and one-line formatting of warnings, and of messages and errors of other packages.

Does not import torch.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cvae.errors import one_line
from cvae.text import clean_line


def print_message(text: str) -> None:
    """Print a message for the user to standard error, on one line."""
    print(clean_line(text), file=sys.stderr)


def format_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """Format a warning as one line, without the source line that caused it."""
    return f"cvae: warning: {one_line(message, 1000)}\n"


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print each warning, log message of another package such as matplotlib, and error in a thread, on one line."""
    previous = warnings.formatwarning, logging.lastResort, threading.excepthook
    warnings.formatwarning = format_warning
    threading.excepthook = _print_thread_error
    logging.lastResort = _OneLineHandler(logging.WARNING)  # used if a package has not configured a handler
    try:
        yield
    finally:
        warnings.formatwarning, logging.lastResort, threading.excepthook = previous


def _print_thread_error(error: threading.ExceptHookArgs) -> None:
    """Print an error that has ended a thread, such as that in which TensorBoard writes its files."""
    sys.stderr.write(format_warning(f"a background thread has failed: {error.exc_type.__name__}: {error.exc_value}"))


class _OneLineHandler(logging.Handler):
    """Log handler that prints messages to standard error in the format of warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(format_warning(record.getMessage()))


def format_nats(value: float) -> str:
    """Format a number of nats with at most ten characters."""
    return f"{value:,.2f}" if abs(value) < 1e5 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"


def format_seconds(seconds: float) -> str:
    """Format a time, such as "12 s", "3 min 05 s" or "2 h 05 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"
