"""Bounded reads of regular files, atomic writes, locks, and folders of the user.

An atomic write goes to a temporary file, which is then synced to disk and renamed. If the process is killed, the
temporary file stays. The next process that writes to the folder removes it.
"""

import errno
import os
import shutil
import stat
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from cvae.errors import CvaeError, UsageError

if TYPE_CHECKING:
    import numpy as np

NOT_A_FILE = "it is a folder, a pipe or a device, not a file"
"""Reason for not reading something."""

TEMPORARY_FILES = ".cvae-*.tmp"
"""Pattern of the names of temporary files and folders. No program reads files with this extension."""

MAX_AGE = 24 * 60 * 60
"""Age in seconds at which a temporary file is removed if the file system has no locks."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""Errors of `flock` on file systems that can't lock a file or folder, such as some versions of NFS, Lustre and FUSE."""

# -- reading -----------------------------------------------------------------------------------------------------------


def check_regular(path: str | Path) -> None:
    """Check that a path leads to a regular file, because a pipe may block forever and a device may never end.

    Raises:
        OSError: If it does not exist, or is a folder, a pipe or a device.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, NOT_A_FILE, str(path))


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading. All files that may be untrusted are opened by this function.

    Raises:
        OSError: If the file can't be read, or is a folder, a pipe or a device.
    """
    check_regular(path)
    # The path may lead to a pipe by now, which must not block.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(handle, "rb", closefd=True)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise OSError(errno.EINVAL, NOT_A_FILE, str(path))
    return file


def read_at_most(path: str | Path, limit: int, *, truncate: bool = False) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Args:
        path: path of the file.
        limit: maximum number of bytes to read.
        truncate: whether to read only the first `limit` bytes of a larger file, instead of raising an error.

    Raises:
        CvaeError: If the file is too large, can't be read, or is a folder, a pipe or a device.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit and not truncate:
                raise CvaeError(f"{str(path)!r} is larger than {limit:,} bytes, so it is not read")
            return file.read(min(size, limit))  # the file may have grown in the meantime
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield the path of an empty temporary file in the same folder, and rename it to `path` unless the block raises.

    The extension of the temporary file is `.tmp`, so state the format to functions that infer it from the extension.

    Args:
        path: path of the file.
        sync: whether to sync the file to disk. Without it, a power failure may truncate the file, which is acceptable
            for many small files that can be created again.

    Raises:
        CvaeError: If the folder or the file can't be written.
    """
    path = Path(path)
    try:
        with _temporary_path(path.parent, Path.touch) as temporary_path:
            yield temporary_path
            if sync:
                _sync_file(temporary_path)
            temporary_path.replace(path)
            if sync:
                _sync_folder(path.parent)  # it stores the new name
    except OSError as error:
        raise CvaeError(f"can't write {str(path)!r}: {error.strerror or error}") from error


def write_file(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path` atomically.

    Raises:
        CvaeError: If the folder or the file can't be written.
    """
    with atomic_write(path) as temporary_path:
        temporary_path.write_bytes(data.encode() if isinstance(data, str) else data)


