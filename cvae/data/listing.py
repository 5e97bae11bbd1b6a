"""The image files below a folder."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cvae.errors import count_of, one_line
from cvae.imaging.reader import is_image

CLUTTER = frozenset({"thumbs.db", "desktop.ini"})
"""Files of the operating system, in lower case."""

BROKEN_LINK, UNREADABLE_FOLDER = "broken link", "unreadable folder"
"""Keys of `Folder.others` beside extensions."""


@dataclass(frozen=True)
class Folder:
    """A folder: its own images, sorted, and by name its sub-folders that contain images at any depth.

    `others` counts the files at any depth that are not images, by their extension, and what can't be read.
    """

    path: Path
    images: list[Path]
    folders: dict[str, "Folder"]
    others: Counter[str]

    def all_images(self) -> list[Path]:
        """Return the images at any depth, sorted."""
        return sorted([*self.images, *(path for sub in self.folders.values() for path in sub.all_images())])

    def summary(self) -> str:
        """Return what is in the folder, counted: "cat 13, dog 17" or "4 images"."""
        counts = [f"{one_line(name, 40)} {len(sub.all_images())}" for name, sub in self.folders.items()]
        own = [count_of(len(self.images), "image")] if self.images or not counts else []
        return ", ".join([*counts[:6], *["..."] * (len(counts) > 6), *own])

    def left_out(self) -> str:
        """Return what `others` holds, in words: "3 .txt files, 1 broken link"; "" if that is nothing."""
        texts = []
        for key, count in self.others.most_common(8):
            special = key in (BROKEN_LINK, UNREADABLE_FOLDER)
            texts.append(count_of(count, key if special else f"{one_line(key, 12)} file" if key else "other file"))
        return ", ".join([*texts, *["..."] * (len(self.others) > 8)])


def read_folder(path: Path) -> Folder:
    """List the image files below a folder, without decoding them.

    Symbolic links are followed, except one that leads back into a folder above it; below a sub-folder of `path` each
    folder is read once, however many links lead there. Names that begin with a dot are ignored.

    Raises:
        OSError: the folder can't be read; one below it that can't is counted instead.
    """
    return _read(path, (), None)


def _read(path: Path, parents: tuple[tuple[int, int], ...], visited: set[tuple[int, int]] | None) -> Folder:
    status = path.stat()
    chain = (*parents, (status.st_dev, status.st_ino))
    with os.scandir(path) as iterator:
        entries = sorted((each for each in iterator if not each.name.startswith(".")), key=lambda each: each.name)
    folder = Folder(path, [], {}, Counter())
    for entry in entries:
        child = path / entry.name
        try:
            if not entry.is_dir():
                _add_file(folder, child, entry.is_file())
                continue
            status = entry.stat()
        except OSError:  # a link to itself, or into a folder that can't be entered
            folder.others[BROKEN_LINK] += 1
            continue
        identity = (status.st_dev, status.st_ino)
        below = set() if visited is None else visited
        if identity in chain or identity in below:
            continue
        below.add(identity)
        try:
            sub = _read(child, chain, below)
        except (OSError, RecursionError):  # a thousand levels deep
            folder.others[UNREADABLE_FOLDER] += 1
            continue
        folder.others.update(sub.others)
        if sub.images or sub.folders:
            folder.folders[entry.name] = sub
    return folder


def _add_file(folder: Folder, path: Path, regular: bool) -> None:
    if regular and is_image(path):
        folder.images.append(path)
    elif path.name.lower() not in CLUTTER:
        folder.others[BROKEN_LINK if path.is_symlink() and not regular else path.suffix.lower()] += 1
