"""Recognition of image files, and limits on their size. Does not import torch."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cvae.atomic import check_regular
from cvae.errors import one_line

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM", "JPEG2000")
"""Supported formats, recognized by content. Pillow supports dozens more, some of them through external programs."""

TGA_EXTENSIONS = (".tga", ".icb", ".vda", ".vst")
"""Extensions of TGA files, which have no signature."""

FORMATS_BY_EXTENSION = {".dib": "DIB", **dict.fromkeys(TGA_EXTENSIONS, "TGA")}
"""Formats recognized by extension. A .dib file is a BMP file, with or without its header."""

HEIF_EXTENSIONS = (".heic", ".heif", ".hif")
"""Extensions of HEIF files, which Pillow reads only with the package pillow-heif."""

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Major brands of HEIF files. A file with one of the last two brands may also be an AVIF file."""

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".avif",
     ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", *TGA_EXTENSIONS, *HEIF_EXTENSIONS)
)  # fmt: skip
"""Extensions of image files. Other files count as images too if their content begins like an image."""

MAX_PIXELS = 2**26
"""Maximum number of pixels (67 million). Larger images are not decoded, even if their files are small."""

MAX_SIDE = 2**16
"""Maximum height and width of an image, in pixels."""

MAX_DECODED_BYTES = 160 * 2**20
"""Maximum memory for decoding an untrusted image.

It allows colour images of 42 megapixels in most formats, 28 in progressive JPEG, 14 in HEIC, 10 in WebP, 3 in AVIF and
1.3 in JPEG 2000.
"""


def open_image(path: str | Path) -> Image.Image:
    """Open an image file and recognize its format, without decoding its pixels.

    Raises:
        MissingDecoder: If it is a HEIF file, and pillow-heif is not installed.
        Exception: If the file is damaged, or not an image of a supported format. Pillow raises many types.
    """
    check_regular(path)
    extra_format = FORMATS_BY_EXTENSION.get(Path(path).suffix.lower())
    try:
        image = Image.open(path, formats=(*FORMATS, extra_format) if extra_format else FORMATS)
    except UnidentifiedImageError:
        if not _is_heif(path):
            raise
        _register_heif()
        image = Image.open(path, formats=("HEIF",))
    # Without a name, Pillow does not map the file into memory. Mapping scrambles rotated TIFF images that are not RGB.
    image.filename = ""
    return image


def _is_heif(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS


def _register_heif() -> None:
    """Make Pillow able to read HEIF files."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise MissingDecoder(
            "HEIC images need pillow-heif, which is not installed (pip install pillow-heif)"
        ) from error
    register_heif_opener()


def is_image(path: Path) -> bool:
    """Return whether a file has an image extension, or its content begins like an image."""
    if path.suffix.lower() in EXTENSIONS:
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            open_image(path).close()
    except (Image.DecompressionBombError, MissingDecoder):  # the file is an image, but can't be read
        return True
    except Exception:  # Pillow raises many types of errors for other files
        return False
    return True


def explain(error: Exception) -> str:
    """Explain in a few words why an image can't be read, given an error from Pillow or this module."""
    if isinstance(error, UnidentifiedImageError):
        return "damaged, or not an image of a supported format"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return f"too large: at most {MAX_PIXELS:,} pixels are read; scale it down"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or type(error).__name__
    if isinstance(error, UnreadableImage):
        return str(error)
    return f"damaged ({one_line(error, 80)})"


class UnreadableImage(ValueError):
    """Error about an intact image that is too large, or whose range of values is unknown."""


class MissingDecoder(UnreadableImage):
    """Error about an image that needs a package that is not installed."""


def check_size(image: Image.Image, max_bytes: int | None = MAX_DECODED_BYTES) -> None:
    """Check the size of an image before its pixels are decoded.

    Raises:
        UnreadableImage: If there are more than `MAX_PIXELS` pixels, a side is longer than `MAX_SIDE`, or decoding
            needs more than `max_bytes`.
    """
    limit = MAX_PIXELS if max_bytes is None else min(MAX_PIXELS, max_bytes // bytes_per_pixel(image))
    if image.width * image.height > limit or max(image.size) > MAX_SIDE:
        raise UnreadableImage(
            f"{image.width}x{image.height} pixels are too many: at most {limit:,} are read in this format, and "
            f"{MAX_SIDE:,} along a side; scale the image down"
        )


def bytes_per_pixel(image: Image.Image) -> int:
    """Return the number of bytes of memory per pixel to allow for decoding.

    The numbers were measured. Those for AVIF and JPEG 2000 were then increased several times, so that decoding an image
    within the limits takes at most a second.
    """
    if image.format == "WEBP":  # the decoder holds four copies of the image
        return 16
    if image.format in ("HEIF", "AVIF", "JPEG2000"):
        return {"HEIF": 12, "AVIF": 52, "JPEG2000": 128}[image.format]
    if image.format == "JPEG":  # progressive files need all coefficients in memory; others are reduced while decoding
        return 6 if "progressive" in image.info else 1
    return {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
