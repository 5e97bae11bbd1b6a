"""The image files of a folder, and what its sub-folders are: splits, or classes."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from cvae.errors import UsageError, one_line
from cvae.runtime.images import TGA_EXTENSIONS, open_image

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".avif",
     ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", *TGA_EXTENSIONS)
)  # fmt: skip
"""Files that end so are images, damaged or not; others are if they begin like one."""

CLUTTER = frozenset({"thumbs.db", "desktop.ini"})
"""Files of the operating system, in lower case."""

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "trainval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "devel": "validation",
    "development": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testing": "test",
    "testset": "test",
    "tests": "test",
}
"""What folders of splits are called."""

FILLER_WORDS = frozenset({"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"})
"""What may stand behind that."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Folder:
    """A folder, the images in itself, sorted, and its sub-folders by name that have any at any depth."""

    path: Path
    images: list[Path]
    folders: dict[str, "Folder"]

    def all_images(self) -> list[Path]:
        """Return the images at any depth, sorted."""
        return sorted([*self.images, *(path for sub in self.folders.values() for path in sub.all_images())])

    def __str__(self) -> str:
        """The tree, two levels deep, on one line."""
        return ", ".join([f"{name}/ ({sub.contents()})" for name, sub in self.folders.items()][:8])

    def contents(self) -> str:
        """Return what is in the folder, counted: "cat 13, dog 17" or "4 images"."""
        counts = [f"{name} {len(sub.all_images())}" for name, sub in self.folders.items()]
        own = [count_of(len(self.images), "image")] if self.images or not counts else []
        return ", ".join([*counts[:6], *["..."] * (len(counts) > 6), *own])


@dataclass(frozen=True)
class Listing:
    """The image files of a split, sorted within each class, and each one's class."""

    paths: list[Path]
    labels: list[str] | None


@dataclass
class Contents:
    """The files of a folder: the listing of each split, and what is left out, as remarks."""

    splits: dict[str, Listing]
    remarks: list[str] = field(default_factory=list)


def list_folder(root: Path, argument: str, *, classes_only: bool = False) -> Contents:
    """List the image files under `root` by split and class; `argument` names it in errors.

    Files are not decoded. Sub-folders are splits where their names say so (`split_of`), at any depth, and otherwise
    classes; with `classes_only` they are classes whatever their names.

    Raises:
        UsageError: there are no images, or it is unclear what the sub-folders are.
        OSError: a folder can't be read.
    """
    others: Counter[str] = Counter()
    folder = read_folder(root, others)
    if not folder.images and not folder.folders:
        raise UsageError(
            f"no images in {str(root)!r}"
            + (f", only {_counted(others)}" if others else "")
            + f"; a data set has some of {', '.join(sorted(EXTENSIONS))}"
        )
    splits, left_out = (None, []) if classes_only else find_splits(folder, argument)
    remarks = [f"left out, beside the splits: {', '.join(left_out)}"] if left_out else []
    if others:
        remarks.append(f"left out, not readable as images: {_counted(others)}")
    return Contents({split: _listing(sub) for split, sub in (splits or {"train": folder}).items()}, remarks)


def read_folder(path: Path, others: Counter[str], parents: tuple[tuple[int, int], ...] = ()) -> Folder:
    """Read a folder and its sub-folders, those behind symbolic links too, but no link back into a folder it is in.

    Names that begin with a dot are ignored. Files that are not images are counted in `others` by their extension, and
    folders that can't be read are counted too.
    """
    status = path.stat()
    chain = (*parents, (status.st_dev, status.st_ino))
    images, folders = [], {}
    try:
        with os.scandir(path) as scanned:
            entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda each: each.name)
    except PermissionError:
        if not parents:
            raise
        others["unreadable folder"] += 1
        entries = []
    for entry in entries:
        child = path / entry.name
        if entry.is_dir():
            status = entry.stat()
            if (status.st_dev, status.st_ino) in chain:
                continue
            sub = read_folder(child, others, chain)
            if sub.images or sub.folders:
                folders[entry.name] = sub
        elif entry.is_file() and is_image(child):
            images.append(child)
        elif entry.name.lower() not in CLUTTER:
            others["broken link" if entry.is_symlink() and not child.exists() else child.suffix.lower()] += 1
    return Folder(path, images, folders)


