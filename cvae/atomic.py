"""Files appear whole or not at all: write beside, fsync, rename."""

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cvae.errors import CvaeError, UsageError


def read_at_most(path: str | Path, limit: int, *, rest: bool = False) -> bytes:
    """The bytes of a file, if they are not more than `limit`; with `rest`, the first so many of a file of any length.

    Raises:
        CvaeError: they are more, or it can't be read, or is no file but a pipe or a device.
    """
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode):
            raise CvaeError(f"{str(path)!r} is a folder or a device, not a file")
        if about.st_size > limit and not rest:
            raise CvaeError(f"{str(path)!r} is larger than {limit:,} bytes; it is not read")
        with Path(path).open("rb") as file:
            return file.read(min(about.st_size, limit))  # not more, if it grows meanwhile
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name `path` when the block ends well, else it is removed.

    The suffix is kept, so that writers which go by a file's ending (Pillow, numpy) still do. Without `sync` a power cut
    may leave less than was written: for many small files, which can be made again.

    Raises:
        CvaeError: the folder or the file can't be written.
    """
    path = Path(path)
    temporary_path = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary_path
            if sync:
                with temporary_path.open("r+b") as written:
                    os.fsync(written.fileno())
            temporary_path.replace(path)
            if sync and os.name == "posix":  # the name too is to survive a power cut
                folder = os.open(path.parent, os.O_RDONLY)
                with suppress(OSError):  # not every file system can
                    os.fsync(folder)
                os.close(folder)
        finally:
            temporary_path.unlink(missing_ok=True)
    except OSError as error:
        raise CvaeError(f"can't write {str(path)!r}: {error.strerror or error}") from error


def write_file(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_write(path) as temporary_path:
        temporary_path.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """A folder beside `target` to write to; it takes the name `target` when the block ends well, else it is removed.

    Raises:
        CvaeError: the folder or a file in it can't be written.
    """
    target = Path(target)
    temporary_path = target.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary_path.mkdir(parents=True)
        try:
            yield temporary_path
            for path in temporary_path.rglob("*"):
                if path.is_file():
                    with path.open("r+b") as written:
                        os.fsync(written.fileno())
            temporary_path.rename(target)
        finally:
            shutil.rmtree(temporary_path, ignore_errors=True)
    except OSError as error:
        raise CvaeError(f"can't write {str(target)!r}: {error.strerror or error}") from error


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of files to `target`, which must not exist, whole or not at all.

    Raises:
        UsageError: something is at `target` already.
        CvaeError: it can't be written.
    """
    if target.exists():
        raise UsageError(f"{str(target)!r} exists already; choose another --out")
    with atomic_folder(target) as temporary_path:
        for path in source.iterdir():
            if path.is_file():
                (temporary_path / path.name).write_bytes(path.read_bytes())


def cache_root(data_dir: Path | None) -> Path:
    """Where downloads and the like are kept: `data_dir`, else $CVAE_DATA_DIR, else ~/.cache/cvae."""
    return data_dir or Path(os.environ.get("CVAE_DATA_DIR") or "~/.cache/cvae").expanduser()


def remove_stale_files(folder: str | Path) -> None:
    """Remove from `folder` what a process that was killed while writing left beside its files."""
    for left in Path(folder).glob(".????????.tmp*"):
        left.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder`, which is made if need be, for this process alone; the lock goes when the process goes.

    Raises:
        UsageError: another process holds it, and this one is not to wait.
        CvaeError: the folder can't be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    except OSError as error:
        raise CvaeError(f"can't write {str(folder)!r}: {error.strerror}") from error
    if handle is None:  # elsewhere a folder can't be locked
        yield
        return
    import fcntl

    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is writing {str(folder)!r}; wait for it, or choose another") from None
        yield
    finally:
        os.close(handle)
