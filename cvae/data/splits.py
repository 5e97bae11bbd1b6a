"""What the sub-folders of an image folder are: splits, by their names, or classes."""

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cvae.data.listing import Folder, read_folder
from cvae.errors import UsageError, one_line
from cvae.imaging.reader import EXTENSIONS

SPLITS = ("train", "validation", "test")

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
"""Words that name a split, and the split."""

FILLER_WORDS = frozenset({"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"})
"""Words that may follow a split word, and folders that stand for nothing."""

MAX_FOLDERS_SHOWN = 8


@dataclass(frozen=True)
class Listing:
    """The image files of a split, sorted within each class, and each one's class."""

    paths: list[Path]
    labels: list[str] | None


@dataclass
class FolderListing:
    """The listing of each split of a folder, and remarks about what is left out."""

    splits: dict[str, Listing]
    remarks: list[str] = field(default_factory=list)


def list_folder(root: Path, argument: str, *, classes_only: bool = False) -> FolderListing:
    """List the image files under `root` by split and class; `argument` names it in errors.

    Files are not decoded. Sub-folders are splits if their names say so (`split_of`), at any depth, and classes
    otherwise; with `classes_only` they are classes whatever their names.

    Raises:
        UsageError: there are no images, or it is unclear what the sub-folders are.
        OSError: the folder can't be read.
    """
    folder = read_folder(root)
    if not folder.images and not folder.folders:
        only = f", only {folder.left_out()}" if folder.others else ""
        raise UsageError(f"no images in {str(root)!r}{only}; a data set has some of {', '.join(sorted(EXTENSIONS))}")
    splits, left_out = (None, []) if classes_only else find_splits(folder, argument)
    remarks = [f"left out, beside the splits: {', '.join(left_out)}"] if left_out else []
    if folder.others:
        remarks.append(f"left out, not readable as images: {folder.left_out()}")
    return FolderListing({name: _listing(sub) for name, sub in (splits or {"train": folder}).items()}, remarks)


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for, "" if it names several splits, None if it names none.

    Any words may come before the split word, only filler words after it: "Training", "seg_train", "TrainImages" and
    "train2017" are "train".
    """
    words = _words(name)
    while len(words) > 1 and words[-1] in FILLER_WORDS:
        words.pop()
    if not words or words[-1] not in SPLIT_WORDS:
        return None
    return SPLIT_WORDS[words[-1]] if len({SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}) == 1 else ""


def find_splits(folder: Folder, argument: str) -> tuple[dict[str, Folder] | None, list[str]]:
    """Find the folder of each split, and the folders left out. The result is None if the sub-folders are classes.

    The splits may be below the folder itself, below one of its sub-folders, or below each class.

    Raises:
        UsageError: it is unclear.
    """
    named = _group_by_split(folder)
    if named:
        return _named_splits(folder, named, argument)
    starts = {SPLIT_WORDS[match[0]] for name in folder.folders if (match := re.match("train|test|val", name.lower()))}
    if len(starts) > 1 and "train" in starts:
        raise _unclear(folder, argument)  # trainA, testA
    nested = {name: result for name, sub in folder.folders.items() if (result := find_splits(sub, argument))[0]}
    if not nested:
        return None, []
    _check_no_loose_images(folder)
    left_out = [text for _, texts in nested.values() for text in texts]
    if len(nested) == len(folder.folders) > 1:
        classes = {name: splits for name, (splits, _) in nested.items() if splits}
        if any(_is_filler(name) for name in classes) or any(
            s.folders for each in classes.values() for s in each.values()
        ):
            raise _unclear(folder, argument)
        return _join_classes(classes), left_out
    if len(nested) > 1:
        raise _unclear(folder, argument)
    ((name, (splits, _)),) = nested.items()
    left_out += [f"{one_line(other, 40)} ({sub.summary()})" for other, sub in folder.folders.items() if other != name]
    if len(folder.folders) > 1 and splits and not any(sub.folders for sub in splits.values()):
        raise _unclear(folder, argument)  # a class with splits among others without
    return splits, left_out


def _named_splits(
    folder: Folder, named: dict[str, list[Folder]], argument: str
) -> tuple[dict[str, Folder] | None, list[str]]:
    """The result of `find_splits` for a folder with sub-folders called after splits."""
    others = {name: sub for name, sub in folder.folders.items() if split_of(name) is None}
    if _is_class_named_train(named, others):
        return None, []
    for split, subs in named.items():
        if len(subs) > 1:
            names = ", ".join(sub.path.name for sub in subs)
            raise _unclear(folder, argument, f" (several are the {split or 'same'} split: {names})")
    if "train" not in named or "" in named or (len(named) == 1 and others):
        raise _unclear(folder, argument)
    _check_no_loose_images(folder)
    splits = {split: _unwrap(split, subs[0]) for split, subs in named.items()}
    for sub in splits.values():
        try:
            inner, _ = find_splits(sub, argument)
        except UsageError:  # classes with such names
            continue
        if inner and len(inner) > 1:
            raise _unclear(folder, argument)  # train and test within train
    return splits, [f"{one_line(name, 40)} ({sub.summary()})" for name, sub in others.items()]


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _is_filler(name: str) -> bool:
    return bool(_words(name)) and set(_words(name)) <= FILLER_WORDS


def _unclear(folder: Folder, argument: str, reason: str = "") -> UsageError:
    ordered = sorted(folder.folders, key=lambda name: split_of(name) is None)
    tree = ", ".join(
        f"{one_line(name, 40)}/ ({folder.folders[name].summary()})" for name in ordered[:MAX_FOLDERS_SHOWN]
    )
    more = ", ..." if len(ordered) > MAX_FOLDERS_SHOWN else ""
    return UsageError(
        f"it is unclear whether the sub-folders of {str(folder.path)!r} are splits or classes{reason}: {tree}{more}; "
        "if they are splits, call them train, validation and test, and keep other folders elsewhere; to make each a "
        f"class, say --data {shlex.quote(f'folder-classes:{argument}')}"
    )


def _group_by_split(folder: Folder) -> dict[str, list[Folder]]:
    """Group the sub-folders by split. Beside another validation set, "eval" is the test set."""
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


def _is_class_named_train(named: dict[str, list[Folder]], others: dict[str, Folder]) -> bool:
    """Return whether "train" is a class, as beside bus and car, rather than a split, as beside sample_images."""
    return (
        [sub.path.name.lower() for subs in named.values() for sub in subs] == ["train"]
        and bool(others)
        and not any(sub.folders for sub in (*named["train"], *others.values()))
        and not any(_words(name)[-1] in FILLER_WORDS for name in others if _words(name))
    )


def _unwrap(split: str, folder: Folder) -> Folder:
    """Return the folder, or the only one in it if that is the same split or stands for nothing: train/images."""
    while not folder.images and len(folder.folders) == 1:
        ((name, sub),) = folder.folders.items()
        if split_of(name) != split and not _is_filler(name):
            break
        folder = sub
    return folder


def _join_classes(classes: dict[str, dict[str, Folder]]) -> dict[str, Folder]:
    """cat/train, cat/test, dog/train, dog/test -> train with cat and dog, test with cat and dog."""
    return {
        split: Folder(
            Path(split), [], {name: splits[split] for name, splits in classes.items() if split in splits}, Counter()
        )
        for split in SPLITS
        if any(split in splits for splits in classes.values())
    }


def _check_no_loose_images(folder: Folder) -> None:
    if folder.images and folder.folders:
        raise UsageError(
            f"folder {str(folder.path)!r} has images both in itself ({folder.images[0].name!r}) and in sub-folders "
            f"({', '.join(map(repr, list(folder.folders)[:3]))}); put all into sub-folders, one a class, or none; "
            "other images belong elsewhere"
        )


def _listing(folder: Folder) -> Listing:
    _check_no_loose_images(folder)
    if folder.images:
        return Listing(folder.images, None)
    by_class = {name: sub.all_images() for name, sub in folder.folders.items()}
    paths = [path for images in by_class.values() for path in images]
    return Listing(paths, [name for name, images in by_class.items() for _ in images])
