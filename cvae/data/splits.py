"""Recognition of splits and classes in an image folder, by the names of its subfolders.

    Input tree                                           Result
    a.png, b.png                                         train, without labels
    cat/, dog/                                           train, with the classes cat and dog
    train/, val/, test/                                  train, validation and test, each without labels
    train/cat/, train/dog/, test/cat/, test/dog/         train and test, with the classes cat and dog
    archive/train/, archive/test/                        the splits below archive
    cat/train/, cat/test/, dog/train/, dog/test/         train and test, with the classes cat and dog
    train/images/, test/images/                          train and test, without labels: "images" is not a class
    bus/, car/, train/, without further subfolders       train, with the classes bus, car and train
    test/, bus/                                          an error: splits or classes?

A folder has splits (`find_splits` returns `SplitFolders`), has no splits (`find_splits` returns None, and the
subfolders are classes), or is ambiguous (`find_splits` raises a UsageError that states the reason).
`cvae.data.split_names` interprets the individual names.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cvae.data.listing import Folder, join_names, read_folder
from cvae.data.split_names import (
    AMBIGUOUS,
    FILLER_WORDS,
    IMAGE_WORDS,
    NOT_CLASS_WORDS,
    SPLIT_ABBREVIATIONS,
    SPLITS,
    find_mentioned_splits,
    find_words,
    is_filler,
    recognize_sibling_splits,
    recognize_split,
)
from cvae.errors import UsageError, count_of, one_line
from cvae.imaging.formats import EXTENSIONS

MAX_FOLDERS_SHOWN = 8
"""Maximum number of subfolders that an error message lists."""


@dataclass(frozen=True)
class SplitListing:
    """Image files of a split.

    Attributes:
        paths: image files, sorted within each class.
        labels: class name of each image, or None without classes.
    """

    paths: list[Path]
    labels: list[str] | None


@dataclass
class FolderListing:
    """Image files of a folder by split, and messages about files and folders that are skipped."""

    splits: dict[str, SplitListing]
    notes: list[str] = field(default_factory=list)


class SplitFolders(NamedTuple):
    """Folders of the splits.

    Attributes:
        splits: folder of each split, by split name.
        skipped: descriptions of the folders that do not belong to a split.
    """

    splits: dict[str, Folder]
    skipped: list[str]


def list_folder(root: Path, argument: str, *, classes_only: bool = False) -> FolderListing:
    """List the image files under `root` by split and class, without decoding them.

    Args:
        root: the folder.
        argument: the folder as the user wrote it, for error messages.
        classes_only: treat every subfolder as a class. Otherwise, subfolders that are named after a split
            are splits, at any depth.

    Raises:
        UsageError: If there are no images, or it is unclear whether the subfolders are splits or classes.
        OSError: If the folder can't be read.
    """
    folder = read_folder(root)
    if not folder.images and not folder.folders:
        others = [f"{count_of(len(folder.run_images), 'image')} in run folders"] if folder.run_images else []
        others += [folder.describe_other_files()] if folder.other_files else []
        only = f", only {' and '.join(others)}" if others else ""
        raise UsageError(f"no images in {str(root)!r}{only}; add images of type {', '.join(sorted(EXTENSIONS))}")
    split_folders = None if classes_only else find_splits(folder, argument)
    notes = []
    if split_folders and split_folders.skipped:
        notes.append(f"ignored folders next to the splits: {', '.join(split_folders.skipped)}")
    if folder.other_files:
        notes.append(f"ignored files that are not readable images: {folder.describe_other_files()}")
    if folder.run_images:
        notes.append(f"ignored {count_of(len(folder.run_images), 'image')} in run folders")
    if folder.skipped:
        notes.append(f"ignored: {folder.describe_skipped()}")
    listings = {}
    for name, sub in (split_folders.splits if split_folders else {"train": folder}).items():
        listings[name] = _list_images(sub)
        if sub.folders and sub.empty:
            notes.append(f"ignored folders without images: {join_names(sub.empty)}")
    if listings["train"].labels is None and (labelled := [name for name in listings if listings[name].labels]):
        notes.append(f"labels are not used: train has no subfolders for classes, unlike {' and '.join(labelled)}")
        listings = {name: SplitListing(listing.paths, None) for name, listing in listings.items()}
    return FolderListing(listings, notes)


def find_splits(folder: Folder, argument: str) -> SplitFolders | None:
    """Find the folders of the splits below a folder.

    The splits may be directly below the folder, below one of its subfolders, or below each class.

    Args:
        folder: the folder.
        argument: the data set folder as the user wrote it, for error messages.

    Returns:
        The folders of the splits, or None if the subfolders are classes.

    Raises:
        UsageError: If it is ambiguous whether the subfolders are splits or classes.
    """
    split_by_name = recognize_sibling_splits(folder.folders)
    if split_by_name:
        return _find_named_splits(folder, split_by_name, argument)
    mentioned = {split for name in folder.folders for split in find_mentioned_splits(name)}
    if len(mentioned) > 1 and "train" in mentioned:  # for example, train_v2 and test_v1
        names = " and ".join(split for split in SPLITS if split in mentioned)
        raise _ambiguity_error(folder, argument, f"the names mention {names} among other words")
    if len(folder.folders) > 1 and all(name.lower() in SPLIT_ABBREVIATIONS for name in folder.folders):
        raise _ambiguity_error(folder, argument, "the names may be abbreviations of splits")
    _check_no_annotations(folder, argument)
    nested = {name: inner for name, sub in folder.folders.items() if (inner := find_splits(sub, argument))}
    if not nested:
        return None
    _check_no_loose_images(folder)
    skipped = [text for inner in nested.values() for text in inner.skipped]
    if len(nested) == len(folder.folders) > 1:
        by_class = {name: inner.splits for name, inner in nested.items()}
        if fillers := [name for name in by_class if is_filler(name)]:
            raise _ambiguity_error(
                folder, argument, f"each of them has splits, but {_quote(fillers[0])} is probably not a class"
            )
        if any(sub.folders for splits in by_class.values() for sub in splits.values()):
            raise _ambiguity_error(folder, argument, "each of them has splits with subfolders of their own")
        return SplitFolders(_join_classes(by_class), skipped)
    if len(nested) > 1:
        raise _ambiguity_error(folder, argument, "some of them have splits and others do not")
    ((name, inner),) = nested.items()
    skipped += _describe(sub for other, sub in folder.folders.items() if other != name)
    if len(folder.folders) > 1 and not any(sub.folders for sub in inner.splits.values()):
        # `name` may also be a class with splits, next to classes without splits.
        raise _ambiguity_error(folder, argument, f"only {_quote(name)} has splits")
    return SplitFolders(inner.splits, skipped)


def _find_named_splits(folder: Folder, split_by_name: dict[str, str], argument: str) -> SplitFolders | None:
    """Return the result of `find_splits` for a folder with subfolders that are named after splits."""
    groups = _group_by_split(folder, split_by_name)
    siblings = {name: sub for name, sub in folder.folders.items() if name not in split_by_name}
    if _is_class_named_train(folder, groups, siblings):
        return None
    if "train" not in groups and any(recognize_split(name) == "train" for name in folder.empty):
        raise UsageError(f"the training split of {str(folder.path)!r} has no images; add images to it")
    if AMBIGUOUS in groups:
        raise _ambiguity_error(folder, argument, f"{_quote(groups[AMBIGUOUS][0].path.name)} names several splits")
    for split, subs in groups.items():
        if len(subs) > 1:
            names = ", ".join(one_line(sub.path.name, 40) for sub in subs)
            raise _ambiguity_error(folder, argument, f"several look like the {split} split ({names})")
    if "train" not in groups:
        raise _ambiguity_error(folder, argument, "none of them is the train split")
    if len(groups) == 1 and siblings:
        raise _ambiguity_error(folder, argument, "there are other folders next to the train split")
    _check_no_loose_images(folder)
    splits = {split: _unwrap(split, subs[0]) for split, subs in groups.items()}
    for sub in splits.values():
        _check_no_annotations(sub, argument)
        try:
            inner = find_splits(sub, argument)
        except UsageError:  # the names are ambiguous, but subfolders of a split can only be classes
            continue
        if inner and len(inner.splits) > 1:
            raise _ambiguity_error(folder, argument, f"{_quote(sub.path.name)} has splits too")
    empty = [f"{one_line(name, 40)} (no images)" for name in folder.empty if recognize_split(name)]
    return SplitFolders(splits, [*_describe(siblings.values()), *empty])


def _describe(folders: Iterable[Folder]) -> list[str]:
    return [f"{one_line(folder.path.name, 40)} ({folder.summary()})" for folder in folders]


def _quote(name: str) -> str:
    return repr(one_line(name, 40))


def _ambiguity_error(folder: Folder, argument: str, reason: str) -> UsageError:
    """Return an error that shows the subfolders, why they are ambiguous, and both ways to resolve the ambiguity."""
    split_by_name = recognize_sibling_splits(folder.folders)
    ordered = sorted(folder.folders, key=lambda name: name not in split_by_name)
    tree = ", ".join(
        f"{one_line(name, 40)}/ ({folder.folders[name].summary()})" for name in ordered[:MAX_FOLDERS_SHOWN]
    )
    more = ", ..." if len(ordered) > MAX_FOLDERS_SHOWN else ""
    return UsageError(
        f"it is unclear whether the subfolders of {str(folder.path)!r} are splits or classes, because {reason}: "
        f"{tree}{more}; if they are splits, name them train, validation and test, and move other folders elsewhere; to "
        f"make each subfolder a class, use --data {shlex.quote(f'folder-classes:{argument}')}"
    )


def _group_by_split(folder: Folder, split_by_name: dict[str, str]) -> dict[str, list[Folder]]:
    """Group the subfolders by split. If there is another validation set, "eval" is the test set."""
    groups: dict[str, list[Folder]] = {}
    for name, split in split_by_name.items():
        groups.setdefault(split, []).append(folder.folders[name])
    validations = groups.get("validation", [])
    if len(validations) == 2 and "test" not in groups:
        evaluation = [sub for sub in validations if re.search("eval", sub.path.name, re.IGNORECASE)]
        if len(evaluation) == 1:
            groups["test"] = evaluation
            validations.remove(evaluation[0])
    return {split: groups[split] for split in (*SPLITS, AMBIGUOUS) if split in groups}


def _is_class_named_train(folder: Folder, groups: dict[str, list[Folder]], siblings: dict[str, Folder]) -> bool:
    """Return whether "train" is a class (next to bus and car) rather than a split (next to sample_images).

    Next to a single other folder, "train" is ambiguous.
    """
    return (
        [sub.path.name.lower() for subs in groups.values() for sub in subs] == ["train"]
        and len(siblings) > 1
        and not any(sub.folders for sub in (*groups["train"], *siblings.values()))
        and not any(find_words(name)[-1] in FILLER_WORDS for name in siblings if find_words(name))
        and not _find_names(folder, NOT_CLASS_WORDS)
    )


def _find_names(folder: Folder, words: frozenset[str]) -> list[str]:
    return [name for name in folder.folders if words.intersection(find_words(name))]


def _unwrap(split: str, folder: Folder) -> Folder:
    """Return the folder, or its only subfolder if the subfolder's name adds nothing, as in train/images."""
    while not folder.images and len(folder.folders) == 1:
        ((name, sub),) = folder.folders.items()
        if recognize_split(name) != split and not is_filler(name):
            break
        folder = sub
    return folder


