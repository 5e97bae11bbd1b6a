"""Recognition of the sub-folders of an image folder as splits or classes, by their names."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cvae.data.listing import Folder, name_some, read_folder
from cvae.errors import UsageError, one_line
from cvae.imaging.reader import EXTENSIONS

SPLITS = ("train", "validation", "test")

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "trainval": "train",
    "trn": "train",
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
    "tst": "test",
}
"""The split that each word stands for."""

SPLIT_PART = re.compile("train(?:ing)?|trn|validation|valid|val|dev|eval|test(?:ing)?|tst")
"""Parts of names that stand for a split if a sibling differs only there: DIV2K_train_HR and DIV2K_valid_HR."""

ABBREVIATIONS = {"tr": "train", "va": "validation", "vl": "validation", "te": "test", "ts": "test"}
"""Names that may stand for splits, but also for languages and countries."""

FILLER_WORDS = frozenset({"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"})
"""Words that may follow a split word. A folder named only by these has no meaning of its own."""

IMAGE_WORDS = frozenset({"images", "image", "imgs", "img", "pictures", "photos"})

NOT_CLASS_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "groundtruth", "gt", "segmentation",
     "segmentations", "unseen", "holdout", "heldout", "unlabeled", "unlabelled", "extra", "pred", "predict",
     "prediction", "predictions", "sample", "samples", "query", "gallery", "public", "private", "submission"}
)  # fmt: skip
"""Words in the names of folders that accompany splits or images, and that are unlikely to be classes."""

MAX_FOLDERS_SHOWN = 8


@dataclass(frozen=True)
class Listing:
    """The image files of a split, sorted within each class, and the class of each, or None without classes."""

    paths: list[Path]
    labels: list[str] | None


@dataclass
class FolderListing:
    """The listing of each split of a folder, and remarks about files and folders that are left out."""

    splits: dict[str, Listing]
    remarks: list[str] = field(default_factory=list)


def list_folder(root: Path, argument: str, *, classes_only: bool = False) -> FolderListing:
    """List the image files under `root` by split and class, without decoding them.

    Args:
        root: the folder.
        argument: the folder as the user wrote it, for error messages.
        classes_only: treat sub-folders as classes, whatever their names. Otherwise those with the name of a split
            (`split_of`) are splits, at any depth.

    Raises:
        UsageError: there are no images, or it is unclear what the sub-folders are.
        OSError: the folder can't be read.
    """
    folder = read_folder(root)
    if not folder.images and not folder.folders:
        only = f", only {folder.left_out()}" if folder.others else ""
        raise UsageError(f"no images in {str(root)!r}{only}; a data set needs some of {', '.join(sorted(EXTENSIONS))}")
    splits, left_out = (None, []) if classes_only else find_splits(folder, argument)
    remarks = [f"left out, beside the splits: {', '.join(left_out)}"] if left_out else []
    if folder.others:
        remarks.append(f"left out, not readable as images: {folder.left_out()}")
    if folder.skipped:
        remarks.append(f"left out: {folder.skipped_by_reason()}")
    listings = {}
    for name, sub in (splits or {"train": folder}).items():
        listings[name] = _listing(sub)
        if sub.folders and sub.empty:
            remarks.append(f"left out, without images: {name_some(sub.empty)}")
    if listings["train"].labels is None and (labelled := [name for name in listings if listings[name].labels]):
        remarks.append(f"labels are not used: {' and '.join(labelled)} has a folder for each class, train does not")
        listings = {name: Listing(listing.paths, None) for name, listing in listings.items()}
    return FolderListing(listings, remarks)


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for, "" if it names several splits, or None if it names none.

    Any words may precede the split word, but only filler words may follow it: "Training", "seg_train", "TrainImages"
    and "train2017" are "train".
    """
    words = _words(name)
    while len(words) > 1 and words[-1] in FILLER_WORDS:
        words.pop()
    if not words or words[-1] not in SPLIT_WORDS:
        return None
    return SPLIT_WORDS[words[-1]] if len({SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}) == 1 else ""


