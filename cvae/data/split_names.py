"""Meaning of folder names: which names stand for splits, and which are unlikely to be classes."""

import re
from collections.abc import Iterable

SPLITS = ("train", "validation", "test")

SPLIT_COLUMN = "split"
"""Column of a table with the split of each image."""

AMBIGUOUS = ""
"""Result of `recognize_split` for a name that names several splits, such as "train_test"."""


def recognize_split(name: str) -> str | None:
    """Return the split that a folder's name stands for, `AMBIGUOUS` if it names several, or None if it names none.

    Any words may precede the split word, but only filler words may follow it: "Training", "seg_train", "TrainImages"
    and "train2017" are "train".
    """
    words = find_words(name)
    while len(words) > 1 and words[-1] in FILLER_WORDS:
        words.pop()
    if not words or words[-1] not in SPLIT_WORDS:
        return None
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else AMBIGUOUS


def recognize_sibling_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the splits that folders stand for, keyed by folder name. Other folders are left out.

    Sibling names that differ only in the split word are recognized too: "DIV2K_train_HR" and "DIV2K_valid_HR",
    "mytrain" and "mytest".
    """
    splits = {name: split for name in names if (split := recognize_split(name)) is not None}
    siblings: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        for match in SPLIT_SUBSTRING.finditer(name.lower()):
            affixes = name.lower()[: match.start()], name.lower()[match.end() :]
            siblings.setdefault(affixes, {})[name] = SPLIT_WORDS[match[0]]
    for affixes, split_by_name in siblings.items():
        if any(affixes) and "train" in split_by_name.values() and len(set(split_by_name.values())) > 1:
            splits |= split_by_name
    return splits


def find_mentioned_splits(name: str) -> set[str]:
    """Return the splits that a name mentions anywhere, even if it does not stand for them, such as "train_v2"."""
    words = [*find_words(name), *re.findall("^(?:train|test|val)", name.lower())]
    return {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}


def is_filler(name: str) -> bool:
    """Return whether a name consists of filler words only, so that it has no meaning of its own."""
    words = find_words(name)
    return bool(words) and set(words) <= FILLER_WORDS


def find_words(name: str) -> list[str]:
    """Return the words of a name in lower case, without digits: "TrainImages2" -> ["train", "images"]."""
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


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
"""Split that each word stands for."""

SPLIT_SUBSTRING = re.compile("train(?:ing)?|trn|validation|valid|val|dev|eval|test(?:ing)?|tst")
"""Pattern of the substrings in which names of sibling splits may differ, as in DIV2K_train_HR and DIV2K_valid_HR."""

SPLIT_ABBREVIATIONS = frozenset({"tr", "va", "vl", "te", "ts"})
"""Names that may stand for splits, but also for languages and countries."""

FILLER_WORDS = frozenset({"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder"})
"""Words that may follow a split word. A name that consists only of these has no meaning of its own."""

IMAGE_WORDS = frozenset({"images", "image", "imgs", "img", "pictures", "photos"})
"""Words in a folder name that only says that the folder contains images."""

NOT_CLASS_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "groundtruth", "gt", "segmentation",
     "segmentations", "unseen", "holdout", "heldout", "unlabeled", "unlabelled", "extra", "pred", "predict",
     "prediction", "predictions", "sample", "samples", "query", "gallery", "public", "private", "submission"}
)  # fmt: skip
"""Words in the names of folders that accompany splits or images, and that are unlikely to be classes."""