def _join_classes(by_class: dict[str, dict[str, Folder]]) -> dict[str, Folder]:
    """Turn cat/train, cat/test, dog/train, dog/test into train with cat and dog, and test with cat and dog."""
    return {
        split: Folder(Path(split), [], {name: splits[split] for name, splits in by_class.items() if split in splits})
        for split in SPLITS
        if any(split in splits for splits in by_class.values())
    }


def _check_no_annotations(folder: Folder, argument: str) -> None:
    """Check that there are no masks next to the images, because the masks would become a class."""
    images = [name for name in folder.folders if set(find_words(name)) <= IMAGE_WORDS]
    if images and (annotations := _find_names(folder, NOT_CLASS_WORDS)):
        raise _ambiguity_error(folder, argument, f"{_quote(annotations[0])} is probably not a class")


def _check_no_loose_images(folder: Folder) -> None:
    if folder.images and folder.folders:
        raise UsageError(
            f"folder {str(folder.path)!r} has images both directly in it ({folder.images[0].name!r}) and in "
            f"subfolders ({', '.join(map(repr, list(folder.folders)[:3]))}); put all images either into "
            "subfolders, one per class, or directly into the folder, and move unrelated images elsewhere"
        )


def _list_images(folder: Folder) -> SplitListing:
    _check_no_loose_images(folder)
    if folder.images:
        return SplitListing(folder.images, None)
    by_class = {name: sub.all_images() for name, sub in folder.folders.items()}
    paths = [path for images in by_class.values() for path in images]
    return SplitListing(paths, [name for name, images in by_class.items() for _ in images])
