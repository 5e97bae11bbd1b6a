"""Writing of image files and GIFs. Torch-free."""

from pathlib import Path

from PIL import Image

from cvae.atomic import atomic_write
from cvae.errors import UsageError
from cvae.imaging.grids import enlarge

ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
"""Extensions of the formats that are written."""


def save(image: Image.Image, path: str | Path) -> None:
    """Save an image atomically, in the format of the path's extension.

    Raises:
        UsageError: the extension is not one of `ENDINGS`.
        CvaeError: the file can't be written.
    """
    _check_ending(path)
    with atomic_write(path) as temporary_path:
        image.save(temporary_path)


def save_gif(frames: list[Image.Image], path: str | Path, fps: float = 12.0) -> None:
    """Save images as an endless animation. A GIF stores the duration of a frame in hundredths of a second.

    Raises:
        CvaeError: the file can't be written.
    """
    first, *rest = [enlarge(frame) for frame in frames]
    with atomic_write(path) as temporary_path:
        first.save(temporary_path, save_all=True, append_images=rest, duration=10 * round(100 / fps), loop=0)


def _check_ending(path: str | Path) -> None:
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{str(path)!r}: images are not written with the extension {ending!r}; use .png, .gif or .jpg")
