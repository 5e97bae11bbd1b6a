"""Anyone's own images: a folder of them, of any size and mode."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from cvae.data.dataset import Dataset, Split
from cvae.errors import CvaeError, UsageError
from cvae.runtime.images import FORMATS, cover, to_rgb

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
SPLITS = {"train": "train", "valid": "validation", "val": "validation", "validation": "validation", "test": "test"}
DEFAULT_SIZE = 64


def folder(argument: str, data_dir: Path | None, size: int | None) -> Dataset:
    """The images under the folder `argument`, size x size pixels (64 when None).

    - A sub-folder per class, named by it, with its images at any depth; or all images in the folder itself, without
      labels. Both at once is an error: whether the loose ones are a class is not for a program to guess.
    - When the only sub-folders are `train` and any of `valid`, `val`, `validation` and `test`, they are the splits,
      each again of one of the two kinds. The classes are those of `train`.
    - Files whose name, or whose folder's name, begins with a dot are ignored, and so are sub-folders without images.

    Images are turned as EXIF says, composited on white where they are transparent, and scaled and cropped to a
    square. There is 1 channel when every image is grey, also one saved in colour, else 3. An image that can't be
    read is skipped with a warning; so is one over Pillow's `Image.MAX_IMAGE_PIXELS` (89 megapixels).

    Raises:
        UsageError: no argument, no such folder, no images in it, or the sub-folders are of neither kind.
        CvaeError: no image of a split could be read.
    """
    if not argument:
        raise UsageError("--data 'folder' needs a path; say --data folder:PATH")
    root = Path(argument).expanduser()
    if not root.is_dir():
        raise UsageError(f"--data 'folder:{argument}': there is no such folder")
    try:
        classes, listings = list_folder(root)
    except OSError as error:
        raise CvaeError(f"can't read the folder {str(root)!r}: {error.strerror}") from error
    decoded = {split: decode(listing.paths, size or DEFAULT_SIZE) for split, listing in listings.items()}

    skipped = []
    for split, (_, readable) in decoded.items():
        unread = [path for path, ok in zip(listings[split].paths, readable, strict=True) if not ok]
        skipped += [str(path.relative_to(root)) for path in unread]
        if not readable.any():
            raise CvaeError(
                f"none of the {len(unread)} images of {split} in {str(root)!r} can be read: {_some(skipped)}"
            )
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {sum(len(listing.paths) for listing in listings.values())} images in {str(root)!r} "
            f"are skipped, as they are damaged, too large or of another format: {_some(skipped)}",
            stacklevel=2,
        )

    channels = 1 if all((images == images[:, :1]).all() for images, _ in decoded.values()) else 3
    splits = {}
    for split, (images, readable) in decoded.items():
        labels = listings[split].labels
        splits[split] = Split(
            images=np.ascontiguousarray(images[readable, :channels]),  # (N, 3, H, W) -> (readable, channels, H, W)
            labels=None if labels is None else np.array(labels, np.int64)[readable],
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
    loose = sorted(path for path in root.iterdir() if _is_image(path, root))
    classes = {
        sub.name: paths
        for sub in sorted(root.iterdir())
        if sub.is_dir() and (paths := sorted(path for path in sub.rglob("*") if _is_image(path, root)))
    }
    if loose and classes:
        raise UsageError(
            f"folder {str(root)!r} has images both in itself ({loose[0].name!r}) and in sub-folders "
            f"({', '.join(map(repr, list(classes)[:3]))}); put all into sub-folders, one a class, or none"
        )
    return loose, classes


def _is_image(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def decode(paths: Sequence[Path], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read image files, in threads.

    Returns:
        Images (N, 3, size, size) uint8, and whether each could be read (N,) bool; the others are black.
    """
    images = np.zeros((len(paths), 3, size, size), np.uint8)
    readable = np.zeros(len(paths), bool)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Pillow's remarks on files that it reads are no use here; the one on huge files comes before it decodes them.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for i, image in enumerate(pool.map(partial(_decode_one, size=size), paths)):
            if image is not None:
                images[i], readable[i] = image, True
    return images, readable


def _decode_one(path: Path, size: int) -> np.ndarray | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.draft(None, (2 * size, 2 * size))  # JPEG: decode at a half, quarter or eighth, if that is enough
            square = cover(to_rgb(image), (size, size))
    except Exception:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        return None
    return np.asarray(square).transpose(2, 0, 1)  # (size, size, 3) -> (3, size, size)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
