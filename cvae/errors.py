"""What can go wrong, said in one line that quotes the value and names the fix."""

import difflib
from collections.abc import Iterable


class CvaeError(Exception):
    """It failed, through no wrong use: a damaged file, no network, a disk that is full. Exit code 1."""

    exit_code = 1


class UsageError(CvaeError, ValueError):
    """What was asked for does not exist or does not fit. Exit code 2."""

    exit_code = 2


class Diverged(CvaeError):
    """The loss of a training, or a gradient, is no longer finite. Exit code 1."""


class Interrupted(CvaeError):
    """A training was asked to stop, and has saved itself. Exit code 130, as a shell has it for Ctrl-C."""

    exit_code = 130


class MissingExtraError(CvaeError, ImportError):
    """A part needs packages that the base install leaves out. Exit code 1."""

    def __init__(self, what: str, extra: str = "train") -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'cvae-onnx[{extra}]'")


def near(value: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown name: the near names, or all of them when none is near."""
    known = list(known)
    close = difflib.get_close_matches(value, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "known: " + ", ".join(known)


def one_line(reason: object, length: int = 200) -> str:
    """A message that may quote a stranger's file: one line of at most `length` characters, all of them printable."""
    line = " ".join(str(reason).split())
    line = "".join(character if character.isprintable() else "?" for character in line[: length + 1])
    return line if len(line) <= length else line[: length - 3] + "..."


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 image" or "1,200 images"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
