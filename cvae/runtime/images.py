"""Arrays to pictures and back: PNG files, grids, strips and GIFs."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cvae.errors import CvaeError, UsageError, one_line
from cvae.files import whole

LEGIBLE, NARROW, WIDE = 280, 96, 1280
"""Pictures smaller than the first are enlarged by a whole factor when they are saved for a person to look at; so are
strips narrower than the second, as long as they are not wider than the third then."""

ENLARGE = Image.Resampling.LANCZOS
"""How: smoothly, since an eye reads a digit of 8x8 pixels more easily so than as 64 squares."""


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float values in [0, 1] -> uint8 0..255, rounded; what is not a number becomes 0. uint8 stays as it is."""
    if images.dtype == np.uint8:
        return images
    return np.rint(np.clip(np.nan_to_num(images, nan=0.0), 0, 1) * 255).astype(np.uint8)


def to_pil(image: np.ndarray) -> Image.Image:
    """One image (C, H, W), float in [0, 1] or uint8, C 1 or 3 -> a Pillow image of the same size.

    Raises:
        UsageError: the array is of another shape.
    """
    if np.ndim(image) != 3 or image.shape[0] not in (1, 3):
        raise UsageError(f"an array of the shape {np.shape(image)} is no image (C, H, W) with 1 or 3 channels")
    pixels = to_uint8(image)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))  # (C, H, W) -> (H, W[, C])


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Images (N, C, H, W) row by row on one picture, with a thin gap; by default about as many columns as rows."""
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows, gap = math.ceil(count / columns), max(1, height // 28)
    sheet = np.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 0.5, dtype=np.float32
    )  # (C, rows, columns)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, y : y + height, x : x + width] = image
    return to_pil(sheet)


def strip(images: np.ndarray) -> Image.Image:
    """Images (N, C, H, W) side by side, with a thin gap."""
    return grid(images, columns=len(images))


def legible(picture: Image.Image) -> Image.Image:
    """A small picture, or a thin strip, enlarged by a whole factor; a large one as it is."""
    thin, long = sorted(picture.size)
    factor = max(math.ceil(LEGIBLE / long), min(math.ceil(NARROW / thin), WIDE // long))
    return picture.resize((picture.width * factor, picture.height * factor), ENLARGE)


def save(picture: Image.Image, path: str | Path) -> None:
    """Save in the format of the path's ending, whole or not at all.

    Raises:
        UsageError: no such format is known.
        CvaeError: the file can't be written.
    """
    _check_ending(path)
    with whole(path) as beside:
        picture.save(beside)


def save_gif(frames: list[Image.Image], path: str | Path, fps: float = 12.0) -> None:
    """Pictures as an animation that begins again after the last; a GIF counts hundredths of a second.

    Raises:
        CvaeError: the file can't be written.
    """
    first, *rest = [legible(frame) for frame in frames]
    with whole(path) as beside:
        first.save(beside, save_all=True, append_images=rest, duration=10 * round(100 / fps), loop=0)


ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
"""The pictures that are written."""


def _check_ending(path: str | Path) -> None:
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{str(path)!r}: pictures are not written with the ending {ending!r}; try .png, .gif or .jpg")


FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""The formats that are read; Pillow knows dozens, some of them through other programs."""


MAX_PIXELS, MAX_LENGTH, MAX_DECODED = 2**26, 2**16, 160 * 2**20
"""A picture of more pixels, 67 million, of a longer side, or that takes more bytes while it is decoded, is not: a few
kilobytes may hold so many. That is 42 megapixels in colour, 28 as a progressive JPEG, 10 as WebP."""

LARGE, TILE = 2**22, 2**20
"""Pixels above which a picture is shrunk before anything else, and of the tiles in which that is done."""

ORIENTATION = 0x0112
"""The EXIF tag."""


