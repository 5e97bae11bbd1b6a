"""Atomic writes, bounded reads, and locks.

An atomic write goes to a temporary file, which is then synced to disk and renamed.
"""

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cvae.errors import CvaeError, UsageError


def read_at_most(path: str | Path, limit: int, *, truncate: bool = False) -> bytes:
    """Read a file of at most `limit` bytes.

    Args:
        path: path of the file.
        limit: maximum number of bytes to read.
        truncate: whether to read only the first `limit` bytes of a larger file, instead of raising an error.

    Raises:
        CvaeError: If the file is too large, can't be read, or is a folder, a pipe or a device.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise CvaeError(f"{str(path)!r} is a folder or a device, not a file")
        if status.st_size > limit and not truncate:
            raise CvaeError(f"{str(path)!r} is larger than {limit:,} bytes, so it is not read")
        with Path(path).open("rb") as file:
            return file.read(min(status.st_size, limit))  # the file may have grown in the meantime
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and rename it to `path` unless the block raises.

    The temporary path has the suffix of `path`, because Pillow and numpy infer the format from the suffix.

    Args:
        path: path of the file.
        sync: whether to sync the file to disk. Without it, a power failure may truncate the file, which is acceptable
            for many small files that can be created again.

    Raises:
        CvaeError: If the folder or the file can't be written.
    """
    path = Path(path)
    temporary_path = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary_path
            if sync:
                with temporary_path.open("r+b") as file:
                    os.fsync(file.fileno())
            temporary_path.replace(path)
            if sync and os.name == "posix":  # sync the folder too, because it stores the new name
                folder = os.open(path.parent, os.O_RDONLY)
                with suppress(OSError):  # some file systems can't sync a folder
                    os.fsync(folder)
                os.close(folder)
        finally:
            temporary_path.unlink(missing_ok=True)
    except OSError as error:
        raise CvaeError(f"can't write {str(path)!r}: {error.strerror or error}") from error


def write_file(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path` atomically.

    Raises:
        CvaeError: If the folder or the file can't be written.
    """
    with atomic_write(path) as temporary_path:
        temporary_path.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`, and rename it to `target` unless the block raises.

    Raises:
        CvaeError: If the folder or a file in it can't be written.
    """
    target = Path(target)
    temporary_path = target.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary_path.mkdir(parents=True)
        try:
            yield temporary_path
            for path in temporary_path.rglob("*"):
                if path.is_file():
                    with path.open("r+b") as file:
                        os.fsync(file.fileno())
            temporary_path.rename(target)
        finally:
            shutil.rmtree(temporary_path, ignore_errors=True)
    except OSError as error:
        raise CvaeError(f"can't write {str(target)!r}: {error.strerror or error}") from error


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder to the new folder `target` atomically.

    Raises:
        UsageError: If `target` already exists.
        CvaeError: If `target` can't be written.
    """
    if target.exists():
        raise UsageError(f"{str(target)!r} already exists; choose another --out")
    with atomic_folder(target) as temporary_path:
        for path in source.iterdir():
            if path.is_file():
                (temporary_path / path.name).write_bytes(path.read_bytes())


def cache_root(data_dir: Path | None) -> Path:
    """Return the folder of downloads and caches: `data_dir`, else $CVAE_DATA_DIR, else ~/.cache/cvae."""
    return data_dir or Path(os.environ.get("CVAE_DATA_DIR") or "~/.cache/cvae").expanduser()


def remove_stale_files(folder: str | Path) -> None:
    """Remove temporary files in `folder` that were left by processes killed while writing."""
    for path in Path(folder).glob(".????????.tmp*"):
        path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Lock `folder` for this process, creating it if needed, until the block or the process ends.

    Windows can't lock a folder, so this does nothing there.

    Args:
        folder: path of the folder.
        wait: whether to wait while another process holds the lock, instead of raising an error.

    Raises:
        UsageError: If another process holds the lock, and `wait` is false.
        CvaeError: If the folder can't be created.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    except OSError as error:
        raise CvaeError(f"can't write {str(folder)!r}: {error.strerror}") from error
    if handle is None:
        yield
        return
    import fcntl

    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process is writing to {str(folder)!r}; wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)
