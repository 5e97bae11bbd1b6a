"""Image files and GIFs. Torch-free."""

from pathlib import Path

from PIL import Image

from cvae.atomic import atomic_write
from cvae.errors import UsageError
from cvae.imaging.grids import legible

ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
"""The pictures that are written."""


def save(picture: Image.Image, path: str | Path) -> None:
    """Save in the format of the path's ending, whole or not at all.

    Raises:
        UsageError: no such format is known.
        CvaeError: the file can't be written.
    """
    _check_ending(path)
    with atomic_write(path) as temporary_path:
        picture.save(temporary_path)


def save_gif(frames: list[Image.Image], path: str | Path, fps: float = 12.0) -> None:
    """Pictures as an animation that begins again after the last; a GIF counts hundredths of a second.

    Raises:
        CvaeError: the file can't be written.
    """
    first, *rest = [legible(frame) for frame in frames]
    with atomic_write(path) as temporary_path:
        first.save(temporary_path, save_all=True, append_images=rest, duration=10 * round(100 / fps), loop=0)


def _check_ending(path: str | Path) -> None:
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{str(path)!r}: pictures are not written with the ending {ending!r}; try .png, .gif or .jpg")
