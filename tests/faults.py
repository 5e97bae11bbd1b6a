"""Script that runs a command again and again, each time with a fault at another file operation.

    python tests/faults.py [--every N] SOURCE COMMAND ...

Each run gets a folder of its own, a copy of SOURCE. A first run without a fault counts the operations on files in this
folder: opening, syncing, locking, renaming and removing files, and creating folders. Then each operation fails once
with each error, and each file is cut off once, just before its end. `--every N` tests only each N-th of these faults.
The script prints a list of problems as JSON: tracebacks, messages of several lines, incomplete files, and files that
are missing or remain after the command has been repeated. A run that has been started is resumed instead.
"""

import errno
import io
import json
import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from cvae.__main__ import main
from cvae.exporters import onnxruntime_web
from cvae.run import is_run

WRITING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
"""Audit events of operations on paths: https://docs.python.org/3/library/audit_events.html."""

LOCK_ERRORS, ERRORS = (errno.ENOLCK, errno.ENOSYS), (errno.EIO, errno.ENOSPC)
"""Errors of locking a file, and of every other operation. Some file systems can't lock files."""

SIZES = (0, 64, 4096)
"""Further sizes in bytes at which files are cut off: a write beyond this size writes less, and the next one fails."""

DURATIONS = re.compile(rb'"(seconds|images_per_second)": [0-9.e+-]+')
"""Metrics that differ from run to run."""


class Faults:
    """Counter of the operations on files in `folder`, one of which fails.

    Attributes:
        operations: names of the operations so far.
        failing: index of the operation that fails, or None.
        error: number of its error.
        versions: the contents that each file has got by renaming, by its path.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.operations: list[str] = []
        self.failing: int | None = None
        self.error = 0
        self.versions: dict[str, list[bytes]] = {}
        sys.addaudithook(self._hook)
        fsync = os.fsync

        def count_and_sync(file: int) -> None:  # not audited
            self._count("fsync")
            fsync(file)

        os.fsync = count_and_sync

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "fcntl.flock":
            self._count(event)
        elif (event == "open" or event in WRITING) and isinstance(arguments[0], str | bytes | os.PathLike):
            with suppress(ValueError):
                path = Path(os.fsdecode(arguments[0])).absolute()
                if path.is_relative_to(self.folder) and "__pycache__" not in path.parts:
                    self._count(event)
                    if event == "os.rename":
                        self._add_versions(path, Path(os.fsdecode(arguments[1])).absolute())

    def _count(self, name: str) -> None:
        if self.folder is None:
            return
        self.operations.append(name)
        if len(self.operations) - 1 == self.failing:
            raise OSError(self.error, os.strerror(self.error))

    def _add_versions(self, source: Path, target: Path) -> None:
        folder, self.folder = self.folder, None  # these operations don't count
        for path in (source, *source.rglob("*")):
            if path.is_file():
                name = str((target / path.relative_to(source)).relative_to(folder))
                self.versions.setdefault(name, []).append(read(path))
        self.folder = folder

    @contextmanager
    def watch(self, folder: Path, failing: int | None = None, error: int = 0) -> Iterator[None]:
        self.operations, self.failing, self.error, self.versions = [], failing, error, {}
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None


def run(command: list[str]) -> tuple[int, str]:
    """Run a command in this process, and return its exit status and what it printed to standard error."""
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        try:
            main(command)
        except SystemExit as end:
            return (end.code if isinstance(end.code, int) else 1), errors.getvalue()
        except BaseException as error:
            return -1, f"{errors.getvalue()}{type(error).__name__}: {error}"
    return 0, errors.getvalue()


def read(path: Path) -> bytes:
    return DURATIONS.sub(rb'"\1": 0', path.read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): read(path) for path in folder.rglob("*") if path.is_file()}


def repetition(command: list[str]) -> list[str]:
    """Return the command that completes the work of a command that has failed."""
    is_started = command[0] == "train" and is_run(Path(command[command.index("--out") + 1]))
    return [*command, "--resume"] if is_started else command


def check(command: list[str], source: Path, every: int = 1) -> tuple[int, list[str]]:
    """Return the number of faults, and a description of each problem that they cause."""
    faults, problems, count = Faults(), [], 0
    folder = Path("work").absolute()

    def start() -> None:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        os.chdir(folder)

    start()
    run(command)  # imports, which open files too
    start()
    with faults.watch(folder):
        status, text = run(command)
    assert status == 0, text
    reference, operations, versions = contents(folder), list(faults.operations), dict(faults.versions)
    plans: list[tuple[str, int | None, int]] = [
        (f"{name} {i}", i, error)
        for i, name in enumerate(operations)
        for error in (LOCK_ERRORS if name == "fcntl.flock" else ERRORS)
    ]
    sizes = {*SIZES, *(len(data) - 1 for name, data in reference.items() if data and not (source / name).exists())}
    plans += [(f"files of at most {size} bytes", None, -size) for size in sorted(sizes)]
    for name, failing, error in plans[every // 2 :: every]:
        start()
        count += 1
        if failing is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (-error, resource.RLIM_INFINITY))
        with faults.watch(folder, failing, error):
            status, text = run(command)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        where = f"{' '.join(command)}: {name}: {os.strerror(abs(error)) if failing is not None else 'short write'}"
        messages = [line for line in text.splitlines() if line.startswith("cvae: error")]
        if status not in (0, 1, 2) or "Traceback" in text or (status and len(messages) != 1):
            problems.append(f"{where}: exit status {status}: {text[-300:]!r}")
        for path, data in contents(folder).items():
            if not Path(path).name.startswith(".") and data not in (*versions.get(path, []), reference.get(path)):
                problems.append(f"{where}: {path} is not complete")
        if status == 0 and contents(folder) == reference:
            continue
        status, text = run(repetition(command))
        if status:
            problems.append(f"{where}: the command can't be repeated: {text[-300:]!r}")
        elif contents(folder) != reference:
            after = contents(folder)
            names = sorted(name for name in after.keys() | reference if after.get(name) != reference.get(name))
            problems.append(f"{where}: after the command is repeated, these files differ: {names}")
    return count, problems


def replace_downloads() -> None:
    """Replace the files of onnxruntime-web by small ones, so that nothing is downloaded."""
    files = {name: name.encode() for name in onnxruntime_web.FILES}
    onnxruntime_web.FILES = {name: onnxruntime_web.compute_integrity(data) for name, data in files.items()}
    onnxruntime_web.fetch = lambda names: {name: files[name] for name in names}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    every = int(arguments.pop(1)) if arguments[0] == "--every" else 1
    source, *command = arguments[arguments[0] == "--every" :]
    replace_downloads()
    count, problems = check(command, Path(source).absolute(), every)
    print(json.dumps({"faults": count, "problems": problems}))
