"""What is kept on this machine: downloads, and the images of a folder, decoded once into one .npy file.

    <root>/folders/<hash of the folder's path and the size>/<hash of what is in it>.npy    the images
                                                            <the same>.json                which could not be read

A file of the folder that is added, removed or changed changes the second hash, and the images are decoded anew.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from cvae.data.images import decode
from cvae.data.rows import Rows
from cvae.errors import CvaeError
from cvae.files import cache_root, locked, sweep, whole, write_whole

FORMAT = 1
"""The version of what is kept; another one is not read, but made anew."""

CHUNK = 2**24
"""Bytes that are rewritten in one go."""


def decoded(
    folder: Path, paths: Sequence[Path], size: tuple[int, int], data_dir: Path | None
) -> tuple[Rows, np.ndarray]:
    """The images of `paths`, which lie in `folder`, decoded now or earlier; while another process decodes them, wait.

    Returns:
        Images (N, C, *size), C 1 when all are grey, and whether each could be read (N,) bool; if not, it is black.

    Raises:
        CvaeError: a file has gone, or the cache can't be written.
    """
    place, name = _names(folder, paths, size)
    target = cache_root(data_dir) / "folders" / place / f"{name}.npy"
    if kept := _kept(target, len(paths)):
        return kept
    console, title = Console(stderr=True), escape(folder.resolve().name)
    with ExitStack() as stack:
        try:
            with console.status(f"waiting for another process that decodes {title}"):
                stack.enter_context(locked(target.parent, wait=True))
            if kept := _kept(target, len(paths)):
                return kept
            sweep(target.parent)
            hidden = not console.is_terminal
            images = track(
                decode(paths, size), f"decoding {title}", len(paths), console=console, transient=True, disable=hidden
            )
            about = {"folder": str(folder.resolve()), "size": size}
            _make(target, images, (len(paths), 3, *size), about)
        except (CvaeError, OSError) as error:
            raise CvaeError(f"{error}; decoded images are kept there, choose another place by --data-dir") from error
        for old in target.parent.iterdir():
            if old.stem != name:
                with suppress(OSError):  # Windows keeps what another run still reads; elsewhere that run reads on
                    old.unlink()
        if kept := _kept(target, len(paths)):
            return kept
    raise CvaeError(f"{str(target)!r} was removed as soon as it was made; start again")


def _names(folder: Path, paths: Sequence[Path], size: tuple[int, int]) -> tuple[str, str]:
    """The hash of where the images are, and that of what they are."""
    place = hashlib.sha256(os.fsencode(folder.resolve()) + b"\0%d %d" % size)
    name = hashlib.sha256(b"%d" % FORMAT)
    try:
        for path in paths:
            stat = path.stat()
            relative = os.fsencode(str(path).removeprefix(f"{folder}{os.sep}"))  # "./x" is "x" already
            # The change of the file's entry, ctime, tells of what keeps size and mtime: cp -p, or permission to read.
            name.update(b"%b\0%d %d %d\0" % (relative, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
    return place.hexdigest()[:16], name.hexdigest()[:16]


def _kept(target: Path, count: int) -> tuple[Rows, np.ndarray] | None:
    """What `decoded` returns, if it is there, and whole."""
    try:
        images, readable = Rows.open(target), np.ones(count, bool)
        readable[np.array(json.loads(target.with_suffix(".json").read_bytes())["unreadable"], np.int64)] = False
    except (CvaeError, OSError, ValueError, LookupError, TypeError):
        return None
    return (images, readable) if len(images) == count else None


def _make(target: Path, images: Iterable[np.ndarray | None], shape: tuple[int, int, int, int], about: dict) -> None:
    # Written, not mapped: on a full disk a write fails, where a map would kill the process.
    with whole(target) as beside, beside.open("w+b") as file:
        _write_header(file, shape)
        unreadable, grey, black = [], True, np.zeros(shape[1:], np.uint8)
        for i, image in enumerate(images):
            if image is None:
                unreadable.append(i)
                image = black
            grey = grey and bool((image == image[:1]).all())
            file.write(image.tobytes())
        if grey:
            _drop_colour(file, shape)
        # First, so that no images are without.
        write_whole(target.with_suffix(".json"), json.dumps({**about, "unreadable": unreadable}))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _drop_colour(file: BinaryIO, shape: tuple[int, int, int, int]) -> None:
    """Rewrite images whose three channels are equal with one, in place; from the front, so nothing unread is lost."""
    count, channels, height, width = shape
    plane = height * width
    file.seek(0)
    _write_header(file, (count, 1, height, width))  # numpy pads it: it is as long as before
    start = file.tell()
    step = max(1, CHUNK // (channels * plane))
    for first in range(0, count, step):
        file.seek(start + first * channels * plane)
        images = np.frombuffer(file.read(step * channels * plane), np.uint8).reshape(-1, channels, plane)
        file.seek(start + first * plane)
        file.write(images[:, 0].tobytes())
    file.truncate(start + count * plane)
