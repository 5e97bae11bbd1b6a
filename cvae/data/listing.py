"""Listing of the image files below a folder."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cvae.errors import UsageError, count_of, one_line
from cvae.imaging.formats import explain, is_image
from cvae.run import contains_runs

SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
"""Names, in lower case, of files and folders that operating systems create."""

METADATA = "metadata.csv"
"""Name of a table of conditions in an image folder, as in Hugging Face image folders."""

MAX_REPEATS = 10_000
"""Maximum number of times that folders are read again because several links lead to them."""

MAX_NAMES = 5
"""Maximum number of names listed in a message."""

MAX_REASONS = 5
"""Maximum number of reasons listed in a message."""

Identity = tuple[int, int]
"""Device and inode of a folder."""


@dataclass(frozen=True)
class Folder:
    """A folder of images.

    Attributes:
        path: path of the folder.
        images: image files directly in the folder, sorted.
        folders: subfolders that contain images at any depth, keyed by name.
        empty: names of the subfolders without images.
        other_files: number of files at any depth that are not images, keyed by extension.
        skipped: files and folders at any depth that could not be read, each with the reason.
        run_images: images in run folders, at any depth. They are results of cvae rather than data.
        identity: device and inode; None for a combination of several folders on disk.
    """

    path: Path
    images: list[Path]
    folders: dict[str, "Folder"]
    empty: list[str] = field(default_factory=list)
    other_files: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    run_images: list[Path] = field(default_factory=list)
    identity: Identity | None = None

    def all_images(self) -> list[Path]:
        """Return the images at any depth, sorted. If several links lead to a folder, its images are listed once."""
        images: list[Path] = []
        visited: set[Identity | None] = set()
        folders = [self]
        while folders:
            folder = folders.pop()
            if folder.identity is None or folder.identity not in visited:
                images += folder.images
            visited.add(folder.identity)
            # Walk the subfolders of a visited folder too: on the first visit, some may have been skipped as loops.
            folders += folder.folders.values()
        return sorted(images)

    def summary(self) -> str:
        """Return the number of images per subfolder ("cat 13, dog 17") or in the folder itself ("4 images")."""
        counts = [f"{one_line(name, 40)} {len(sub.all_images())}" for name, sub in self.folders.items()]
        loose = [count_of(len(self.images), "image")] if self.images or not counts else []
        return ", ".join([*counts[:6], *["..."] * (len(counts) > 6), *loose])

    def describe_other_files(self) -> str:
        """Return a description of `other_files`, such as "3 .txt files, 1 other file"; "" if there are none."""
        counts = [
            count_of(count, f"{one_line(extension, 12)} file" if extension else "other file")
            for extension, count in self.other_files.most_common(8)
        ]
        return ", ".join([*counts, *["..."] * (len(self.other_files) > 8)])

    def describe_skipped(self) -> str:
        """Return a description of `skipped`, such as "permission denied: 'a/b', 'c'"."""
        return group_by_reason([(str(path.relative_to(self.path)), reason) for path, reason in self.skipped])


def group_by_reason(problems: Iterable[tuple[str, str]]) -> str:
    """Describe (name, reason) pairs grouped by reason, such as "broken link: 'a', 'b'; damaged: 'c'"."""
    groups: dict[str, list[str]] = {}
    for name, reason in problems:
        groups.setdefault(reason, []).append(name)
    descriptions = [f"{reason}: {join_names(names)}" for reason, names in groups.items()]
    return "; ".join([*descriptions[:MAX_REASONS], *["..."] * (len(descriptions) > MAX_REASONS)])


def join_names(names: Sequence[str]) -> str:
    """Return the first few names, quoted, such as "'a', 'b', ... (12 in total)"."""
    more = [f"... ({len(names):,} in total)"] if len(names) > MAX_NAMES else []
    return ", ".join([*(repr(one_line(name, 120)) for name in names[:MAX_NAMES]), *more])


def read_folder(path: Path) -> Folder:
    """List the image files below a folder, without decoding them.

    Symbolic links are followed, unless they lead to a folder above them. Names that begin with a dot are ignored. The
    images in a run folder are not listed with the others, unless `path` itself is in that run folder.

    Raises:
        UsageError: If links lead to the same folders too many times.
        OSError: If the folder can't be read. Subfolders that can't be read are listed in `skipped` instead.
    """
    return _Reader().read(path, ())


class _Reader:
    """Recursive reader of a folder, with a limit on how often it reads subfolders again."""

    def __init__(self) -> None:
        self.visited: set[Identity] = set()
        self.repeats = 0

    def read(self, path: Path, parents: tuple[Identity, ...]) -> Folder:
        """Read the folder `path`, which is below the folders `parents`."""
        status = path.stat()
        identity = status.st_dev, status.st_ino
        if identity in self.visited:
            self.repeats += 1
            if self.repeats > MAX_REPEATS:
                raise UsageError(
                    f"links lead to the same folders more than {MAX_REPEATS:,} times, for example to {str(path)!r}; "
                    "remove some of the links"
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
            except RecursionError:  # the folders are about a thousand levels deep
                folder.skipped.append((child, "too deeply nested"))
            except OSError as error:  # for example, a link to itself or an unreadable entry
                folder.skipped.append((child, "broken link" if error.errno == errno.ELOOP else explain(error)))
        return folder

    def _add_folder(self, folder: Folder, child: Path, parents: tuple[Identity, ...]) -> None:
        status = child.stat()
        if (status.st_dev, status.st_ino) in parents:
            folder.skipped.append((child, "link to a folder above it"))
            return
        sub = self.read(child, parents)
        folder.run_images.extend(sub.run_images)
        if contains_runs(child):
            folder.run_images.extend(sub.all_images())
            return
        folder.other_files.update(sub.other_files)
        folder.skipped.extend(sub.skipped)
        if sub.images or sub.folders:
            folder.folders[child.name] = sub
        else:
            folder.empty.append(child.name)


def _is_relevant(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name.lower() not in SYSTEM_NAMES


def _add_file(folder: Folder, path: Path, is_regular: bool) -> None:
    if is_regular and is_image(path):
        folder.images.append(path)
    elif path.is_symlink() and not is_regular:
        folder.skipped.append((path, "broken link"))
    elif path.name != METADATA:
        folder.other_files[path.suffix.lower()] += 1
