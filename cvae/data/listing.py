"""Listing of the image files below a folder."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cvae.errors import UsageError, count_of, one_line
from cvae.imaging.reader import explain, is_image

CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
"""Files and folders that operating systems create, in lower case."""

MAX_REPEATS = 10_000
"""Maximum number of folders read again because several links lead to them."""

MAX_NAMES, MAX_REASONS = 5, 5
"""Maximum number of names and of reasons listed in a message."""

Identity = tuple[int, int]
"""Device and inode of a folder."""


@dataclass(frozen=True)
class Folder:
    """A folder of images.

    Attributes:
        path: path of the folder.
        images: image files directly in the folder, sorted.
        folders: sub-folders with images at any depth, by name.
        empty: names of the sub-folders without images.
        others: number of files at any depth that are not images, by extension.
        skipped: files and folders at any depth that could not be read, and the reason.
        identity: device and inode; None if it does not represent a single folder on disk.
    """

    path: Path
    images: list[Path]
    folders: dict[str, "Folder"]
    empty: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    identity: Identity | None = None

    def all_images(self) -> list[Path]:
        """Return the images at any depth, sorted. A folder that several links lead to is listed once."""
        images: list[Path] = []
        visited: set[Identity | None] = set()
        folders = [self]
        while folders:
            folder = folders.pop()
            if folder.identity is None or folder.identity not in visited:
                images += folder.images
            visited.add(folder.identity)
            folders += folder.folders.values()
        return sorted(images)

    def summary(self) -> str:
        """Return the number of images per sub-folder ("cat 13, dog 17") or in the folder itself ("4 images")."""
        counts = [f"{one_line(name, 40)} {len(sub.all_images())}" for name, sub in self.folders.items()]
        own = [count_of(len(self.images), "image")] if self.images or not counts else []
        return ", ".join([*counts[:6], *["..."] * (len(counts) > 6), *own])

    def left_out(self) -> str:
        """Return `others` in words, such as "3 .txt files, 1 other file"; "" if there are none."""
        texts = [
            count_of(count, f"{one_line(extension, 12)} file" if extension else "other file")
            for extension, count in self.others.most_common(8)
        ]
        return ", ".join([*texts, *["..."] * (len(self.others) > 8)])

    def skipped_by_reason(self) -> str:
        """Return `skipped` in words, such as "permission denied: 'a/b', 'c'"."""
        return by_reason([(str(path.relative_to(self.path)), reason) for path, reason in self.skipped])


def by_reason(problems: Iterable[tuple[str, str]]) -> str:
    """Group (name, reason) pairs by reason, such as "broken link: 'a', 'b'; damaged: 'c'"."""
    groups: dict[str, list[str]] = {}
    for name, reason in problems:
        groups.setdefault(reason, []).append(name)
    texts = [f"{reason}: {name_some(names)}" for reason, names in groups.items()]
    return "; ".join([*texts[:MAX_REASONS], *["..."] * (len(texts) > MAX_REASONS)])


def name_some(names: Sequence[str]) -> str:
    """Return the first names, quoted, such as "'a', 'b', ... (12 in all)"."""
    more = [f"... ({len(names):,} in all)"] if len(names) > MAX_NAMES else []
    return ", ".join([*(repr(one_line(name, 120)) for name in names[:MAX_NAMES]), *more])


def read_folder(path: Path) -> Folder:
    """List the image files below a folder, without decoding them.

    Symbolic links are followed, unless they lead back to a folder above. Names that begin with a dot are ignored.

    Raises:
        UsageError: links lead to the same folders too many times.
        OSError: the folder can't be read. Sub-folders that can't be read are listed in `skipped` instead.
    """
    return _Reader().read(path, ())


class _Reader:
    def __init__(self) -> None:
        self.visited: set[Identity] = set()
        self.repeats = 0

    def read(self, path: Path, parents: tuple[Identity, ...]) -> Folder:
        """Read the folder `path`; `parents` are the folders above it."""
        status = path.stat()
        identity = status.st_dev, status.st_ino
        if identity in self.visited:
            self.repeats += 1
            if self.repeats > MAX_REPEATS:
                raise UsageError(
                    f"links lead to the same folders more than {MAX_REPEATS:,} times, such as to {str(path)!r}; "
                    "remove some"
                )
        self.visited.add(identity)
        folder = Folder(path, [], {}, identity=identity)
        with os.scandir(path) as iterator:
            entries = sorted(filter(_is_relevant, iterator), key=lambda entry: entry.name)
        for entry in entries:
            child = path / entry.name
            try:
                if entry.is_dir():
                    self._add_folder(folder, child, (*parents, identity))
                else:
                    _add_file(folder, child, entry.is_file())
            except RecursionError:  # a thousand levels deep
                folder.skipped.append((child, "too deeply nested"))
            except OSError as error:  # a link to itself, or an unreadable entry
                folder.skipped.append((child, "broken link" if error.errno == errno.ELOOP else explain(error)))
        return folder

    def _add_folder(self, folder: Folder, child: Path, parents: tuple[Identity, ...]) -> None:
        status = child.stat()
        if (status.st_dev, status.st_ino) in parents:
            folder.skipped.append((child, "link to a folder above it"))
            return
        sub = self.read(child, parents)
        folder.others.update(sub.others)
        folder.skipped.extend(sub.skipped)
        if sub.images or sub.folders:
            folder.folders[child.name] = sub
        else:
            folder.empty.append(child.name)


def _is_relevant(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name.lower() not in CLUTTER


def _add_file(folder: Folder, path: Path, regular: bool) -> None:
    if regular and is_image(path):
        folder.images.append(path)
    elif path.is_symlink() and not regular:
        folder.skipped.append((path, "broken link"))
    else:
        folder.others[path.suffix.lower()] += 1
