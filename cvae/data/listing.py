"""The image files below a folder."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cvae.errors import UsageError, count_of, one_line
from cvae.imaging.reader import explain, is_image

CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
"""Files and folders of operating systems, in lower case."""

MAX_REPEATS = 10_000
"""Folders, at most, that are read again because another link leads there too."""

MAX_NAMES, MAX_REASONS = 5, 5
"""Names and reasons listed in a message."""

Identity = tuple[int, int]
"""Device and inode of a folder."""


@dataclass(frozen=True)
class Folder:
    """A folder of images.

    Attributes:
        images: its own images, sorted.
        folders: its sub-folders that contain images at any depth, by name.
        empty: the names of its sub-folders without images.
        others: the number of files at any depth that are not images, by extension.
        skipped: what could not be read at any depth, and the reason.
        identity: None if it does not stand for a single folder of the disk.
    """

    path: Path
    images: list[Path]
    folders: dict[str, "Folder"]
    empty: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    identity: Identity | None = None

    def all_images(self) -> list[Path]:
        """Return the images at any depth, sorted. Those of a folder that several links lead to are listed once."""
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
        """Return what is in the folder, counted: "cat 13, dog 17" or "4 images"."""
        counts = [f"{one_line(name, 40)} {len(sub.all_images())}" for name, sub in self.folders.items()]
        own = [count_of(len(self.images), "image")] if self.images or not counts else []
        return ", ".join([*counts[:6], *["..."] * (len(counts) > 6), *own])

    def left_out(self) -> str:
        """Return what `others` holds, in words: "3 .txt files, 1 broken link"; "" if that is nothing."""
        texts = [
            count_of(count, f"{one_line(extension, 12)} file" if extension else "other file")
            for extension, count in self.others.most_common(8)
        ]
        return ", ".join([*texts, *["..."] * (len(self.others) > 8)])

    def skipped_by_reason(self) -> str:
        """Return what `skipped` holds, in words: "permission denied: 'a/b', 'c'"."""
        return by_reason([(str(path.relative_to(self.path)), reason) for path, reason in self.skipped])


def by_reason(problems: Iterable[tuple[str, str]]) -> str:
    """Group names by the reason of their problem: "broken link: 'a', 'b'; damaged: 'c'"."""
    groups: dict[str, list[str]] = {}
    for name, reason in problems:
        groups.setdefault(reason, []).append(name)
    texts = [f"{reason}: {name_some(names)}" for reason, names in groups.items()]
    return "; ".join([*texts[:MAX_REASONS], *["..."] * (len(texts) > MAX_REASONS)])


def name_some(names: Sequence[str]) -> str:
    """Return the first names, quoted: "'a', 'b', ... (12 in all)"."""
    more = [f"... ({len(names):,} in all)"] if len(names) > MAX_NAMES else []
    return ", ".join([*(repr(one_line(name, 120)) for name in names[:MAX_NAMES]), *more])


def read_folder(path: Path) -> Folder:
    """List the image files below a folder, without decoding them.

    Symbolic links are followed, except one that leads back into a folder above it. Names that begin with a dot are
    ignored.

    Raises:
        UsageError: links lead to the same folders over and over.
        OSError: the folder can't be read; one below it that can't is listed in `skipped`.
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
                    f"links lead to the same folders more than {MAX_REPEATS:,} times, as to {str(path)!r}; remove some"
                )
        self.visited.add(identity)
        folder = Folder(path, [], {}, identity=identity)
        with os.scandir(path) as iterator:
            entries = sorted(filter(_is_wanted, iterator), key=lambda entry: entry.name)
        for entry in entries:
            child = path / entry.name
            try:
                if entry.is_dir():
                    self._add_folder(folder, child, (*parents, identity))
                else:
                    _add_file(folder, child, entry.is_file())
            except RecursionError:  # a thousand levels deep
                folder.skipped.append((child, "too many folders in each other"))
            except OSError as error:  # a link to itself, or what can't be read
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


def _is_wanted(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name.lower() not in CLUTTER


def _add_file(folder: Folder, path: Path, regular: bool) -> None:
    if regular and is_image(path):
        folder.images.append(path)
    elif path.is_symlink() and not regular:
        folder.skipped.append((path, "broken link"))
    else:
        folder.others[path.suffix.lower()] += 1
