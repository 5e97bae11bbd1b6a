"""Reads of files that may be untrusted, atomic writes, and locks."""

import ast
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cvae import atomic
from cvae.atomic import (
    TEMPORARY_FILES,
    atomic_folder,
    atomic_update,
    atomic_write,
    cache_root,
    expand_user,
    lock_folder,
    open_regular,
    read_at_most,
    remove_stale_files,
    save_array,
    write_file,
)
from cvae.errors import CvaeError, UsageError

ROOT = Path(__file__).resolve().parents[1]

UNTRUSTED_READERS = (
    "cvae/config.py", "cvae/recipes.py", "cvae/run.py", "cvae/runtime/bulk.py", "cvae/runtime/session.py",
    "cvae/runtime/weights.py", "cvae/detection/detector.py", "cvae/engine/checkpoint.py", "cvae/engine/run_state.py",
    "cvae/plots/losses.py", "cvae/plots/progress.py", "cvae/api/hub.py", "exporters/base.py", "exporters/card.py",
    "exporters/onnx/__init__.py", "exporters/triton.py",
)  # fmt: skip
"""Modules that read the files of a run or a model."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither pipes in folders nor flock")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


SPECIAL_FILES = {
    "pipe": make_pipe,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("missing", [1, 100, 3000])
def test_array_that_does_not_fit_on_the_disk_is_an_error(tmp_path, missing):
    """A limit on the size of files makes a write fail, as a full disk would."""
    array, limits = np.arange(800, dtype=np.float32), resource.getrlimit(resource.RLIMIT_FSIZE)
    save_array(tmp_path / "file", array)
    assert np.array_equal(np.load(tmp_path / "file"), array)
    resource.setrlimit(resource.RLIMIT_FSIZE, (array.nbytes + 128 - missing, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_array(tmp_path / "file", array)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_failed_removal_of_a_temporary_file_does_not_hide_the_result(tmp_path, monkeypatch):
    def fail(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "unlink", fail)
    write_file(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    with pytest.raises(CvaeError, match="Disk quota exceeded"), atomic_write(tmp_path / "file"):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize("create", SPECIAL_FILES.values(), ids=SPECIAL_FILES)
def test_only_regular_files_are_read(tmp_path, create):
    create(tmp_path / "file")
    with pytest.raises(CvaeError, match="not a file"):
        read_at_most(tmp_path / "file", 10, truncate=True)
    with pytest.raises(OSError, match="not a file"):
        open_regular(tmp_path / "file")


def test_reads_are_bounded(tmp_path):
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(CvaeError, match="larger than 10 bytes"):
        read_at_most(path, 10)
    assert read_at_most(path, 10, truncate=True) == bytes(10)


def test_atomic_write_leaves_nothing_after_an_error(tmp_path):
    write_file(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.txt") as path:
        path.write_text("new")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "folder") as path:
        (path / "file").touch()
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_update(tmp_path) as path:
        (path / "a.txt").write_text("new")
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("existing", [[], ["a.txt", "maps/b.txt", "maps/c.txt"]], ids=["new folder", "old folder"])
def test_atomic_update_replaces_files_of_the_same_name_and_keeps_others(tmp_path, existing):
    target = tmp_path / "target"
    for name in existing:
        write_file(target / name, "old")
    with atomic_update(target) as folder:
        for name in ("a.txt", "maps/b.txt"):
            write_file(folder / name, "new")
    expected = {**dict.fromkeys(existing, "old"), "a.txt": "new", "maps/b.txt": "new"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(target).as_posix(): path.read_text() for path in files} == expected
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    with pytest.raises(CvaeError, match=r"can't write '.*a.txt': File exists"), atomic_update(target / "a.txt"):
        pytest.fail("the block is entered, although no file can be written")


@pytest.mark.integration
@pytest.mark.parametrize("writer", ["atomic_write", "atomic_folder", "atomic_update"])
def test_next_process_removes_files_of_a_killed_process(tmp_path, writer):
    code = f"import os, signal; from cvae.atomic import {writer}\nwith {writer}('a.png'): os.kill(os.getpid(), 9)"
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert child.returncode == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".tmp" and path.match(TEMPORARY_FILES)
    write_file(tmp_path / "b.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_files_of_a_running_process_are_not_removed(tmp_path):
    with atomic_write(tmp_path / "a.txt") as path, atomic_folder(tmp_path / "folder") as folder:
        remove_stale_files(tmp_path)
        assert path.exists() and folder.exists()
        path.write_text("text")
    assert (tmp_path / "a.txt").read_text() == "text" and (tmp_path / "folder").is_dir()


def test_links_are_not_followed_when_stale_files_are_removed(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "file").touch()
    (tmp_path / TEMPORARY_FILES.replace("*", "x")).symlink_to(tmp_path / "private")
    make_pipe(tmp_path / TEMPORARY_FILES.replace("*", "pipe"))
    remove_stale_files(tmp_path)
    assert (tmp_path / "private" / "file").exists()


@pytest.mark.parametrize("error", atomic.NO_LOCKS, ids=errno.errorcode.get)
def test_file_systems_without_locks(tmp_path, monkeypatch, error):
    def flock(handle: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="no locks"), lock_folder(tmp_path / "run"):
        write_file(tmp_path / "run" / "file", "text")
    new, old = (tmp_path / TEMPORARY_FILES.replace("*", name) for name in ("new", "old"))
    new.touch()
    old.touch()
    os.utime(old, (0, 0))
    remove_stale_files(tmp_path)
    assert new.exists() and not old.exists()


def test_other_lock_errors_are_reported_in_one_line(tmp_path, monkeypatch):
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CvaeError, match=r"can't write .*Input/output error"), lock_folder(tmp_path):
        pass


def test_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.delenv("CVAE_DATA_DIR", raising=False)
    assert expand_user("~/x") == Path("/somewhere/x") and cache_root(None) == Path("/somewhere/.cache/cvae")
    with pytest.raises(UsageError, match="no user 'nosuchuser'"):
        expand_user("~nosuchuser/x")
    monkeypatch.setenv("CVAE_DATA_DIR", "~nosuchuser/x")
    with pytest.raises(UsageError, match="no user 'nosuchuser'"):
        cache_root(None)


def test_missing_home_folder_names_the_flag(monkeypatch):
    import pwd

    def getpwuid(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("CVAE_DATA_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    with pytest.raises(UsageError, match=r"HOME is not set; choose a folder .* with --data-dir"):
        cache_root(None)


@pytest.mark.parametrize("name", UNTRUSTED_READERS)
def test_files_of_a_run_are_opened_by_one_function(name):
    nodes = ast.walk(ast.parse((ROOT / name).read_text("utf-8")))
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    allowed = {"temporary_path.open"}  # a file that is being written
    ends = (".open", ".read_text", ".read_bytes", "np.load", "np.fromfile")
    assert [call for call in calls if call not in allowed and (call == "open" or call.endswith(ends))] == []


def test_home_folders_are_found_by_one_function():
    folders = [ROOT / "cvae", ROOT / "cli", ROOT / "exporters"]
    paths = [path for folder in folders for path in folder.rglob("*.py") if not path.is_relative_to(ROOT / "cvae/cli")]
    users = [path.name for path in paths if ".expanduser()" in path.read_text("utf-8")]
    assert set(users) == {"atomic.py"}
