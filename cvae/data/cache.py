"""Cache of decoded image folders, one .npy file per folder.

    <root>/folders/<hash of the folder's path and the size>/<hash of its files>.npy     the images
                                                            <hash of its files>.hashes  a hash of each image
                                                            <hash of its files>.json    problems in reading them

When a file of the folder is added, removed or changed, the second hash changes and the images are decoded again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cvae.atomic import atomic_write, cache_root, lock_folder, remove_stale_files, write_file
from cvae.data.disk_images import DiskImages, hash_image
from cvae.data.images import DecodedImage, ReadFailure, decode
from cvae.errors import CvaeError, one_line
from cvae.imaging.reader import common_bit_depth, describe_ranges

FORMAT = 2
"""Version of the cache files. If it differs, the images are decoded again."""

CHUNK_BYTES = 2**24
"""Number of bytes of colour images to convert to grey at a time."""


@dataclass(frozen=True)
class DecodedFolder:
    """The decoded images of a folder.

    Attributes:
        images: (N, C, H, W), with C = 1 if all images are grey. An image that can't be read is black.
        unreadable: the reason for each image that can't be read, keyed by its index.
        note: message about how values of more than 8 bits were read, if the files don't state their range.
    """

    images: DiskImages
    unreadable: dict[int, str]
    note: str | None


def decode_folder(folder: Path, paths: Sequence[Path], size: tuple[int, int], data_dir: Path | None) -> DecodedFolder:
    """Read the images of a folder from the cache, or decode them. If another process is decoding them, wait for it.

    All images are decoded again if an image that failed earlier, with an I/O or memory error, can be read now.

    Args:
        folder: the folder, whose path is the key of the cache.
        paths: image files of the folder.
        size: height and width of the decoded images, in pixels.
        data_dir: root of the cache; None for the default.

    Raises:
        CvaeError: If a file was removed, or the cache can't be written.
    """
    location_hash, content_hash = _cache_key(folder, paths, size)
    target = cache_root(data_dir) / "folders" / location_hash / f"{content_hash}.npy"
    if cached := _read(target, paths, size):
        return cached
    console, title = Console(stderr=True), one_line(folder.resolve().name, 40)
    with ExitStack() as stack:
        try:
            with console.status(Text(f"waiting for another process to decode {title}")):
                stack.enter_context(lock_folder(target.parent, wait=True))
            if cached := _read(target, paths, size):
                return cached
            remove_stale_files(target.parent)
            details = {"folder": str(folder.resolve()), "size": size}
            with create_progress_bar(console) as bar:
                images = bar.track(decode(paths, size), len(paths), description=f"decoding {title}")
                _write(target, images, paths, size, details)
        except (CvaeError, OSError) as error:
            raise CvaeError(f"{error}; choose another folder for decoded images with --data-dir") from error
        for old in target.parent.iterdir():
            if old.stem != content_hash:
                with suppress(OSError):  # Windows can't remove a file that another run has open
                    old.unlink()
        if cached := _read(target, paths, size, retry=False):
            return cached
    raise CvaeError(f"{str(target)!r} was removed as soon as it was written; start over")


def create_progress_bar(console: Console) -> Progress:
    """Return a progress bar that shows its description without markup, and is disabled outside a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _cache_key(folder: Path, paths: Sequence[Path], size: tuple[int, int]) -> tuple[str, str]:
    """Return a hash of the folder's path and the image size, and a hash of its files."""
    location = hashlib.sha256(os.fsencode(folder.resolve()) + b"\0%d %d" % size)
    content = hashlib.sha256(b"%d" % FORMAT)
    try:
        for path in paths:
            stat = path.stat()
            relative = os.fsencode(str(path).removeprefix(f"{folder}{os.sep}"))  # paths in "." have no prefix
            # ctime also shows changes that keep size and mtime, such as cp -p or new permissions.
            content.update(b"%b\0%d %d %d\0" % (relative, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error
    return location.hexdigest()[:16], content.hexdigest()[:16]


def _read(target: Path, paths: Sequence[Path], size: tuple[int, int], *, retry: bool = True) -> DecodedFolder | None:
    """Read the cached result, or return None if it is missing or damaged.

    With `retry`, also return None if an image that failed with an I/O or memory error can be read now.
    """
    try:
        details = json.loads(target.with_suffix(".json").read_bytes())
        unreadable = {int(i): str(reason) for i, reason in details["unreadable"].items()}
        transient, note = [int(i) for i in details["transient"]], details["note"]
        images, hashes = DiskImages.open(target), np.fromfile(target.with_suffix(".hashes"), "<u8")
        if not len(images) == len(hashes) == len(paths) or not all(
            0 <= i < len(paths) for i in (*unreadable, *transient)
        ):
            return None
    except (CvaeError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if retry and transient:
        decoded_again = decode([paths[i] for i in transient], size)
        if not all(isinstance(image, ReadFailure) and image.transient for image in decoded_again):
            return None
    return DecodedFolder(replace(images, hashes=hashes), unreadable, note)


def _write(
    target: Path,
    images: Iterable[DecodedImage | ReadFailure],
    paths: Sequence[Path],
    size: tuple[int, int],
    details: dict[str, Any],
) -> None:
    """Write the images, and then the problems in reading them, to the cache."""
    shape = (len(paths), 3, *size)
    # The .npy file is used only if its .json file, which is written last, exists. So the two always belong together,
    # even if the process is killed.
    target.with_suffix(".json").unlink(missing_ok=True)
    # Write the file instead of mapping it: on a full disk, a write raises an error, but a mapping kills the process.
    with atomic_write(target) as temporary_path, temporary_path.open("w+b") as file:
        _write_header(file, shape)
        start, is_grey, black = file.tell(), True, np.zeros(shape[1:], np.uint8)
        hashes = np.zeros(len(paths), "<u8")
        failures: dict[int, ReadFailure] = {}
        ranges: dict[int, tuple[int | None, int]] = {}  # bits and peak of images with more than 8 bits
        for i, image in enumerate(images):
            if isinstance(image, ReadFailure):
                failures[i] = image
                pixels = black
            else:
                pixels = image.pixels
                if image.peak is not None:
                    ranges[i] = image.bits, image.peak
            is_grey = is_grey and bool((pixels == pixels[:1]).all())
            hashes[i] = hash_image(pixels)
            file.write(pixels.tobytes())
        bits, outliers = common_bit_depth(ranges)
        decoded_again = decode([paths[i] for i in outliers], size, bits) if outliers else ()
        for i, image in zip(outliers, decoded_again, strict=True):
            if isinstance(image, ReadFailure):
                failures[i] = image
            pixels = black if isinstance(image, ReadFailure) else image.pixels
            hashes[i] = hash_image(pixels)
            file.seek(start + i * black.size)
            file.write(pixels.tobytes())
        if is_grey:
            _convert_to_grey(file, shape)
    details |= {
        "unreadable": {str(i): failure.reason for i, failure in failures.items()},
        "transient": [i for i, failure in failures.items() if failure.transient],
        "note": describe_ranges(ranges.values()),
    }
    write_file(target.with_suffix(".hashes"), hashes.tobytes())
    write_file(target.with_suffix(".json"), json.dumps(details))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _convert_to_grey(file: BinaryIO, shape: tuple[int, int, int, int]) -> None:
    """Rewrite images with three equal channels as one channel, in place.

    Each write ends before the position of the next read, so no image is overwritten before it has been read.
    """
    count, channels, height, width = shape
    pixels = height * width
    file.seek(0)
    _write_header(file, (count, 1, height, width))  # the length of the header is unchanged, because numpy pads it
    start = file.tell()
    step = max(1, CHUNK_BYTES // (channels * pixels))
    for first in range(0, count, step):
        file.seek(start + first * channels * pixels)
        images = np.frombuffer(file.read(step * channels * pixels), np.uint8).reshape(-1, channels, pixels)
        file.seek(start + first * pixels)
        file.write(images[:, 0].tobytes())
    file.truncate(start + count * pixels)
