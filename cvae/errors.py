"""Exceptions, and helpers for their messages. A message is one line with the value, the cause and the fix."""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

from cvae.text import clean_line

DISTRIBUTION, GPU_DISTRIBUTION = "cvae-onnx", "cvae-onnx-gpu"
"""Distributions of this package, which require onnxruntime and onnxruntime-gpu."""

GPU_SWITCH = "CVAE_ONNX_GPU=1"
"""Environment variable with which a checkout is installed as `GPU_DISTRIBUTION`; see setup.py."""


class CvaeError(Exception):
    """Failure that is not the caller's mistake, such as a damaged file, no network or a full disk. Exit code 1."""

    exit_code = 1


class UsageError(CvaeError, ValueError):
    """Request for something that does not exist or is not valid. Exit code 2."""

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
        extra: the extra of the distribution that installs these packages.
    """

    def __init__(self, feature: str, extra: str = "train") -> None:
        super().__init__(f"{feature} needs packages that are not installed: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra from where this package came from: a checkout, file, URL or index."""
    name, source = _find_distribution(), _find_source()
    if source is None:
        return f"pip install '{name}[{extra}]'"
    requirement = f"{source}[{extra}]" if isinstance(source, Path) else f"{name}[{extra}] @ {source}"
    switch = f"{GPU_SWITCH} " if name == GPU_DISTRIBUTION and not _is_wheel(source) else ""
    return f"{switch}pip install {shlex.quote(requirement)}"


def gpu_install_commands() -> str:
    """Return the commands that replace onnxruntime with onnxruntime-gpu. The two overwrite each other's files."""
    if _find_distribution() == GPU_DISTRIBUTION:  # another package has installed onnxruntime as well
        return "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
    source, install = _find_source(), f"pip install {GPU_DISTRIBUTION}"
    if source is not None and not _is_wheel(source):
        install = f"{GPU_SWITCH} pip install {shlex.quote(str(source))}"
    return f"pip uninstall -y {DISTRIBUTION} onnxruntime, then {install}"


def _is_wheel(source: Path | str) -> bool:
    """Return whether a source is a wheel, which is a distribution for one of the two runtimes."""
    return str(source).endswith(".whl")


def _find_distribution() -> str:
    """Return the name of the installed distribution."""
    from importlib.metadata import distributions

    # A build leaves metadata in its checkout too, in another file: they do not mean that the package is installed.
    is_gpu = any(package.read_text("METADATA") is not None for package in distributions(name=GPU_DISTRIBUTION))
    return GPU_DISTRIBUTION if is_gpu else DISTRIBUTION


def _find_source() -> Path | str | None:
    """Return the checkout, file or URL that this package was installed from, or None if it was a package index."""
    try:
        return _read_source()
    except Exception:  # missing or damaged metadata of the installation must not hide the error to report
        return None


def _read_source() -> Path | str | None:
    import json
    from importlib.metadata import distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    path = Path(__file__).resolve().parents[1]
    if not (path / "pyproject.toml").is_file():  # this package does not run from a checkout
        # https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
        text = distribution(_find_distribution()).read_text("direct_url.json")
        if text is None:
            return None
        record = json.loads(text)
        url: str = record["url"]
        if not url.startswith("file:"):
            vcs = record.get("vcs_info")
            return url if vcs is None else f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        path = Path(url2pathname(urlsplit(url).path))
        if not path.exists():
            return None
    return Path() if path == Path.cwd() else path


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the fix for an unknown name: similar known names, or all known names if none is similar."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(match) for match in matches) + "?"
    return "known: " + ", ".join(known)


def one_line(message: object, length: int = 200) -> str:
    """Convert a message, which may quote an untrusted file, to one line of at most `length` printable characters."""
    line = clean_line(" ".join(str(message).split())[: length + 1])
    return line if len(line) <= length else line[: length - 3] + "..."


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 image" or "1,200 images"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
