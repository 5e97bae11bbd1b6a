"""Entry point of the commands `cvae` and `python -m cvae`."""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cvae


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with 0 (success), 1 (failure), 2 (usage error) or 130 (interrupted)."""
    if not hasattr(cvae, "CvaeError"):
        sys.exit(
            f"cvae: error: the 'cvae' imported from {cvae.__file__} belongs to another package named cvae "
            "(for TensorFlow); run pip uninstall -y cvae cvae-onnx, then install cvae-onnx again"
        )
    from cvae.cli import run
    from cvae.errors import CvaeError, Interrupted
    from cvae.messages import one_line_warnings, print_message

    _escape_unprintable()
    # On exit, the interpreter searches all objects for cycles, to free memory that the system is about to free. Without
    # this line, that is a tenth of the time of a short command.
    atexit.register(gc.freeze)
    # torch installs its own log handler, which prints compilation warnings that a user can't act on.
    os.environ.setdefault("TORCH_LOGS", "-all")
    try:
        with one_line_warnings():
            Path.cwd()  # without a working folder, PyTorch may end the process with a message of its own
            sys.exit(run(sys.argv[1:] if args is None else args))
    except Interrupted as interruption:
        print_message(f"cvae: {interruption}")
        sys.exit(interruption.exit_code)
    except CvaeError as error:
        print_message(f"cvae: error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has closed the pipe, for example `cvae parts | head`
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        message = _describe(error)
        if message is None:
            raise
        print_message(f"cvae: error: {message}")
        sys.exit(1)


def _describe(error: OSError) -> str | None:
    """Return a message for an error of the file system that a command does not report itself, or None for others."""
    if not _has_working_folder():
        return "the working folder does not exist any more; change to another folder"
    if isinstance(error.filename, str | bytes):  # such as a path that is too long, or in a folder without permission
        return f"can't access {os.fsdecode(error.filename)!r}: {error.strerror}"
    return f"can't write to standard output: {error.strerror}" if error.errno == errno.ENOSPC else None


def _has_working_folder() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _escape_unprintable() -> None:
    """Print escape sequences for characters that standard output and error can't encode, for example in file names."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # missing if a program has replaced the stream
            reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
