"""Reading of image files as arrays, within limits of size. Torch-free."""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cvae.errors import CvaeError, UsageError, count_of, one_line

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM", "JPEG2000")
"""Formats that are read, by content. Pillow supports dozens, some of them through external programs."""

TGA_EXTENSIONS = (".tga", ".icb", ".vda", ".vst")
"""TGA files have no signature, so they are recognized by their extension."""

BY_EXTENSION = {".dib": "DIB", **dict.fromkeys(TGA_EXTENSIONS, "TGA")}
"""Formats without a signature of their own. A .dib file is a BMP file, with or without its header."""

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".avif",
     ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", *TGA_EXTENSIONS)
)  # fmt: skip
"""Extensions of image files. Other files count as images if their content begins like one."""

MAX_PIXELS, MAX_LENGTH, MAX_DECODED = 2**26, 2**16, 160 * 2**20
"""Limits on pixels (67 million), side length and bytes. Larger images are not decoded, since a few kilobytes can encode
them. The limit on bytes that decoding takes holds for untrusted images: 42 megapixels in colour, 28 as progressive
JPEG, 10 as WebP, 3 as AVIF, 1.3 as JPEG 2000."""

LARGE, TILE = 2**22, 2**18
"""Pixels above which an image is reduced before other operations, and pixels of the tiles in which that is done."""

ORIENTATION = 0x0112
"""EXIF tag of the orientation."""

DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths at which 16- and 32-bit files are read."""

DARK = 2**12
"""If no value of a 16-bit image reaches this, a sixteenth of the range, its range may be meant to be smaller."""

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Two TIFF tags, and a value of the second."""


def open_image(path: str | Path) -> Image.Image:
    """Open an image file by its content, without decoding its pixels.

    Raises:
        Exception: the file is damaged, or not an image of a supported format. Pillow raises many types of errors.
    """
    extra = BY_EXTENSION.get(Path(path).suffix.lower())
    image = Image.open(path, formats=(*FORMATS, extra) if extra else FORMATS)
    # Without a name, Pillow does not map the file, which would scramble rotated TIFF images that are not RGB.
    image.filename = ""
    return image


def is_image(path: Path) -> bool:
    """Return whether a file has the extension of an image, or its content begins like one."""
    if path.suffix.lower() in EXTENSIONS:
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            open_image(path).close()
    except Image.DecompressionBombError:  # an image, but too large
        return True
    except Exception:  # Pillow raises many types of errors for other files
        return False
    return True


def explain(error: Exception) -> str:
    """Return in a few words why an image can't be read, from the error that Pillow or this module raised."""
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
    """Error for an intact image that is not read because it is too large or the range of its values is unknown."""


