"""Checks of image files before Pillow opens them. Does not import torch.

A small file can list millions of chunks, strips or scans. Pillow would take minutes to read them, whatever the size of
the image. The checks read the lists themselves, and stop at a limit.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

MAX_CHUNKS = 2**16
"""Maximum number of chunks of a PNG file, of strips or tiles of a TIFF image, and of blocks before a GIF image."""

MAX_SEGMENTS, MAX_METADATA_SEGMENTS = 2**10, 64
"""Maximum number of segments of a JPEG file before its pixels, and of those with EXIF or Photoshop metadata."""

MAX_SCANS = 100
"""Maximum number of scans of a JPEG file. Encoders write about ten; each scan takes time for every pixel."""

MAX_JUNK = 2**12
"""Maximum number of bytes between the segments of a JPEG file before its pixels."""

MAX_COMMENTS = 2**8
"""Maximum number of comments in a PPM file of text. Pillow copies a megabyte for each of them."""

MAX_TIFF_NUMBERS = 2**18
"""Maximum number of numbers in a tag of a TIFF. The colour map of a palette with 16 bits has 196,608."""

_TIFF_BYTES = (1, 2, 7)
"""Types of TIFF tags that Pillow keeps as bytes: bytes, text, and bytes of an unknown meaning."""

MAX_TILES = 2**12
"""Maximum number of tiles of a JPEG 2000 image. The decoder allocates 9 kB for each."""

BLOCK = 2**16
"""Number of bytes to read at a time."""

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""JPEG markers except RST0 to RST7, which occur between the pixels."""
_NO_LENGTH = {0x01, 0xD8, 0xD9}
"""JPEG markers without a length: TEM, SOI, EOI."""

_SEVERAL_PASSES = (0xC2, 0xC6, 0xCA, 0xCE)
"""JPEG markers of progressive frames."""

_CODESTREAM = b"\xff\x4f\xff\x51"
"""JPEG 2000 markers SOC and SIZ, with which an image begins."""

_END_OF_HEADER = (0xFF90, 0xFFD9)
"""JPEG 2000 markers of the first tile and of the end of the image."""

_TIFF_OFFSETS = (273, 324)
"""TIFF tags that list the offsets of strips and of tiles."""


class Header(NamedTuple):
    """Facts about an image file that Pillow does not report.

    Attributes:
        holds_coefficients: whether decoding a JPEG image holds its coefficients in memory, because each of its scans
            contains only some of them.
    """

    holds_coefficients: bool = False


class InvalidHeader(ValueError):
    """Error about an image file that is damaged, or that would take too long to read."""


def read_header(file: IO[bytes]) -> Header:
    """Check the structure of an image file, which stays at its beginning.

    Raises:
        InvalidHeader: If a list in the file is longer than any encoder writes.
        OSError: If the file can't be read.
    """
    start = file.read(16)
    for signature, check in _CHECKS.items():
        if start.startswith(signature):
            try:
                file.seek(len(signature))
                return check(file) or Header()
            except (struct.error, IndexError):  # the file ends early: Pillow describes the damage
                return Header()
            finally:
                file.seek(0)
    file.seek(0)
    return Header()


def _require(count: int, maximum: int, what: str) -> None:
    if count > maximum:
        raise InvalidHeader(f"it has more than {maximum:,} {what}; save it again with an image editor")


def _check_png(file: IO[bytes]) -> None:
    profiles = 0
    for count, (length, kind) in enumerate(iter(lambda: struct.unpack(">I4s", file.read(8)), None)):
        _require(count, MAX_CHUNKS, "chunks")
        profiles += kind == b"iCCP"
        _require(profiles, 1, "colour profile")
        if kind == b"IEND":
            break
        file.seek(length + 4, 1)


def _check_jpeg(file: IO[bytes]) -> Header:
    """Walk over the segments as libjpeg does: the bytes between two markers are pixels, or are skipped."""
    scans = segments = metadata = junk = components = 0
    several_passes = False
    for marker, skipped in _jpeg_markers(file):
        if marker == 0xD9 and scans:
            break
        data = b""
        if marker not in _NO_LENGTH:
            try:
                (length,) = struct.unpack(">H", file.read(2))
            except struct.error:  # the file ends early: Pillow describes the damage
                break
            data = file.read(max(0, length - 2)) if marker in (0xDA, 0xE1, 0xED, *range(0xC0, 0xD0)) else b""
            file.seek(0 if data else max(0, length - 2), 1)
        if marker == 0xDA and data:
            scans += 1
            several_passes = several_passes or (scans == 1 and data[0] < components)
            _require(scans, MAX_SCANS, "scans")
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(data) > 5:
            components = data[5]
            several_passes = several_passes or marker in _SEVERAL_PASSES
        if not scans:
            segments, junk = segments + 1, junk + skipped
            metadata += data.startswith((b"Exif\0\0", b"Photoshop 3.0\0"))
            _require(segments, MAX_SEGMENTS, "segments")
            _require(metadata, MAX_METADATA_SEGMENTS, "segments of metadata")
            _require(junk, MAX_JUNK, "bytes between its segments")
    return Header(holds_coefficients=several_passes)


