"""Conversion of open images of any mode to 8-bit RGB, with little memory. Does not import torch."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from cvae.imaging.formats import BITS_PER_SAMPLE, UnreadableImage

LARGE_PIXELS = 2**22
"""Approximate number of pixels to which a larger image is reduced before other operations."""

TILE_PIXELS = 2**18
"""Approximate number of pixels in a tile. Large images are processed in tiles."""

ORIENTATION = 0x0112
"""EXIF tag of the orientation."""

DEPTHS = (8, 10, 12, 14, 16)
"""Candidate bit depths for the values of 16- and 32-bit files."""

PHOTOMETRIC = 262
"""TIFF tag."""

WHITE_IS_ZERO = 0
"""Value of the tag `PHOTOMETRIC`."""


class RGBImage(NamedTuple):
    """An image converted to RGB.

    Attributes:
        rgb: upright image, composited on white.
        size: width and height of the upright original.
        bits: bit depth that was assumed for grey values stored in 16 or 32 bits; None for other files.
        peak: largest value, if the file has 16 or 32 bits per value and does not state the range; else None.
    """

    rgb: Image.Image
    size: tuple[int, int]
    bits: int | None = None
    peak: int | None = None


def to_rgb(image: Image.Image, min_bits: int = 0) -> RGBImage:
    """Convert an open image to 8-bit RGB, rotated according to its EXIF data and composited on white.

    For grey values stored in 16 or 32 bits, the assumed bit depth is the smallest of `DEPTHS` that holds the largest
    value, but at least `min_bits`: cameras and scanners store 12-bit values in 16-bit files.

    An image with more than `LARGE_PIXELS` pixels is reduced by an integer factor to about that many. The caller scales
    it to the final size.

    Raises:
        UnreadableImage: If the range of the values is unknown, because they are floats, negative, or exceed 16 bits.
    """
    width, height = image.size
    if (factor := _choose_factor(image)) > 1:
        image.draft(None, (width // factor, height // factor))  # reduce a JPEG image as far as its decoder can
    grey, peak = _decode_grey_range(image, min_bits)
    # Read the tag after decoding: Pillow itself rotates a TIFF image, removes its tag, and reports the rotated size.
    swaps_sides = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    if (factor := _choose_factor(image)) > 1:
        image = _reduce(image, factor, grey)
    image = _to_8_bits(ImageOps.exif_transpose(image), grey)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    size = (height, width) if swaps_sides else (width, height)
    return RGBImage(image.convert("RGB"), size, None if grey is None else grey.bits, peak)


class _GreyRange(NamedTuple):
    """Range 0..2**bits - 1 of grey values stored in 16 or 32 bits.

    Attributes:
        bits: number of bits.
        white_is_zero: whether 0 is white instead of black.
        transparent: value of transparent pixels, or None.
    """

    bits: int
    white_is_zero: bool = False
    transparent: int | None = None


def _decode_grey_range(image: Image.Image, min_bits: int) -> tuple[_GreyRange | None, int | None]:
    """Decode an image. Return the range of its grey values, and its peak as defined in `RGBImage`."""
    if image.mode == "F":
        raise UnreadableImage("its pixels are floats of an unknown range; save it as an 8- or 16-bit image")
    tags = getattr(image, "tag_v2", {})  # decoding removes the tags
    # Whether the file has 16 bits per channel; decoding may reduce them to 8.
    has_16_bits = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    if not image.mode.startswith("I"):
        if not has_16_bits or len(image.getbands()) < 2:
            return None, None
        # Pillow has dropped the lower 8 bits.
        return None, 256 * _find_extrema(image, 1 if image.mode == "LA" else 3)[1] + 255
    if image.format in ("PPM", "JPEG2000"):  # the file states its range, and Pillow has scaled the values
        return _GreyRange(DEPTHS[-1]), None
    white_is_zero, transparent = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO, image.info.get("transparency")
    if tags.get(BITS_PER_SAMPLE) == (12,):
        return _GreyRange(12, white_is_zero, transparent), None
    minimum, peak = _find_extrema(image, ignored_value=transparent)
    if minimum < 0 or peak >= 2 ** DEPTHS[-1]:
        raise UnreadableImage(
            f"its pixels are integers from {minimum:,} to {peak:,}, of unknown scale; save it as an 8- or 16-bit image"
        )
    bits = next(bits for bits in DEPTHS if bits >= min_bits and peak < 2**bits)
    return _GreyRange(bits, white_is_zero, transparent), peak


def _find_extrema(image: Image.Image, num_channels: int = 1, ignored_value: int | None = None) -> tuple[int, int]:
    """Return the smallest and the largest value in the first `num_channels` channels, ignoring `ignored_value`.

    Unlike Pillow's `getextrema`, this supports every 16-bit mode.
    """
    extrema = []
    for box in _iterate_tiles(image.size, 1):  # a copy of the whole image may take too much memory
        values = np.asarray(image.crop(box)).reshape(-1, len(image.getbands()))[:, :num_channels]
        values = values[values != ignored_value] if ignored_value is not None else values
        if values.size:
            extrema.append((int(values.min()), int(values.max())))
    return min((low for low, _ in extrema), default=0), max((high for _, high in extrema), default=0)


def _choose_factor(image: Image.Image) -> int:
    return math.ceil(math.sqrt(image.width * image.height / LARGE_PIXELS))


def _reduce(image: Image.Image, factor: int, grey: _GreyRange | None) -> Image.Image:
    """Reduce an image to RGB or RGBA by averaging squares of `factor` x `factor` pixels.

    The image is processed in tiles, because a copy of the whole image may take too much memory.
    """
    width, height = image.size
    mode = "RGBA" if image.has_transparency_data else "RGB"
    small = Image.new(mode, (math.ceil(width / factor), math.ceil(height / factor)))
    for box in _iterate_tiles(image.size, factor):
        tile = _to_8_bits(image.crop(box), grey)
        small.paste(tile.reduce(factor), (box[0] // factor, box[1] // factor))
    small.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return small


def _iterate_tiles(size: tuple[int, int], factor: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes of about `TILE_PIXELS` pixels that tile an image of this size (width, height).

    The sides of a box are multiples of `factor`, except at the right and lower edges of the image.
    """
    width, height = size
    tile_width = min(width, TILE_PIXELS // factor * factor)
    tile_height = max(1, TILE_PIXELS // (tile_width * factor)) * factor
    for y in range(0, height, tile_height):
        for x in range(0, width, tile_width):
            yield x, y, min(x + tile_width, width), min(y + tile_height, height)


def _to_8_bits(image: Image.Image, grey: _GreyRange | None) -> Image.Image:
    """Convert an image to 8-bit RGB, or RGBA if it has transparency."""
    if grey is not None and image.mode.startswith("I"):  # `convert` would clip the values to 255
        values = np.asarray(image)
        pixels = np.rint(values * (255 / (2**grey.bits - 1))).clip(0, 255).astype(np.uint8)
        if grey.white_is_zero:
            pixels = 255 - pixels
        if grey.transparent is not None:
            pixels[values == grey.transparent] = 255  # composite on white
        return Image.fromarray(pixels).convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
