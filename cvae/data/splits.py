"""What the sub-folders of an image folder are: splits, by their names, or classes."""

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
"""Words that name a split, and the split."""

SPLIT_PART = re.compile("train(?:ing)?|trn|validation|valid|val|dev|eval|test(?:ing)?|tst")
"""What stands for a split where the name of a sibling differs only in it: DIV2K_train_HR beside DIV2K_valid_HR."""

ABBREVIATIONS = {"tr": "train", "va": "validation", "vl": "validation", "te": "test", "ts": "test"}
"""Names that may stand for splits, or for languages and countries."""

FILLER_WORDS = frozenset({"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"})
"""Words that may follow a split word, and folders that stand for nothing."""

IMAGE_WORDS = frozenset({"images", "image", "imgs", "img", "pictures", "photos"})

NOT_CLASS_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "groundtruth", "gt", "segmentation",
     "segmentations", "unseen", "holdout", "heldout", "unlabeled", "unlabelled", "extra", "pred", "predict",
     "prediction", "predictions", "sample", "samples", "query", "gallery", "public", "private", "submission"}
)  # fmt: skip
"""Words of folders that accompany splits or images; as classes they are improbable."""

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
        raise _unclear(folder, argument)  # a class with splits among others without
    return splits, left_out


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each of several sibling folders stands for, without those that stand for none.

    Names that differ only in a part are recognized too: "DIV2K_train_HR" beside "DIV2K_valid_HR", "mytrain" beside
    "mytest".
    """
    splits = {name: split for name in names if (split := split_of(name)) is not None}
    siblings: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for match in SPLIT_PART.finditer(name.lower()):
            frame = name.lower()[: match.start()], name.lower()[match.end() :]
            siblings.setdefault(frame, {})[name] = SPLIT_WORDS[match[0]]
    for frame, found in siblings.items():
        if any(frame) and "train" in found.values() and len(set(found.values())) > 1:
            splits |= found
    return splits


def _mentioned_splits(name: str) -> set[str]:
    words = [*_words(name), *re.findall("^(?:train|test|val)", name.lower())]
    return {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}


def _names_with(words: frozenset[str], folder: Folder) -> list[str]:
    return [name for name in folder.folders if words.intersection(_words(name))]


def _named_splits(
    folder: Folder, split_of_folder: dict[str, str], argument: str
) -> tuple[dict[str, Folder] | None, list[str]]:
    """The result of `find_splits` for a folder with sub-folders called after splits."""
    named = _group_by_split(folder, split_of_folder)
    others = {name: sub for name, sub in folder.folders.items() if name not in split_of_folder}
    if _is_class_named_train(folder, named, others):
        return None, []
    if "train" not in named and any(split_of(name) == "train" for name in folder.empty):
        raise UsageError(f"the training split of {str(folder.path)!r} has no images; put some there")
    for split, subs in named.items():
        if len(subs) > 1:
            names = ", ".join(sub.path.name for sub in subs)
            raise _unclear(folder, argument, f" (several are the {split or 'same'} split: {names})")
    if "train" not in named or "" in named or (len(named) == 1 and others):
        raise _unclear(folder, argument)
    _check_no_loose_images(folder)
    splits = {split: _unwrap(split, subs[0]) for split, subs in named.items()}
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
        "if they are splits, call them train, validation and test, and keep other folders elsewhere; to make each a "
        f"class, say --data {shlex.quote(f'folder-classes:{argument}')}"
    )


def _group_by_split(folder: Folder, split_of_folder: dict[str, str]) -> dict[str, list[Folder]]:
    """Group the sub-folders by split. Beside another validation set, "eval" is the test set."""
    named: dict[str, list[Folder]] = {}
    for name, split in split_of_folder.items():
        named.setdefault(split, []).append(folder.folders[name])
    validations = named.get("validation", [])
    if len(validations) == 2 and "test" not in named:
        evaluation = [sub for sub in validations if re.search("eval", sub.path.name, re.IGNORECASE)]
        if len(evaluation) == 1:
            named["test"] = evaluation
            validations.remove(evaluation[0])
    return {split: named[split] for split in (*SPLITS, "") if split in named}


def _is_class_named_train(folder: Folder, named: dict[str, list[Folder]], others: dict[str, Folder]) -> bool:
    """Return whether "train" is a class, as beside bus and car, rather than a split, as beside sample_images.

    Beside a single folder it stays unclear.
    """
    return (
        [sub.path.name.lower() for subs in named.values() for sub in subs] == ["train"]
        and len(others) > 1
        and not any(sub.folders for sub in (*named["train"], *others.values()))
        and not any(_words(name)[-1] in FILLER_WORDS for name in others if _words(name))
        and not _names_with(NOT_CLASS_WORDS, folder)
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
        split: Folder(Path(split), [], {name: splits[split] for name, splits in classes.items() if split in splits})
        for split in SPLITS
        if any(split in splits for splits in classes.values())
    }


def _check_no_annotations(folder: Folder, argument: str) -> None:
    """Check that images are not beside their masks, which would be a class too."""
    if any(set(_words(name)) <= IMAGE_WORDS for name in folder.folders) and _names_with(NOT_CLASS_WORDS, folder):
        raise _unclear(folder, argument)


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
