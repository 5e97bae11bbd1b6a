"""Recognition of image files, and limits on their size. Does not import torch."""

import os
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cvae.atomic import check_regular
from cvae.errors import one_line
from cvae.imaging.headers import InvalidHeader, read_header

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

It allows colour images of 42 megapixels in most formats, 28 in JPEG of several scans, 14 in HEIC, 10 in WebP, 3 in AVIF
and 1.3 in JPEG 2000.
"""

PYTHON_DECODERS = ("ppm", "ppm_plain", "bmp_rle")
"""Decoders of Pillow that are written in Python: those of text files, unusual ranges, and run lengths."""

MAX_PYTHON_DECODED_BYTES = 2**21
"""Maximum size of an untrusted file for these decoders."""

TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)
"""Supported compressions of untrusted TIFF files: none, CCITT, LZW, JPEG, deflate and PackBits.

The decoders of others may allocate gigabytes for their dictionaries.
"""

BITS_PER_SAMPLE, COMPRESSION, SAMPLES_PER_PIXEL, ROWS_PER_STRIP = 258, 259, 277, 278
PLANAR_CONFIGURATION, TILE_WIDTH, TILE_HEIGHT = 284, 322, 323
"""TIFF tags."""

SEPARATE_PLANES = 2
"""Value of the tag `PLANAR_CONFIGURATION`."""


def open_image(path: str | Path) -> Image.Image:
    """Open an image file and recognize its format, without decoding its pixels.

    Raises:
        MissingDecoder: If it is a HEIF file, and pillow-heif is not installed.
        UnreadableImage: If it would take too long to read (`read_header`).
        Exception: If the file is damaged, or not an image of a supported format. Pillow raises many types.
    """
    check_regular(path)
    extra_format = FORMATS_BY_EXTENSION.get(Path(path).suffix.lower())
    try:
        with Path(path).open("rb") as file:
            header = read_header(file)
    except InvalidHeader as error:
        raise UnreadableImage(str(error)) from error
    try:
        image = Image.open(path, formats=(*FORMATS, extra_format) if extra_format else FORMATS)
    except UnidentifiedImageError:
        if not _is_heif(path):
            raise
        _register_heif()
        image = Image.open(path, formats=("HEIF",))
    # Without a name, Pillow does not map the file into memory. Mapping scrambles rotated TIFF images that are not RGB.
    image.filename = ""
    if header.holds_coefficients:
        image.info["progressive"] = 1  # a sequential JPEG image with several scans takes as much memory
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
    except (Image.DecompressionBombError, UnreadableImage):  # the file is an image, but can't be read
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


def is_transient(error: Exception) -> bool:
    """Return whether another attempt to read an image may succeed, for example once a missing package is installed."""
    return isinstance(error, MemoryError | MissingDecoder) or (isinstance(error, OSError) and error.errno is not None)


class UnreadableImage(ValueError):
    """Error about an intact image that is too large, or whose range of values is unknown."""


class MissingDecoder(UnreadableImage):
    """Error about an image that needs a package that is not installed."""


def check_size(image: Image.Image, max_bytes: int | None = MAX_DECODED_BYTES) -> None:
    """Check the size of an image before its pixels are decoded.

    Raises:
        UnreadableImage: If there are more than `MAX_PIXELS` pixels, a side is longer than `MAX_SIDE`, or decoding
            needs more than `max_bytes` or, if `max_bytes` is given, more than about a second.
    """
    limit = MAX_PIXELS if max_bytes is None else min(MAX_PIXELS, max_bytes // bytes_per_pixel(image))
    if image.width * image.height > limit or max(image.size) > MAX_SIDE:
        raise UnreadableImage(
            f"{image.width}x{image.height} pixels are too many: at most {limit:,} are read in this format, and "
            f"{MAX_SIDE:,} along a side; scale the image down"
        )
    if max_bytes is not None:
        _check_encoding(image, max_bytes)


def _check_encoding(image: Image.Image, max_bytes: int) -> None:
    """Check the encoding of an image, given that its number of pixels is allowed."""
    file = getattr(image, "fp", None)
    if _decoder(image) in PYTHON_DECODERS and file is not None:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_PYTHON_DECODED_BYTES:
            raise UnreadableImage(
                f"its encoding is slow to decode, so at most {MAX_PYTHON_DECODED_BYTES:,} bytes are read, not "
                f"{size:,}; save it as PNG"
            )
    if _decoder(image) != "libtiff":
        return
    tags = getattr(image, "tag_v2", {})
    if tags.get(COMPRESSION) not in TIFF_COMPRESSIONS:
        raise UnreadableImage(f"its compression {tags.get(COMPRESSION)!r} may take too much memory; save it as PNG")
    width, height = tags.get(TILE_WIDTH, image.width), tags.get(TILE_HEIGHT, tags.get(ROWS_PER_STRIP, image.height))
    if TILE_WIDTH not in tags:
        height = min(height, image.height)
    bits = tags.get(BITS_PER_SAMPLE, (1,))
    samples = 1 if tags.get(PLANAR_CONFIGURATION) == SEPARATE_PLANES else tags.get(SAMPLES_PER_PIXEL, 1)
    buffer = width * height * samples * max(bits if isinstance(bits, tuple) else (bits,)) // 8
    if buffer + image.width * image.height * bytes_per_pixel(image) > max_bytes:
        raise UnreadableImage(
            f"decoding one of its strips or tiles takes {buffer:,} bytes; save it with smaller strips or tiles"
        )


def _decoder(image: Image.Image) -> str:
    """Return the name of Pillow's decoder for an image whose pixels are not decoded yet."""
    tile = getattr(image, "tile", None)
    return tile[0][0] if tile else ""


def bytes_per_pixel(image: Image.Image) -> int:
    """Return the number of bytes of memory per pixel to allow for decoding.

    The numbers were measured. Those for AVIF, JPEG 2000 and the decoders written in Python were then increased several
    times, so that decoding an image within the limits takes at most a second.
    """
    if _decoder(image) in PYTHON_DECODERS:
        return 128 * len(image.getbands())
    if image.format == "WEBP":  # the decoder holds four copies of the image
        return 16
    if image.format in ("HEIF", "AVIF", "JPEG2000"):
        return {"HEIF": 12, "AVIF": 52, "JPEG2000": 128}[image.format]
    if image.format in ("JPEG", "MPO"):
        if "progressive" not in image.info:
            return 1  # the image is reduced while it is decoded
        return 6 if len(image.getbands()) < 4 else 9  # the decoder holds all coefficients
    return {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
