"""Writer of images and animated GIFs. Does not import torch."""

from pathlib import Path

from PIL import Image

from cvae.atomic import atomic_write
from cvae.errors import UsageError
from cvae.imaging.grids import enlarge

EXTENSIONS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Supported extensions, with Pillow's names of the formats."""


def save(image: Image.Image, path: str | Path) -> None:
    """Save an image atomically, in the format of its extension.

    Raises:
        UsageError: If the extension is not one of `EXTENSIONS`.
        CvaeError: If the file can't be written.
    """
    check_extension(path)
    with atomic_write(path) as temporary_path:
        image.save(temporary_path, EXTENSIONS[Path(path).suffix.lower()])


def save_gif(frames: list[Image.Image], path: str | Path, fps: float = 12.0, factor: int | None = None) -> None:
    """Save images as a GIF that loops forever, each enlarged by `factor` (see `enlarge`).

    The duration of a frame is rounded to hundredths of a second.

    Raises:
        CvaeError: If the file can't be written.
    """
    first, *rest = [enlarge(frame, factor) for frame in frames]
    with atomic_write(path) as temporary_path:
        first.save(temporary_path, "GIF", save_all=True, append_images=rest, duration=10 * round(100 / fps), loop=0)


def check_extension(path: str | Path) -> None:
    """Check that the extension of a path is that of a supported format.

    Raises:
        UsageError: If the extension is not one of `EXTENSIONS`.
    """
    extension = Path(path).suffix.lower()
    if extension not in EXTENSIONS:
        raise UsageError(f"can't write {str(path)!r}: images can't be saved as {extension!r}; use .png, .gif or .jpg")
