"""Reader of image files, which converts them to RGB, and scales and crops them. Does not import torch."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from cvae.errors import CvaeError, UsageError, count_of
from cvae.imaging.formats import (
    MAX_DECODED_BYTES,
    bytes_per_pixel,
    check_size,
    explain,
    is_transient,
    open_image,
)
from cvae.imaging.rgb import DEPTHS, to_rgb

MAX_DARK = 2**12
"""A 16-bit image whose values are all below this limit, a sixteenth of the 16-bit range, is nearly black.

The values of such an image probably use fewer than 16 bits.
"""


class ReadError(CvaeError):
    """Failure to read an image file.

    Args:
        path: the file.
        reason: why it can't be read, in a few words.
        transient: whether another attempt may succeed (`is_transient`).
    """

    def __init__(self, path: str | Path, reason: str, transient: bool = False) -> None:
        super().__init__(f"can't read {str(path)!r} as an image: {reason}")
        self.reason, self.transient = reason, transient


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: image of the requested shape (C, H, W), uint8.
        size: width and height of the upright original.
        is_coloured: whether the original is in colour although C is 1.
        bits, peak: see `cvae.imaging.rgb.RGBImage`.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    is_coloured: bool = False
    bits: int | None = None
    peak: int | None = None

    @property
    def note(self) -> str | None:
        """Message about the range of the values if the file does not state it, unless they use all 16 bits."""
        if self.peak is None:
            return None
        if self.bits is not None and self.bits < DEPTHS[-1]:
            return describe_range(self.bits, self.peak)
        if self.peak < MAX_DARK:
            return f"no value is above {self.peak:,} (of 65,535), so the image is nearly black; scale it to 16 bits"
        return None


def describe_range(bits: int, peak: int) -> str:
    """Describe the assumed range of values whose maximum is `peak`: 0 to 2**bits - 1."""
    return f"values of at most {peak:,} are read as {bits} bits, 0..{2**bits - 1:,}"


def describe_ranges(ranges: Collection[tuple[int | None, int]]) -> str | None:
    """Return a message about the common bit depth that was assumed for images of more than 8 bits.

    Args:
        ranges: `bits` and `peak` of each image when it is read on its own.

    Returns:
        The message, or None if the values use the full 16-bit range.
    """
    grey = [(bits, peak) for bits, peak in ranges if bits is not None]
    depth = max((bits for bits, _ in grey), default=0)
    if grey and depth < DEPTHS[-1]:
        peak = max(peak for _, peak in grey)
        return f"{count_of(len(grey), 'image')} of 16 or 32 bits: {describe_range(depth, peak)}"
    dark = [peak for _, peak in ranges if peak < MAX_DARK]
    if not dark:
        return None
    return (
        f"{len(dark):,} of {count_of(len(ranges), 'image')} with 16 bits have no value above {max(dark):,} "
        "(of 65,535), so they are nearly black; scale them to 16 bits"
    )


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image to cover (width, height), bicubic and antialiased, and crop its centre to this size."""
    return ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def read(
    path: str | Path,
    image_shape: tuple[int, int, int],
    *,
    exact: bool = False,
    note: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Read an image file as (C, H, W) float32 in [0, 1]: grey or RGB, scaled to cover (H, W) and centre-cropped.

    Args:
        path: the image file.
        image_shape: (C, H, W), with C 1 or 3.
        exact: whether to raise an error instead of scaling, cropping or converting to grey.
        note: called with a message if the image has a different size, or is in colour although C is 1, or if the
            file does not state the range of its values.

    Raises:
        UsageError: If `exact` is set and the image has a different size, or is in colour although C is 1.
        ReadError: If the file can't be read, is not an image, or is too large (`check_size`).
    """
    with ignore_warnings():
        image = decode_file(path, image_shape)
    check_match(path, image, exact, note)
    if note is not None and image.note is not None:
        note(f"{str(path)!r}: {image.note}")
    return to_float(image.pixels)


def common_bit_depth(ranges: Mapping[int, tuple[int | None, int]]) -> tuple[int, list[int]]:
    """Return the bit depth for reading a set of images, and the indices of the images that were read with fewer bits.

    If each image had its own bit depth, the darkest image of a set could become the brightest.

    Args:
        ranges: `bits` and `peak` of each image of more than 8 bits, keyed by the index of the image in the set.
    """
    depth = max((bits for bits, _ in ranges.values() if bits is not None), default=0)
    return depth, [i for i, (bits, _) in ranges.items() if bits is not None and bits < depth]


def convert(image: Image.Image, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Convert a Pillow image to an array as `read` converts an image file.

    Raises:
        CvaeError: If the image can't be decoded, or the range of its values is unknown.
    """
    channels, height, width = image_shape
    try:
        if image.format in ("JPEG", "MPO"):
            image.load()  # `draft` can't reduce the caller's image once it is loaded
        resized = cover(to_rgb(image).rgb, (width, height))
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        raise CvaeError(f"can't read the Pillow image: {explain(error)}") from error
    return to_float(_to_array(resized, channels))


Guard = Callable[[int], AbstractContextManager[object]]
"""Function that returns a context manager for decoding an image, given the number of bytes that this may take."""


def decode_image(
    image: Image.Image,
    image_shape: tuple[int, int, int],
    own: bool = False,
    min_bits: int = 0,
    guard: Guard = lambda _: nullcontext(),
) -> DecodedImage:
    """Decode an open image, scale it to cover (H, W) and crop its centre.

    Args:
        image: the image.
        image_shape: (C, H, W), with C 1 or 3.
        own: whether the image is one of many that belong to the user. It may then take more memory, and its size may
            be reduced while it is decoded, which is faster.
        min_bits: passed to `to_rgb`.
        guard: entered after the header of the image has been read.

    Raises:
        UnreadableImage: If the image is too large, or the range of its values is unknown.
        Exception: If the image is damaged. Pillow raises many types.
    """
    channels, height, width = image_shape
    check_size(image, max_bytes=None if own else MAX_DECODED_BYTES)
    with guard(image.width * image.height * bytes_per_pixel(image)):
        if own:  # a JPEG file is decoded at a half, quarter or eighth of its size if that is large enough
            image.draft(None, (2 * width, 2 * height))
        rgb, size, bits, peak = to_rgb(image, min_bits)
    is_coloured = channels == 1 and bool(np.ptp(np.asarray(rgb), axis=2).any())
    return DecodedImage(_to_array(cover(rgb, (width, height)), channels), size, is_coloured, bits, peak)


def decode_file(
    path: str | Path,
    image_shape: tuple[int, int, int],
    own: bool = False,
    min_bits: int = 0,
    guard: Guard = lambda _: nullcontext(),
) -> DecodedImage:
    """Open and decode an image file like `decode_image`, within `ignore_warnings`.

    Raises:
        ReadError: If the file can't be read, is not an image, or is too large.
    """
    try:
        with open_image(path) as image:
            return decode_image(image, image_shape, own, min_bits, guard)
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        raise ReadError(path, explain(error), is_transient(error)) from error


@contextmanager
def ignore_warnings() -> Iterator[None]:
    """Ignore warnings about files that Pillow can read, except for the warning about huge images. Not thread-safe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def check_match(path: str | Path, image: DecodedImage, exact: bool, note: Callable[[str], None] | None) -> None:
    """Compare an image with the shape that a model takes. For `exact` and `note`, see `read`.

    Raises:
        UsageError: If `exact` is set, and the image has a different size, or is in colour although C is 1.
    """
    channels, height, width = image.pixels.shape
    if image.size == (width, height) and not image.is_coloured:
        return
    mismatch = (
        f"{str(path)!r} has {image.size[0]}x{image.size[1]} pixels{' in colour' if image.is_coloured else ''}, but the "
        f"model takes {width}x{height}{' in grey' if channels == 1 else ''}"
    )
    if exact:
        raise UsageError(f"{mismatch}; add --resize to scale and crop it")
    if note is not None:
        note(f"{mismatch}; the image is converted to fit")


def check_file(path: str | Path) -> None:
    """Check that `read` would decode an image file, without decoding it.

    Raises:
        ReadError: If the file is not an image, is damaged, or would take too much memory or time.
    """
    try:
        with ignore_warnings(), open_image(path) as file:
            check_size(file)
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        raise ReadError(path, explain(error)) from error


def _to_array(image: Image.Image, channels: int) -> np.ndarray:
    """Convert an RGB image to an array (C, H, W) uint8."""
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)  # (H, W[, 3]) -> (C, H, W)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Scale uint8 pixels to float32 in [0, 1]."""
    return pixels.astype(np.float32) / 255