def _jpeg_markers(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Yield each marker and the number of bytes skipped before it. The file is then behind the marker."""
    while True:
        start, block = file.tell(), b""
        skipped = 0
        while not (match := _JPEG_MARKER.search(block)):
            more = file.read(BLOCK)
            if not more:
                return
            tail = block[-1:] if block.endswith(b"\xff") else b""  # a marker may lie across two blocks
            skipped += len(block) - len(tail)
            block = tail + more
        skipped += match.start()
        file.seek(start + skipped + match.end() - match.start())
        yield match[1][0], skipped


def _check_gif(file: IO[bytes]) -> None:
    screen = file.read(7)
    file.seek((3 << (screen[4] & 7) + 1) if screen[4] & 128 else 0, 1)
    count = 0
    while (kind := file.read(1)) not in (b"", b",", b";"):  # an image, or the end
        _require(count := count + 1, MAX_CHUNKS, "blocks")
        if kind == b"!":
            file.seek(1, 1)
            while length := file.read(1)[0]:
                _require(count := count + 1, MAX_CHUNKS, "blocks")
                file.seek(length, 1)


def _check_tiff(order: str, *, big: bool = False) -> Callable[[IO[bytes]], None]:
    """Return the check of TIFF files of this byte order, "<" or ">"."""
    number, entry = order + ("Q" if big else "I"), order + ("HHQQ" if big else "HHII")

    def check(file: IO[bytes]) -> None:
        file.seek(8 if big else 4)
        (offset,) = struct.unpack(number, file.read(struct.calcsize(number)))
        file.seek(min(offset, 2**62))
        count_format = order + ("Q" if big else "H")
        (count,) = struct.unpack(count_format, file.read(struct.calcsize(count_format)))
        _require(count, MAX_SEGMENTS, "tags")
        for _ in range(count):
            tag, kind, length, _ = struct.unpack(entry, file.read(struct.calcsize(entry)))
            if tag in _TIFF_OFFSETS:
                _require(length, MAX_CHUNKS, "strips or tiles")
            elif kind not in _TIFF_BYTES:
                _require(length, MAX_TIFF_NUMBERS, "numbers in a tag")

    return check


def _refuse_big_endian_bigtiff(file: IO[bytes]) -> None:
    raise InvalidHeader("it is a BigTIFF file in big-endian order, which Pillow misreads; save it in another format")


def _check_ppm(file: IO[bytes]) -> None:
    kind, start = file.read(1), file.read(MAX_JUNK)
    numbers = 2 if kind in b"14" else 3  # width, height and largest value
    if len(start) == MAX_JUNK and not re.match(rb"[^\s#]*+(?:(?:\s|#[^\r\n]*+[\r\n])++[^\s#]++){%d}" % numbers, start):
        raise InvalidHeader(f"its header has more than {MAX_JUNK:,} bytes; save it again with an image editor")
    comments = 0
    while kind in b"123" and start:
        _require(comments := comments + start.count(b"#"), MAX_COMMENTS, "comments")
        start = file.read(BLOCK)


def _check_jp2(file: IO[bytes]) -> None:
    """Walk over the boxes of a JPEG 2000 file to its image, as OpenJPEG does."""
    file.seek(0)
    for count in range(MAX_SEGMENTS):
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"jp2c":
            file.seek(8 if length == 1 else 0, 1)
            _check_codestream(file)
            return
        if length == 0:  # the box extends to the end of the file
            return
        header = 8
        if length == 1:
            (length,), header = struct.unpack(">Q", file.read(8)), 16
        if not header <= length < 2**62:
            raise InvalidHeader(f"its box {count + 1} has an invalid length")
        file.seek(length - header, 1)
    raise InvalidHeader(f"it has more than {MAX_SEGMENTS:,} boxes; save it again with an image editor")


def _check_codestream(file: IO[bytes]) -> None:
    """Check the image in a JPEG 2000 file, which begins with the markers SOC and SIZ."""
    if file.read(4) != _CODESTREAM:
        raise InvalidHeader("its image does not begin with a size")
    length, _, width, height, _, _, tile_width, tile_height, tile_left, tile_top = struct.unpack(">HH8I", file.read(36))
    if tile_width and tile_height:
        columns, rows = -(-(width - tile_left) // tile_width), -(-(height - tile_top) // tile_height)
        _require(columns * rows, MAX_TILES, "tiles")
    file.seek(max(0, length - 36), 1)
    for count in range(1, MAX_SEGMENTS + 2):
        marker, length = struct.unpack(">HH", file.read(4))
        if marker in _END_OF_HEADER:
            break
        _require(count, MAX_SEGMENTS, "segments")
        file.seek(max(0, length - 2), 1)


def _check_raw_jpeg_2000(file: IO[bytes]) -> None:
    file.seek(0)
    _check_codestream(file)


_CHECKS: dict[bytes, Callable[[IO[bytes]], Header | None]] = {
    b"\x89PNG\r\n\x1a\n": _check_png,
    b"\xff\xd8": _check_jpeg,
    b"GIF8": lambda file: _check_gif(file) if file.read(2) else None,
    b"II*\0": _check_tiff("<"),
    b"MM\0*": _check_tiff(">"),
    b"II\0*": _check_tiff("<"),
    b"MM*\0": _check_tiff(">"),
    b"II+\0": _check_tiff("<", big=True),
    b"MM\0+": _refuse_big_endian_bigtiff,
    b"P": _check_ppm,
    _CODESTREAM: _check_raw_jpeg_2000,
    b"\0\0\0\x0cjP  \r\n\x87\n": _check_jp2,
}
"""Check for each signature of a file. Other formats have no such lists."""