def find_splits(folder: Folder, argument: str) -> tuple[dict[str, Folder] | None, list[str]]:
    """Return the folder of each split (None if the sub-folders are classes), and the folders that are left out.

    The splits may be below the folder itself, below one of its sub-folders, or below each class.

    Raises:
        UsageError: it is unclear whether the sub-folders are splits or classes.
    """
    split_of_folder = splits_of(folder.folders)
    if split_of_folder:
        return _named_splits(folder, split_of_folder, argument)
    mentioned = {split for name in folder.folders for split in _mentioned_splits(name)}
    if len(mentioned) > 1 and "train" in mentioned:
        raise _unclear(folder, argument)  # train_v2, test_v1
    if len(folder.folders) > 1 and all(name.lower() in ABBREVIATIONS for name in folder.folders):
        raise _unclear(folder, argument)
    _check_no_annotations(folder, argument)
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
        raise _unclear(folder, argument)  # one class with splits, others without
    return splits, left_out


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each of several sibling folders stands for; those that stand for none are missing.

    Names that differ only in the split are recognized too: "DIV2K_train_HR" and "DIV2K_valid_HR", "mytrain" and
    "mytest".
    """
    splits = {name: split for name in names if (split := split_of(name)) is not None}
    siblings: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for match in SPLIT_PART.finditer(name.lower()):
            frame = name.lower()[: match.start()], name.lower()[match.end() :]
            siblings.setdefault(frame, {})[name] = SPLIT_WORDS[match[0]]
    for frame, split_by_name in siblings.items():
        if any(frame) and "train" in split_by_name.values() and len(set(split_by_name.values())) > 1:
            splits |= split_by_name
    return splits


def _mentioned_splits(name: str) -> set[str]:
    words = [*_words(name), *re.findall("^(?:train|test|val)", name.lower())]
    return {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}


def _names_with(words: frozenset[str], folder: Folder) -> list[str]:
    return [name for name in folder.folders if words.intersection(_words(name))]


def _named_splits(
    folder: Folder, split_of_folder: dict[str, str], argument: str
) -> tuple[dict[str, Folder] | None, list[str]]:
    """Return the result of `find_splits` for a folder with sub-folders that are named after splits."""
    groups = _group_by_split(folder, split_of_folder)
    others = {name: sub for name, sub in folder.folders.items() if name not in split_of_folder}
    if _is_class_named_train(folder, groups, others):
        return None, []
    if "train" not in groups and any(split_of(name) == "train" for name in folder.empty):
        raise UsageError(f"the training split of {str(folder.path)!r} has no images; put some there")
    for split, subs in groups.items():
        if len(subs) > 1:
            names = ", ".join(sub.path.name for sub in subs)
            raise _unclear(folder, argument, f" (several are the {split or 'same'} split: {names})")
    if "train" not in groups or "" in groups or (len(groups) == 1 and others):
        raise _unclear(folder, argument)
    _check_no_loose_images(folder)
    splits = {split: _unwrap(split, subs[0]) for split, subs in groups.items()}
    for sub in splits.values():
        _check_no_annotations(sub, argument)
        try:
            inner, _ = find_splits(sub, argument)
        except UsageError:  # classes with such names
            continue
        if inner and len(inner) > 1:
            raise _unclear(folder, argument)  # train and test within train
    left_out = [f"{one_line(name, 40)} ({sub.summary()})" for name, sub in others.items()]
    return splits, [*left_out, *(f"{one_line(name, 40)} (no images)" for name in folder.empty if split_of(name))]


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _is_filler(name: str) -> bool:
    return bool(_words(name)) and set(_words(name)) <= FILLER_WORDS


def _unclear(folder: Folder, argument: str, reason: str = "") -> UsageError:
    split_of_folder = splits_of(folder.folders)
    ordered = sorted(folder.folders, key=lambda name: name not in split_of_folder)
    tree = ", ".join(
        f"{one_line(name, 40)}/ ({folder.folders[name].summary()})" for name in ordered[:MAX_FOLDERS_SHOWN]
    )
    more = ", ..." if len(ordered) > MAX_FOLDERS_SHOWN else ""
    return UsageError(
        f"it is unclear whether the sub-folders of {str(folder.path)!r} are splits or classes{reason}: {tree}{more}; "
        "if they are splits, name them train, validation and test, and move other folders elsewhere; to make each a "
        f"class, use --data {shlex.quote(f'folder-classes:{argument}')}"
    )


def _group_by_split(folder: Folder, split_of_folder: dict[str, str]) -> dict[str, list[Folder]]:
    """Group the sub-folders by split. If there is another validation set, "eval" is the test set."""
    groups: dict[str, list[Folder]] = {}
    for name, split in split_of_folder.items():
        groups.setdefault(split, []).append(folder.folders[name])
    validations = groups.get("validation", [])
    if len(validations) == 2 and "test" not in groups:
        evaluation = [sub for sub in validations if re.search("eval", sub.path.name, re.IGNORECASE)]
        if len(evaluation) == 1:
            groups["test"] = evaluation
            validations.remove(evaluation[0])
    return {split: groups[split] for split in (*SPLITS, "") if split in groups}


def _is_class_named_train(folder: Folder, groups: dict[str, list[Folder]], others: dict[str, Folder]) -> bool:
    """Return whether "train" is a class (next to bus and car) rather than a split (next to sample_images).

    Next to a single folder it stays unclear.
    """
    return (
        [sub.path.name.lower() for subs in groups.values() for sub in subs] == ["train"]
        and len(others) > 1
        and not any(sub.folders for sub in (*groups["train"], *others.values()))
        and not any(_words(name)[-1] in FILLER_WORDS for name in others if _words(name))
        and not _names_with(NOT_CLASS_WORDS, folder)
    )


def _unwrap(split: str, folder: Folder) -> Folder:
    """Return the folder, or its only sub-folder if that is the same split or a filler: train/images."""
    while not folder.images and len(folder.folders) == 1:
        ((name, sub),) = folder.folders.items()
        if split_of(name) != split and not _is_filler(name):
            break
        folder = sub
    return folder


def _join_classes(classes: dict[str, dict[str, Folder]]) -> dict[str, Folder]:
    """Turn cat/train, cat/test, dog/train, dog/test into train with cat and dog, and test with cat and dog."""
    return {
        split: Folder(Path(split), [], {name: splits[split] for name, splits in classes.items() if split in splits})
        for split in SPLITS
        if any(split in splits for splits in classes.values())
    }


def _check_no_annotations(folder: Folder, argument: str) -> None:
    """Check that there are no masks next to the images, which would become a class."""
    if any(set(_words(name)) <= IMAGE_WORDS for name in folder.folders) and _names_with(NOT_CLASS_WORDS, folder):
        raise _unclear(folder, argument)


def _check_no_loose_images(folder: Folder) -> None:
    if folder.images and folder.folders:
        raise UsageError(
            f"folder {str(folder.path)!r} has images both directly in it ({folder.images[0].name!r}) and in "
            f"sub-folders ({', '.join(map(repr, list(folder.folders)[:3]))}); put all into sub-folders, one per class, "
            "or none, and move other images elsewhere"
        )


def _listing(folder: Folder) -> Listing:
    _check_no_loose_images(folder)
    if folder.images:
        return Listing(folder.images, None)
    by_class = {name: sub.all_images() for name, sub in folder.folders.items()}
    paths = [path for images in by_class.values() for path in images]
    return Listing(paths, [name for name, images in by_class.items() for _ in images])
