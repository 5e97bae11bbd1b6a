"""Anyone's own images: a folder of them, of any size and mode."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvae.data.cache import decoded
from cvae.data.dataset import Dataset, Split
from cvae.errors import CvaeError, UsageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
SPLITS = {"train": "train", "valid": "validation", "val": "validation", "validation": "validation", "test": "test"}
DEFAULT_SIZE = (64, 64)


def folder(argument: str, data_dir: Path | None, size: tuple[int, int] | None) -> Dataset:
    """The images under the folder `argument`, `size` pixels high and wide (64 when None).

    - A sub-folder per class, named by it, with its images at any depth; or all images in the folder itself, without
      labels. Both at once is an error: whether the loose ones are a class is not for a program to guess.
    - When the only sub-folders are `train` and any of `valid`, `val`, `validation` and `test`, they are the splits,
      each again of one of the two kinds. The classes are those of `train`.
    - Files whose name, or whose folder's name, begins with a dot are ignored, and so are sub-folders without images.

    Images are turned as EXIF says, composited on white where they are transparent, and scaled and cropped to
    `size`. There is 1 channel when every image is grey, also one saved in colour, else 3. An image that can't be
    read is skipped with a warning; so is one too large to decode (`cvae.runtime.images.check_size`).
    They are decoded once, into a file under `data_dir` (`cvae.data.cache`), and again when a file has changed.

    Raises:
        UsageError: no argument, no such folder, no images in it, or the sub-folders are of neither kind.
        CvaeError: no image of a split could be read, or the decoded ones can't be kept.
    """
    if not argument:
        raise UsageError("--data 'folder' needs a path; say --data folder:PATH")
    root = Path(argument).expanduser()
    if not root.is_dir():
        raise UsageError(
            f"--data 'folder:{argument}': there is no such folder; name yours by --data folder:PATH (what a recipe "
            "needs: cvae zoo show RECIPE)"
        )
    try:
        classes, listings = list_folder(root)
    except OSError as error:
        raise CvaeError(f"can't read the folder {str(root)!r}: {error.strerror}") from error
    paths = [path for listing in listings.values() for path in listing.paths]
    images, readable = decoded(root, paths, size or DEFAULT_SIZE, data_dir)

    splits, first = {}, 0
    for split, listing in listings.items():
        kept = readable[first : first + len(listing.paths)]
        if not kept.any():
            raise CvaeError(
                f"none of the {len(kept)} images of {split} in {str(root)!r} can be read: {_some(listing.paths, root)}"
            )
        splits[split] = Split(
            images=images.select(first + np.flatnonzero(kept)),
            labels=None if listing.labels is None else np.array(listing.labels, np.int64)[kept],
        )
        first += len(kept)
    if not readable.all():
        skipped = [paths[i] for i in np.flatnonzero(~readable)]
        warnings.warn(
            f"{len(skipped)} of {len(paths)} images in {str(root)!r} are skipped, as they are damaged, too large or of "
            f"another format: {_some(skipped, root)}",
            stacklevel=2,
        )
    return Dataset(name=root.resolve().name, classes=classes, terms="the owner's own images", **splits)


@dataclass(frozen=True)
class Listing:
    """The image files of a split, sorted, and the number of each one's class."""

    paths: Sequence[Path]
    labels: Sequence[int] | None


def list_folder(root: Path) -> tuple[tuple[str, ...] | None, dict[str, Listing]]:
    """The classes, and the files of each split, by the layout that `folder` describes; no image is opened.

    Raises:
        UsageError: there are no images, or the layout is another.
    """
    loose, classes = _images_of(root)
    if "train" in classes and classes.keys() <= SPLITS.keys():
        found = {}
        for name in classes:
            if SPLITS[name] in found:
                raise UsageError(f"folder {str(root)!r} has two validation splits: {', '.join(classes)}; keep one")
            found[SPLITS[name]] = _images_of(root / name)
    else:
        found = {"train": (loose, classes)}
    if not any(loose or classes for loose, classes in found.values()):
        raise UsageError(f"no images in {str(root)!r}; a data set has some of {', '.join(sorted(SUFFIXES))}")

    number = {name: i for i, name in enumerate(found["train"][1])}
    listings: dict[str, Listing] = {}
    for split in ("train", "validation", "test"):
        if split not in found:
            continue
        loose, classes = found[split]
        if unknown := [name for name in classes if name not in number]:
            raise UsageError(f"{split} of {str(root)!r} has the class {unknown[0]!r}, which train has not")
        labels = [number[name] for name, paths in classes.items() for _ in paths]
        listings[split] = Listing(loose or [path for paths in classes.values() for path in paths], labels or None)
    return tuple(number) or None, listings


def _images_of(root: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The images in a folder itself, and those under each of its sub-folders that has any; one of the two is empty."""
    loose = sorted(path for path in root.iterdir() if is_image(path, root))
    classes = {
        sub.name: paths
        for sub in sorted(root.iterdir())
        if sub.is_dir() and (paths := sorted(path for path in sub.rglob("*") if is_image(path, root)))
    }
    if loose and classes:
        raise UsageError(
            f"folder {str(root)!r} has images both in itself ({loose[0].name!r}) and in sub-folders "
            f"({', '.join(map(repr, list(classes)[:3]))}); put all into sub-folders, one a class, or none"
        )
    return loose, classes


def is_image(path: Path, root: Path) -> bool:
    """Whether a file has the ending of an image, and nothing below `root` begins with a dot."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _some(paths: Sequence[Path], root: Path) -> str:
    names = [repr(str(path.relative_to(root))) for path in paths[:5]]
    return ", ".join(names) + (", ..." if len(paths) > 5 else "")