def save_array(path: Path, array: "np.ndarray") -> None:
    """Write an array in the format of `numpy.save`.

    Raises:
        OSError: If the array can't be written. `numpy.save` truncates it silently if the disk is full, and appends
            `.npy` to the path.
    """
    import numpy as np

    with path.open("w+b") as file:  # numpy writes to a file with the mode "wb" without Python's checks
        np.save(file, array)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`, and rename it to `target` unless the block raises.

    Raises:
        CvaeError: If the folder or a file in it can't be written.
    """
    target = Path(target)
    try:
        with _temporary_path(target.parent, Path.mkdir) as temporary_path:
            yield temporary_path
            for path in temporary_path.rglob("*"):
                if path.is_file():
                    _sync_file(path)
            temporary_path.rename(target)
    except OSError as error:
        raise CvaeError(f"can't write {str(target)!r}: {error.strerror or error}") from error


@contextmanager
def atomic_update(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, and move the files in it to the folder `target` unless the block raises.

    Files of `target` with the same names are replaced, and others stay.

    Raises:
        CvaeError: If the folder or a file in it can't be written.
    """
    target = Path(target)
    try:
        with _temporary_path(target if target.exists() else target.parent, Path.mkdir) as temporary_path:
            yield temporary_path
            for path in [path for path in temporary_path.rglob("*") if path.is_file()]:
                new_path = target / path.relative_to(temporary_path)
                new_path.parent.mkdir(parents=True, exist_ok=True)
                path.replace(new_path)
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


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        with suppress(OSError):  # some file systems can't sync a folder
            os.fsync(handle)
        os.close(handle)


# -- temporary files ---------------------------------------------------------------------------------------------------


class ReadOnlyFolder(Exception):
    """Attempt to write to a folder during `read_only`."""


_read_only_folders: ContextVar[tuple[Path, ...]] = ContextVar("read_only_folders", default=())


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Refuse to write to a folder during the block: `check_writable` raises ReadOnlyFolder."""
    token = _read_only_folders.set((*_read_only_folders.get(), folder.resolve()))
    try:
        yield
    finally:
        _read_only_folders.reset(token)


def check_writable(folder: Path) -> None:
    """Check that a folder may be written to. Everything that creates files or folders calls this function.

    Raises:
        ReadOnlyFolder: If it is in a folder that is read-only at the moment.
    """
    if any(folder.resolve().is_relative_to(parent) for parent in _read_only_folders.get()):
        raise ReadOnlyFolder(folder)


@contextmanager
def _temporary_path(folder: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Create a temporary file or folder in `folder`, lock it during the block, and remove it unless it was renamed.

    The first time that this process writes to `folder`, temporary files of killed processes are removed.
    """
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if folder.absolute() not in _clean_folders:
        _clean_folders.add(folder.absolute())
        remove_stale_files(folder)
    handle, path = None, None
    while path is None:
        path = folder / TEMPORARY_FILES.replace("*", uuid.uuid4().hex[:12])
        try:
            create(path)
            with suppress(FileNotFoundError):
                handle = _lock(path, wait=True)
        except OSError:
            _remove(path)
            raise
        if not path.exists():  # another process took it for stale before it was locked
            _unlock(handle)
            path = None
    try:
        yield path
    finally:
        _remove(path)
        _unlock(handle)


_clean_folders: set[Path] = set()
"""Folders from which this process has removed stale temporary files."""


def remove_stale_files(folder: str | Path) -> None:
    """Remove temporary files and folders of killed processes. A running process holds locks on its own."""
    for path in Path(folder).glob(TEMPORARY_FILES):
        with suppress(OSError):  # another process uses it, or has removed it
            handle = _lock(path)
            if handle is not None or time.time() - path.lstat().st_mtime > MAX_AGE:
                _remove(path)
            _unlock(handle)


def _remove(path: Path) -> None:
    """Remove a temporary file or folder if possible: otherwise, the next process that writes there removes it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # it must not hide whether the file was written
            path.unlink()


# -- locks -------------------------------------------------------------------------------------------------------------


@contextmanager
def lock_folder(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Lock `folder` for this process, creating it if needed, until the block or the process ends.

    On Windows and on file systems without locks, the folder is created, but not locked.

    Args:
        folder: path of the folder.
        wait: whether to wait while another process holds the lock, instead of raising an error.

    Raises:
        UsageError: If another process holds the lock, and `wait` is false.
        CvaeError: If the folder can't be created.
    """
    check_writable(Path(folder))
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle = _lock(Path(folder), wait=wait)
    except BlockingIOError:
        raise UsageError(
            f"another process is writing to {str(folder)!r}; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise CvaeError(f"can't write {str(folder)!r}: {error.strerror}") from error
    if handle is None and os.name == "posix":
        warnings.warn(
            "this file system has no locks, so don't let two processes write to the same folder", stacklevel=3
        )
    try:
        yield
    finally:
        _unlock(handle)


def _lock(path: Path, *, wait: bool = False) -> int | None:
    """Lock a file or folder. Return the handle that holds the lock, or None on a system without locks.

    Raises:
        BlockingIOError: If another process holds the lock, and `wait` is false.
        OSError: If the file can't be opened.
    """
    if os.name != "posix":
        return None
    import fcntl

    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno not in NO_LOCKS:
            raise
        return None
    return handle


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


# -- folders of the user -----------------------------------------------------------------------------------------------


def expand_user(path: str | Path) -> Path:
    """Replace `~` or `~NAME` at the start of a path with the home folder of a user.

    Raises:
        UsageError: If there is no such user, or the user who runs this process has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0][1:]
        reason = f"there is no user {user!r}" if user else "the environment variable HOME is not set"
        raise UsageError(f"{str(path)!r}: {reason}; use a path without '~'") from None


def cache_root(data_dir: Path | None) -> Path:
    """Return the folder of downloads and caches: `data_dir`, else $CVAE_DATA_DIR, else ~/.cache/cvae.

    Raises:
        UsageError: If this folder can't be determined.
    """
    if data_dir is not None:
        return data_dir
    if folder := os.environ.get("CVAE_DATA_DIR"):
        return expand_user(folder)
    try:
        return expand_user("~/.cache/cvae")
    except UsageError:
        raise UsageError(
            "there is no home folder for downloads and decoded images, because the environment variable HOME is not "
            "set; choose a folder with CVAE_DATA_DIR, or with --data-dir if the command has this option"
        ) from None
