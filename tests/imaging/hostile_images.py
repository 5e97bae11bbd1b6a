"""Writer of small image files that list millions of parts, or whose parts take far more memory than their pixels."""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(chunks: bytes) -> bytes:
    """Return a black PNG image of 8x8 pixels with these chunks before its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    image = png_chunk(b"IDAT", zlib.compress(bytes(9 * 8))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + chunks + image


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(side: int, frame: int, components: int, scans: Iterable[tuple[bytes, int]], before: bytes = b"") -> bytes:
    """Return a square JPEG image of one colour. Its Huffman tables have one code each, a single 0.

    Args:
        side: width and height in pixels.
        frame: marker of the frame.
        components: number of colours.
        scans: header of each scan, without its Huffman tables, and number of bytes of its data.
        before: segments before the tables.
    """
    parts = b"".join(bytes([i + 1, 0x11, 0]) for i in range(components))
    one_code = bytes([1] + [0] * 15)
    run = 0xE0 if frame == 0xC2 else 0x00  # 16,384 blocks of zeros, or the end of a block
    data = b"\xff\xd8" + before + jpeg_segment(0xDB, bytes([0] + [1] * 64))
    data += jpeg_segment(frame, struct.pack(">BHHB", 8, side, side, components) + parts)
    data += jpeg_segment(0xC4, b"\x00" + one_code + b"\x00") + jpeg_segment(0xC4, b"\x10" + one_code + bytes([run]))
    return data + b"".join(jpeg_segment(0xDA, header) + bytes(length) for header, length in scans) + b"\xff\xd9"


def tiff(data: bytes, **tags: int | tuple[int, ...]) -> bytes:
    """Return a TIFF file with these tags, whose one strip or tile is `data` unless the tags differ."""
    numbers = {
        **{"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "strips": 273},
        **{"samples": 277, "rows": 278, "counts": 279, "tile_width": 322, "tile_height": 323},
        **{"tiles": 324, "tile_counts": 325},
    }
    entries, more, start = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for name, value in sorted(tags.items(), key=lambda item: numbers[item[0]]):
        values = np.atleast_1d(np.array(value, "<u4"))
        inline = values.tobytes() if len(values) == 1 else struct.pack("<I", start + len(more))
        more += b"" if len(values) == 1 else values.tobytes()
        entries += struct.pack("<HHI", numbers[name], 4, len(values)) + inline
    table = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + more


def codestream(size: int, tile_size: int, segments: bytes = b"") -> bytes:
    """Return the header of a square JPEG 2000 image of one channel, with these segments at its end."""
    sizes = (size, size, 0, 0, tile_size, tile_size, 0, 0)
    return b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 41, 0, *sizes, 1) + b"\7\1\1" + segments


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def jp2(before: bytes, image: bytes) -> bytes:
    """Return a JPEG 2000 file with these boxes before its image, which has one channel and 8x8 pixels or is damaged."""
    header = box(b"ihdr", struct.pack(">IIHBBBB", 8, 8, 1, 7, 7, 0, 0)) + box(
        b"colr", struct.pack(">BBBI", 1, 0, 0, 17)
    )
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + before + box(b"jp2h", header) + box(b"jp2c", image)


def deflated_zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**24)) for _ in range(count // 2**24)) + packer.flush()


def bmp_of_runs(side: int) -> bytes:
    """Return a square BMP image in runs of one pixel."""
    data = (b"\x01\x00" * side + b"\0\0") * side + b"\0\x01"
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 2835, 2835, 256, 0)
    start = 14 + len(info) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + bytes(1024) + data


def write_files_with_long_lists(folder: Path) -> None:
    """Write files that take Pillow seconds or gigabytes to read, although most of them have few pixels."""
    rgb = {"samples": 3, "bits": (8, 8, 8), "compression": 8, "photometric": 2}
    strips = {"strips": (8,) * 100_000, "counts": (8,) * 100_000, "rows": 1}
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**20)))
    scan = bytes([1, 1, 0, 1, 63, 0])
    files = {
        "chunks.png": png(png_chunk(b"tEXt", b"a\0b") * 70_000),
        "profiles.png": png(profile * 1000),
        "scans.jpg": jpeg(8180, 0xC0, 3, [(bytes([1, i, 0, 0, 63, 0]), 261_122) for i in (1, 2, 3)]),
        "progressive_scans.jpg": jpeg(5100, 0xC2, 1, [(bytes([1, 1, 0, 0, 0, 0]), 50_881), *[(scan, 48)] * 2000]),
        "segments.jpg": jpeg(8, 0xC0, 1, [(scan, 1)], jpeg_segment(0xEA, b"") * 100_000),
        "metadata.jpg": jpeg(8, 0xC0, 1, [(scan, 1)], jpeg_segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 200),
        "junk.jpg": jpeg(8, 0xC0, 1, [(scan, 1)], bytes(1_000_000)),
        "comments.gif": b"GIF89a\x08\0\x08\0\0\0\0" + b"!\xfe\x01a\0" * 100_000 + b",",
        "strip.tif": tiff(
            deflated_zeros(6400 * 6400 * 6),
            **{
                **rgb,
                "bits": (16, 16, 16),
                "width": 6400,
                "height": 6400,
                "rows": 6400,
                "strips": 8,
                "counts": 240_000,
            },
        ),
        "tile.tif": tiff(
            deflated_zeros(2**24)[:16000],
            **rgb,
            **{"width": 16, "height": 16, "tile_width": 16384, "tile_height": 16384, "tiles": 8, "tile_counts": 16000},
        ),
        "strips.tif": tiff(bytes(8), width=8, height=8, bits=8, samples=1, compression=1, photometric=1, **strips),
        "runs.bmp": bmp_of_runs(1500),
        "ends_of_lines.bmp": bmp_of_runs(8)[:-2] + b"\0\0" * 2_000_000,
        "text.ppm": b"P3 900 900 255 " + b"0 " * 2_430_000,
        "comments.ppm": b"P2 8 8 255 " + b"#\n" * 500_000,
        "header_comment.ppm": b"P5 #" + b"a" * 1_000_000 + b"\n8 8 255 " + bytes(64),
        "other_range.ppm": b"P6 1200 1200 200 " + bytes(3 * 1200 * 1200),
        "tiles.j2k": codestream(1100, 8),
        "tiles.jp2": jp2(b"", codestream(1100, 8)),
        "tiles_after_decoy.jp2": jp2(box(b"uuid", codestream(8, 8)), codestream(1100, 8)),
        "tiles_after_64_kb.jp2": jp2(box(b"uuid", bytes(70_000)), codestream(1100, 8)),
        "boxes.jp2": jp2(box(b"free", b"") * 2_000_000, codestream(8, 8)),
        "segments.j2k": codestream(8, 8, b"\xff\x65\0\2" * 4_000_000),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