def check_size(picture: Image.Image) -> None:
    """To be called before the pixels are decoded.

    Raises:
        ValueError: there are more than `MAX_PIXELS`, or `MAX_LENGTH` along a side, or they take over `MAX_DECODED`.
    """
    most = min(MAX_PIXELS, MAX_DECODED // _decoded_bytes(picture))
    if picture.width * picture.height > most or max(picture.size) > MAX_LENGTH:
        raise ValueError(
            f"it has {picture.width}x{picture.height} pixels; of this kind {most} are read, {MAX_LENGTH} along a side"
        )


def _decoded_bytes(picture: Image.Image) -> int:
    """What a pixel takes in Pillow and its libraries, as measured."""
    if picture.format == "WEBP":  # four copies
        return 16
    if picture.format == "JPEG":  # all coefficients at once; else it is decoded at a half or less
        return 6 if "progressive" in picture.info else 1
    return {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(picture.mode, 4)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF data say, transparency laid on white, 8-bit RGB whatever it was.

    One of more than `LARGE` pixels is shrunk by a whole factor to about so many: the rest of the way is the caller's.

    Raises:
        ValueError: it holds floats or 32-bit integers, which say nothing of their range.
    """
    if (factor := _factor(picture)) > 1:
        picture.draft(None, (picture.width // factor, picture.height // factor))  # JPEG: as far as its decoder can
    if (factor := _factor(picture)) > 1:
        picture = _shrunk(picture, factor)
    picture = _eight_bits(ImageOps.exif_transpose(picture))
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _factor(picture: Image.Image) -> int:
    return math.ceil(math.sqrt(picture.width * picture.height / LARGE))


def _shrunk(picture: Image.Image, factor: int) -> Image.Image:
    """The mean of each square, RGB or RGBA: tile by tile, since a whole copy with more channels may take too much."""
    width, height = picture.size
    across = min(width, TILE // factor * factor)
    down = max(1, TILE // (across * factor)) * factor
    small = Image.new(
        "RGBA" if picture.has_transparency_data else "RGB", (math.ceil(width / factor), math.ceil(height / factor))
    )
    for y in range(0, height, down):
        for x in range(0, width, across):
            tile = picture.crop((x, y, min(x + across, width), min(y + down, height)))
            small.paste(_eight_bits(tile).reduce(factor), (x // factor, y // factor))
    small.getexif()[ORIENTATION] = picture.getexif().get(ORIENTATION, 1)
    return small


def _eight_bits(picture: Image.Image) -> Image.Image:
    """RGB, or RGBA where there is transparency."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats of no known range")
    if picture.mode.startswith("I"):  # 16-bit grey, which `convert` would clip to 255
        grey = np.asarray(picture)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its pixels are 32-bit integers of no known range")
        picture = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def cover(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled to cover (width, height), bicubic and antialiased, and centre-cropped to it."""
    return ImageOps.fit(picture, size, Image.Resampling.BICUBIC)


def error_maps(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Where images (N, C, H, W) in [0, 1] differ: (N, 3, H, W), from black by red and yellow to white."""
    error = np.abs(images - others).mean(axis=1, keepdims=True)  # (N, C, H, W) -> (N, 1, H, W)
    return (3 * error - np.arange(3).reshape(3, 1, 1)).clip(0, 1).astype(np.float32)


def read(
    path: str | Path,
    image_shape: tuple[int, int, int],
    *,
    exact: bool = False,
    remark: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Read a picture as an image (C, H, W) float32 in [0, 1]: grey or RGB, scaled to cover (H, W), centre-cropped.

    `remark` is told of one that is of another size, or in colour where C is 1.

    Raises:
        UsageError: with `exact`, it is not of this size, or in colour where C is 1.
        CvaeError: the file can't be read, is no picture, or is too large, as `check_size` says.
    """
    channels, height, width = image_shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on what Pillow reads all the same
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # above Pillow's own limit
            with Image.open(path, formats=FORMATS) as file:
                check_size(file)
                size = file.size[:: -1 if file.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) else 1]
                original = to_rgb(file)
                picture = cover(original, (width, height))
    except Exception as error:  # for a damaged file Pillow raises anything from OSError to SyntaxError
        raise CvaeError(f"can't read {str(path)!r} as a picture: {one_line(error)}") from error
    coloured = channels == 1 and np.ptp(np.asarray(original), axis=2).any()
    if size != (width, height) or coloured:
        unlike = (
            f"{str(path)!r} has {size[0]}x{size[1]} pixels{' in colour' if coloured else ''}, the "
            f"model takes {width}x{height}{' in grey' if channels == 1 else ''}"
        )
        if exact:
            raise UsageError(f"{unlike}; --resize scales and crops it")
        if remark is not None:
            remark(f"{unlike}: it is made to fit")
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)  # (H, W[, 3]) -> (C, H, W)
