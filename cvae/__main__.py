"""Entry point of the command line, `cvae` and `python -m cvae`."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import cvae


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with 0 (success), 1 (failure), 2 (wrong use) or 130 (interrupted)."""
    if not hasattr(cvae, "CvaeError"):
        sys.exit(
            f"cvae: error: the 'cvae' imported from {cvae.__file__} is another package of that name (for TensorFlow); "
            "pip uninstall -y cvae cvae-onnx, then install cvae-onnx again"
        )
    from cvae.cli import run
    from cvae.errors import CvaeError, Interrupted

    _escape_unprintable()
    _format_warnings()
    try:
        sys.exit(run(sys.argv[1:] if args is None else args))
    except Interrupted as interruption:
        print(f"cvae: {interruption}", file=sys.stderr)
        sys.exit(interruption.exit_code)
    except CvaeError as error:
        print(f"cvae: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has closed the pipe, for example `cvae parts | head`
        sys.stderr.close()
        sys.exit(1)


def _escape_unprintable() -> None:
    """Print characters that standard output and error can't encode as escape sequences, for example in file names."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # a program may have replaced the stream
            reconfigure(errors="backslashreplace")


def _format_warnings() -> None:
    """Print each warning and each log message of other packages, such as matplotlib, on one line."""
    warnings.formatwarning = _format_warning
    logging.lastResort = _OneLineHandler(logging.WARNING)  # for packages that have not configured a handler
    # torch configures its own handler, for warnings about compilation that a user can't act on.
    os.environ.setdefault("TORCH_LOGS", "-all")


def _format_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """Format a Python warning as one line, without the source line that caused it."""
    from cvae.errors import one_line

    return f"cvae: warning: {one_line(message, 1000)}\n"


class _OneLineHandler(logging.Handler):
    """Log handler that prints messages to standard error in the format of warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(_format_warning(record.getMessage()))


if __name__ == "__main__":
    main()