def is_image(path: Path) -> bool:
    """Return whether a file ends, or begins, like an image."""
    if path.suffix.lower() in EXTENSIONS:
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            open_image(path).close()
    except Image.DecompressionBombError:  # an image, if too large a one
        return True
    except Exception:  # Pillow raises anything for what is not an image
        return False
    return True


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for, "" for several, and None for none.

    "Training", "seg_train", "TrainImages" and "train2017" are "train": the word may have any others before it, and
    behind it those that say nothing.
    """
    words = _words(name)
    while len(words) > 1 and words[-1] in FILLER_WORDS:
        words.pop()
    if not words or words[-1] not in SPLIT_WORDS:
        return None
    return SPLIT_WORDS[words[-1]] if len({SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}) == 1 else ""


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def find_splits(folder: Folder, argument: str) -> tuple[dict[str, Folder] | None, list[str]]:
    """Find the folder of each split, and what is left out beside them; None where the sub-folders are classes.

    The splits may be below the folder itself, below one of its sub-folders, or below each class.

    Raises:
        UsageError: it is unclear.
    """

    def unclear(reason: str = "") -> UsageError:
        return UsageError(
            f"it is unclear whether the sub-folders of {str(folder.path)!r} are splits or classes{reason}: {folder}; "
            "if they are splits, call them train, validation and test, and keep other folders elsewhere; if each is a "
            f"class, say --data folder-classes:{argument}"
        )

    named = _by_split(folder)
    if named:
        others = {name: sub for name, sub in folder.folders.items() if split_of(name) is None}
        if _is_vehicle(named, others):
            return None, []
        for split, subs in named.items():
            if len(subs) > 1:
                raise unclear(f" (several are the {split} split: {', '.join(sub.path.name for sub in subs)})")
        if "train" not in named or "" in named or (len(named) == 1 and others):
            raise unclear()
        _refuse_loose(folder)
        splits = {split: _unwrap(split, subs[0]) for split, subs in named.items()}
        if any(len(_by_split(sub)) > 1 for sub in splits.values()):
            raise unclear()  # train/ and test/ within train/
        return splits, [f"{name} ({sub.contents()})" for name, sub in others.items()]
    found = {name: result for name, sub in folder.folders.items() if (result := find_splits(sub, argument))[0]}
    if not found:
        return None, []
    _refuse_loose(folder)
    left_out = [text for _, texts in found.values() for text in texts]
    if len(found) == len(folder.folders) > 1:
        classes = {name: splits for name, (splits, _) in found.items() if splits}
        if any(sub.folders for splits in classes.values() for sub in splits.values()):
            raise unclear()
        return _splits_of_classes(classes), left_out
    if len(found) > 1:
        raise unclear()
    ((name, (only, _)),) = found.items()
    beside = [f"{other} ({sub.contents()})" for other, sub in folder.folders.items() if other != name]
    if beside and only and not any(sub.folders for sub in only.values()):
        raise unclear()  # a class with splits among others without
    return only, left_out + beside


def _by_split(folder: Folder) -> dict[str, list[Folder]]:
    """The sub-folders that are called after splits, by split; "eval" is the test set beside another validation set."""
    named: dict[str, list[Folder]] = {}
    for name, sub in folder.folders.items():
        if (split := split_of(name)) is not None:
            named.setdefault(split, []).append(sub)
    validations = named.get("validation", [])
    if len(validations) == 2 and "test" not in named:
        evaluation = [sub for sub in validations if re.search("eval", sub.path.name, re.IGNORECASE)]
        if len(evaluation) == 1:
            named["test"] = evaluation
            validations.remove(evaluation[0])
    return {split: named[split] for split in (*SPLITS, "") if split in named}


def _is_vehicle(named: dict[str, list[Folder]], others: dict[str, Folder]) -> bool:
    """Whether "train" is a class, like bus and car beside it, and not the split beside sample_images."""
    return (
        [sub.path.name.lower() for subs in named.values() for sub in subs] == ["train"]
        and bool(others)
        and not any(sub.folders for sub in (*named["train"], *others.values()))
        and not any(_words(name)[-1:] and _words(name)[-1] in FILLER_WORDS for name in others)
    )


def _unwrap(split: str, folder: Folder) -> Folder:
    """The folder, or the one of the same split that is all there is in it: train/train."""
    while not folder.images and len(folder.folders) == 1:
        ((name, sub),) = folder.folders.items()
        if split_of(name) != split:
            break
        folder = sub
    return folder


def _splits_of_classes(classes: dict[str, dict[str, Folder]]) -> dict[str, Folder]:
    """cat/train, cat/test, dog/train, dog/test -> train with cat and dog, test with cat and dog."""
    return {
        split: Folder(Path(split), [], {name: splits[split] for name, splits in classes.items() if split in splits})
        for split in SPLITS
        if any(split in splits for splits in classes.values())
    }


def _refuse_loose(folder: Folder) -> None:
    if folder.images and folder.folders:
        raise UsageError(
            f"folder {str(folder.path)!r} has images both in itself ({folder.images[0].name!r}) and in sub-folders "
            f"({', '.join(map(repr, list(folder.folders)[:3]))}); put all into sub-folders, one a class, or none"
        )


def _listing(folder: Folder) -> Listing:
    _refuse_loose(folder)
    if folder.images:
        return Listing(folder.images, None)
    by_class = {name: sub.all_images() for name, sub in folder.folders.items()}
    paths = [path for images in by_class.values() for path in images]
    return Listing(paths, [name for name, images in by_class.items() for _ in images])


def count_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _counted(others: Counter[str]) -> str:
    def items() -> Iterator[str]:
        for extension, count in others.most_common(8):
            file = f"{one_line(extension, 12)} file" if extension else "other file"
            yield count_of(count, extension if extension in ("broken link", "unreadable folder") else file)

    return ", ".join([*items(), *["..."] * (len(others) > 8)])
