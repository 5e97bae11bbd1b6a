"""Exceptions, and helpers for their messages. A message is one line with the value, the cause and the fix."""

import difflib
from collections.abc import Iterable


class CvaeError(Exception):
    """Failure that is not the caller's mistake, such as a damaged file, no network or a full disk. Exit code 1."""

    exit_code = 1


class UsageError(CvaeError, ValueError):
    """Wrong use: a request for something that does not exist or is not valid. Exit code 2."""

    exit_code = 2


class Diverged(CvaeError):
    """Divergence of a training run: its loss or gradient is no longer finite. Exit code 1."""


class Interrupted(CvaeError):
    """Interruption of a run or a study that can be resumed. Exit code 130, the shell's code for Ctrl-C."""

    exit_code = 130


class MissingExtraError(CvaeError, ImportError):
    """Missing packages of an optional extra. Exit code 1.

    Args:
        feature: subject of the message: the part or function that needs the packages.
        extra: extra of the distribution that installs them.
    """

    def __init__(self, feature: str, extra: str = "train") -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'cvae-onnx[{extra}]'")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the fix for an unknown name: similar known names, or all known names if none is similar."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(match) for match in matches) + "?"
    return "known: " + ", ".join(known)


def one_line(message: object, length: int = 200) -> str:
    """Convert a message, which may quote an untrusted file, to one line of at most `length` printable characters."""
    line = " ".join(str(message).split())
    line = "".join(character if character.isprintable() else "?" for character in line[: length + 1])
    return line if len(line) <= length else line[: length - 3] + "..."


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 image" or "1,200 images"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