def check_size(image: Image.Image, max_bytes: int | None = MAX_DECODED) -> None:
    """Check the size of an image before its pixels are decoded.

    Raises:
        UnreadableImage: there are more than `MAX_PIXELS` pixels, a side is longer than `MAX_LENGTH`, or decoding takes
            more than `max_bytes`.
    """
    limit = MAX_PIXELS if max_bytes is None else min(MAX_PIXELS, max_bytes // bytes_per_pixel(image))
    if image.width * image.height > limit or max(image.size) > MAX_LENGTH:
        raise UnreadableImage(
            f"{image.width}x{image.height} pixels are too many: at most {limit:,} are read in this format, and "
            f"{MAX_LENGTH:,} along a side; scale it down"
        )


def bytes_per_pixel(image: Image.Image) -> int:
    """Return the bytes per pixel that decoding takes, as measured.

    For AVIF and JPEG 2000 the value is several times larger, so that decoding within the limit takes at most a second.
    """
    if image.format == "WEBP":  # four copies
        return 16
    if image.format in ("AVIF", "JPEG2000"):
        return {"AVIF": 52, "JPEG2000": 128}[image.format]
    if image.format == "JPEG":  # progressive: all coefficients at once; others are decoded at a half or less
        return 6 if "progressive" in image.info else 1
    return {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)


class RGBImage(NamedTuple):
    """A decoded image.

    Attributes:
        rgb: the image, upright and composited on white.
        size: width and height of the original, upright.
        bits: depth at which grey values of 16 or 32 bits were read; None for other files.
        peak: largest value, if the file has 16 or 32 bits per value and does not state their range; else None.
    """

    rgb: Image.Image
    size: tuple[int, int]
    bits: int | None = None
    peak: int | None = None

    @property
    def remark(self) -> str | None:
        """Message on how values were read, if the file does not state their range and they don't fill 16 bits."""
        if self.peak is None:
            return None
        if self.bits is not None and self.bits < DEPTHS[-1]:
            return describe_range(self.bits, self.peak)
        if self.peak < DARK:
            return f"no value is above {self.peak:,} of 65,535, which is nearly black; scale them to 16 bits"
        return None


def describe_range(bits: int, peak: int) -> str:
    """Return a message that values of at most `peak` are read as `bits` bits."""
    return f"values of at most {peak:,} are read as {bits} bits, 0..{2**bits - 1:,}"


def describe_ranges(ranges: Collection[tuple[int | None, int]]) -> str | None:
    """Return a message on the common depth at which images of more than 8 bits were read.

    It is None if their values fill 16 bits. `ranges` holds the `bits` and `peak` of each image when it is read alone.
    """
    grey = [(bits, peak) for bits, peak in ranges if bits is not None]
    depth = max((bits for bits, _ in grey), default=0)
    if grey and depth < DEPTHS[-1]:
        peak = max(peak for _, peak in grey)
        return f"{count_of(len(grey), 'image')} of 16 or 32 bits: {describe_range(depth, peak)}"
    dark = [peak for _, peak in ranges if peak < DARK]
    if not dark:
        return None
    return (
        f"{len(dark):,} of {count_of(len(ranges), 'image')} of 16 bits have no value above {max(dark):,} of 65,535, "
        "which is nearly black; scale them to 16 bits"
    )


def to_rgb(image: Image.Image, min_bits: int = 0) -> RGBImage:
    """Convert an opened image to 8-bit RGB, rotated as its EXIF data say and composited on white.

    Grey values of 16 or 32 bits are read at the smallest depth (`DEPTHS`) that holds the largest of them, but at least
    at `min_bits`: cameras and scanners store 12 bits in 16-bit files.

    An image of more than `LARGE` pixels is reduced by a whole factor to about that many; the caller does the rest.

    Raises:
        UnreadableImage: the values are floats, negative, or exceed 16 bits, so that their range is unknown.
    """
    width, height = image.size
    if (factor := _factor(image)) > 1:
        image.draft(None, (width // factor, height // factor))  # JPEG: as far as its decoder can reduce it
    grey, peak = _grey_range(image, min_bits)
    # Read the tag after decoding: Pillow rotates TIFF images itself and removes it; it has reported their final size.
    swaps_sides = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    if (factor := _factor(image)) > 1:
        image = _reduce(image, factor, grey)
    image = _to_8_bits(ImageOps.exif_transpose(image), grey)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    size = (height, width) if swaps_sides else (width, height)
    return RGBImage(image.convert("RGB"), size, None if grey is None else grey.bits, peak)


class _GreyRange(NamedTuple):
    """The range 0..2**bits - 1 of grey values of 16 or 32 bits, from white to black if `white_is_zero`."""

    bits: int
    white_is_zero: bool = False
    transparent: int | None = None


def _grey_range(image: Image.Image, min_bits: int) -> tuple[_GreyRange | None, int | None]:
    """Decode an image, and return the range of its grey values and the `peak` of `RGBImage`."""
    if image.mode == "F":
        raise UnreadableImage("its pixels are floats of an unknown range; save it with 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})  # decoding removes them
    has_16_bits = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # for each channel, in the file
    image.load()
    if not image.mode.startswith("I"):
        if not has_16_bits or len(image.getbands()) < 2:
            return None, None
        # Pillow has dropped the lower 8 bits.
        return None, 256 * _extrema(image, 1 if image.mode == "LA" else 3)[1] + 255
    if image.format in ("PPM", "JPEG2000"):  # the file states its range, and Pillow has scaled the values
        return _GreyRange(DEPTHS[-1]), None
    white_is_zero, transparent = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO, image.info.get("transparency")
    if tags.get(BITS_PER_SAMPLE) == (12,):
        return _GreyRange(12, white_is_zero, transparent), None
    minimum, peak = _extrema(image, ignored=transparent)
    if minimum < 0 or peak >= 2 ** DEPTHS[-1]:
        raise UnreadableImage(
            f"its pixels are integers from {minimum:,} to {peak:,}, of an unknown range; save it with 8 or 16 bits"
        )
    bits = next(bits for bits in DEPTHS if bits >= min_bits and peak < 2**bits)
    return _GreyRange(bits, white_is_zero, transparent), peak


def _extrema(image: Image.Image, channels: int = 1, ignored: int | None = None) -> tuple[int, int]:
    """Return the smallest and the largest value of the first channels. Pillow can't for every 16-bit mode."""
    extrema = []
    for box in _tiles(image.size, 1):  # a copy of the whole image may take too much memory
        values = np.asarray(image.crop(box)).reshape(-1, len(image.getbands()))[:, :channels]
        values = values[values != ignored] if ignored is not None else values
        if values.size:
            extrema.append((int(values.min()), int(values.max())))
    return min((low for low, _ in extrema), default=0), max((high for _, high in extrema), default=0)


def _factor(image: Image.Image) -> int:
    return math.ceil(math.sqrt(image.width * image.height / LARGE))


def _reduce(image: Image.Image, factor: int, grey: _GreyRange | None) -> Image.Image:
    """Average squares of `factor` pixels to RGB or RGBA, tile by tile: a copy of the whole may take too much memory."""
    width, height = image.size
    mode = "RGBA" if image.has_transparency_data else "RGB"
    small = Image.new(mode, (math.ceil(width / factor), math.ceil(height / factor)))
    for box in _tiles(image.size, factor):
        tile = _to_8_bits(image.crop(box), grey)
        small.paste(tile.reduce(factor), (box[0] // factor, box[1] // factor))
    small.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return small


def _tiles(size: tuple[int, int], factor: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes of about `TILE` pixels that tile an image (width, height); their sides are multiples of `factor`."""
    width, height = size
    across = min(width, TILE // factor * factor)
    down = max(1, TILE // (across * factor)) * factor
    for y in range(0, height, down):
        for x in range(0, width, across):
            yield x, y, min(x + across, width), min(y + down, height)


def _to_8_bits(image: Image.Image, grey: _GreyRange | None) -> Image.Image:
    """Convert to 8-bit RGB, or RGBA if there is transparency."""
    if grey is not None and image.mode.startswith("I"):  # `convert` would clip the values to 255
        values = np.asarray(image)
        pixels = np.rint(values * (255 / (2**grey.bits - 1))).clip(0, 255).astype(np.uint8)
        if grey.white_is_zero:
            pixels = 255 - pixels
        if grey.transparent is not None:
            pixels[values == grey.transparent] = 255  # on white
        return Image.fromarray(pixels).convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image to cover (width, height), bicubic and antialiased, and crop its centre to that size."""
    return ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def read(
    path: str | Path,
    image_shape: tuple[int, int, int],
    *,
    exact: bool = False,
    remark: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Read an image file as (C, H, W) float32 in [0, 1]: grey or RGB, scaled to cover (H, W) and centre-cropped.

    Args:
        path: the image file.
        image_shape: (C, H, W), with C 1 or 3.
        exact: raise an error instead of scaling, cropping or dropping the colour.
        remark: called with a message if the image has another size, or is in colour where C is 1.

    Raises:
        UsageError: with `exact`, the image has another size, or is in colour where C is 1.
        CvaeError: the file can't be read, is not an image, or is too large (`check_size`).
    """
    image, decoded = _read(path, image_shape, exact, remark)
    if remark is not None and decoded.remark is not None:
        remark(f"{str(path)!r}: {decoded.remark}")
    return image


def read_set(
    paths: Sequence[str | Path],
    image_shape: tuple[int, int, int],
    *,
    exact: bool = False,
    remark: Callable[[str], None] | None = None,
) -> tuple[np.ndarray, str | None]:
    """Read image files like `read`, but with grey values of more than 8 bits at one depth for all of them.

    If each had a depth of its own, the darkest image of a set could become the brightest.

    Returns:
        The images (N, C, H, W), and a message on how values of more than 8 bits were read, or None if there are none
        or they fill 16 bits.

    Raises:
        UsageError: with `exact`, an image has another size, or is in colour where C is 1.
        CvaeError: a file can't be read, is not an image, or is too large.
    """
    images = np.empty((len(paths), *image_shape), np.float32)
    ranges: dict[int, tuple[int | None, int]] = {}  # bits and peak of images of more than 8 bits
    for i, path in enumerate(paths):
        images[i], decoded = _read(path, image_shape, exact, remark)
        if decoded.peak is not None:
            ranges[i] = decoded.bits, decoded.peak
    depth = max((bits for bits, _ in ranges.values() if bits is not None), default=0)
    for i, (bits, _) in ranges.items():
        if bits is not None and bits < depth:
            images[i], _ = _read(paths[i], image_shape, exact, None, min_bits=depth)
    return images, describe_ranges(ranges.values())


def _read(
    path: str | Path,
    image_shape: tuple[int, int, int],
    exact: bool,
    remark: Callable[[str], None] | None,
    min_bits: int = 0,
) -> tuple[np.ndarray, RGBImage]:
    """Read an image file like `read`, without a message on its values, and also return the decoded image."""
    channels, height, width = image_shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that Pillow can read nevertheless
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # above Pillow's own limit
            with open_image(path) as file:
                check_size(file)
                decoded = to_rgb(file, min_bits)
                fitted = cover(decoded.rgb, (width, height))
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        raise CvaeError(f"can't read {str(path)!r} as an image: {explain(error)}") from error
    size = decoded.size
    coloured = channels == 1 and np.ptp(np.asarray(decoded.rgb), axis=2).any()
    if size != (width, height) or coloured:
        mismatch = (
            f"{str(path)!r} has {size[0]}x{size[1]} pixels{' in colour' if coloured else ''}, the "
            f"model takes {width}x{height}{' in grey' if channels == 1 else ''}"
        )
        if exact:
            raise UsageError(f"{mismatch}; --resize scales and crops it")
        if remark is not None:
            remark(f"{mismatch}: it is made to fit")
    pixels = np.asarray(fitted.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), decoded  # (H, W[, 3]) -> (C, H, W)
