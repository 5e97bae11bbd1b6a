"""Untrusted images: hostile images cause one-line errors, and large images are read with little memory."""

import shutil
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hostile_images import box, codestream, jp2, write_files_with_long_lists
from PIL import Image
from untrusted import MEMORY, assert_rejected, load_in_process

from cvae.errors import UsageError
from cvae.imaging.formats import EXTENSIONS, HEIF_EXTENSIONS, MAX_PIXELS, bytes_per_pixel, open_image
from cvae.imaging.headers import InvalidHeader, read_header
from cvae.imaging.reader import cover, read
from cvae.imaging.rgb import ORIENTATION

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit memory in this way")

GREY, RGB, PALETTE = 0, 2, 3
"""Colour types of PNG. In these tests, grey images have one bit per pixel, and palettes are transparent."""


def write_png(path: Path, width: int, height: int, colour: int = GREY) -> None:
    """Write a black image. Its file takes a few kilobytes, even if the image has many pixels."""

    def chunk(chunk_type: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + chunk_type + data + struct.pack(">I", zlib.crc32(chunk_type + data))

    compressor = zlib.compressobj(9)
    row = bytes(1 + {GREY: width // 8, RGB: 3 * width, PALETTE: width}[colour])
    rows = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 if colour else 1, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(3 * 256)) + chunk(b"tRNS", b"\x80") if colour == PALETTE else b""
    parts = chunk(b"IHDR", header) + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def write_hostile_images(folder: Path) -> None:
    Image.new("L", (8, 8)).save(folder / "_valid.png")
    valid = (folder / "_valid.png").read_bytes()
    side = int(MAX_PIXELS**0.5) // 8 * 8 + 8
    write_png(folder / "bomb.png", side, side)
    write_png(folder / "bomb_of_one_row.png", 2**29, 1)
    write_png(folder / "transparent_bomb_of_one_row.png", 2**26, 1, PALETTE)
    write_png(folder / "bomb_in_colour.png", 6500, 6500, RGB)
    write_png(folder / "transparent_bomb.png", side, side, PALETTE)
    Image.new("L", (9000, 9000)).save(folder / "bomb.jpeg", quality=1)
    Image.new("L", (5400, 5400)).save(folder / "progressive_bomb.jpeg", quality=1, progressive=True)
    Image.new("RGB", (3300, 3300)).save(folder / "bomb.webp", lossless=True, method=0)
    Image.new("RGB", (1800, 1800)).save(folder / "bomb.avif", speed=10)
    Image.new("RGB", (1200, 1200)).save(folder / "bomb.jp2")
    (folder / "bomb.ppm").write_bytes(b"P6 30000 30000 255 ")
    (folder / "bomb.tga").write_bytes(struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 30000, 30000, 24, 0))
    (folder / "declared_larger_than_its_data.png").write_bytes(
        valid.replace(struct.pack(">II", 8, 8), b"\x7f\xff\xff\xff" * 2)
    )
    (folder / "truncated.png").write_bytes(valid[:40])
    for suffix in ("gif", "bmp", "jpeg", "webp", "tiff", "avif", "ppm", "jp2", "tga"):
        Image.new("L", (64, 64), 128).save(folder / f"_valid.{suffix}")
        data = (folder / f"_valid.{suffix}").read_bytes()
        (folder / f"truncated.{suffix}").write_bytes(data[: len(data) // 3])
    for suffix in ("eps", "pcx", "ico", "sgi", "msp"):  # other formats that Pillow would read
        Image.new("1" if suffix == "msp" else "RGB", (64, 64)).save(folder / f"other_format.{suffix}")
        shutil.copy(folder / f"other_format.{suffix}", folder / f"other_format_{suffix}_named.png")
    (folder / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("this is not an image")


@pytest.mark.integration
@needs_linux
def test_read_rejects_hostile_images(tmp_path):
    """A single process reads all files, with a memory limit of 200 MB."""
    write_hostile_images(tmp_path)
    assert_rejected(tmp_path)


@pytest.mark.integration
@needs_linux
def test_read_rejects_files_with_long_lists(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "_valid.png")
    write_files_with_long_lists(tmp_path)
    assert_rejected(tmp_path)


@pytest.mark.parametrize("before", [b"", box(b"uuid", codestream(8, 8)), box(b"uuid", bytes(70_000))])
def test_read_header_counts_tiles_wherever_the_image_begins(before):
    assert not read_header(BytesIO(jp2(before, codestream(64, 8) + b"\xff\x90" + bytes(10)))).holds_coefficients
    with pytest.raises(InvalidHeader, match="4,096 tiles"):
        read_header(BytesIO(jp2(before, codestream(1100, 8))))


@pytest.mark.parametrize("extension", sorted(EXTENSIONS - set(HEIF_EXTENSIONS)))
def test_read_header_accepts_what_pillow_writes(tmp_path, extension):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    mode = {".pbm": "1", ".pgm": "L"}.get(extension, "RGB")
    image_format = {".jpf": "JPEG2000", ".jpx": "JPEG2000", ".apng": "PNG"}.get(extension)
    path = tmp_path / f"image{extension}"
    Image.fromarray(pixels).convert(mode).save(path, image_format)
    with path.open("rb") as file:
        assert not read_header(file).holds_coefficients
        assert file.tell() == 0
    read(path, (3, 8, 8))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "optimize": True}])
def test_read_header_tells_whether_a_jpeg_has_several_scans(tmp_path, mode, options):
    Image.effect_noise((300, 200), 50).convert(mode).save(tmp_path / "image.jpg", **options)
    data = (tmp_path / "image.jpg").read_bytes()
    scans = data.count(b"\xff\xda")  # the pixels can't contain these bytes: a zero would follow the first of them
    with (tmp_path / "image.jpg").open("rb") as file:
        assert read_header(file).holds_coefficients == (scans > 1)
    with open_image(tmp_path / "image.jpg") as image:
        assert bytes_per_pixel(image) == (1 if scans == 1 else 9 if mode == "CMYK" else 6)


@pytest.mark.slow
@needs_linux
def test_read_takes_little_memory_for_images_below_the_size_limit(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "_valid.png")
    write_png(tmp_path / "transparent.png", 8192, 8192, PALETTE)
    write_png(tmp_path / "wide.png", 2**16, 2**10, PALETTE)
    write_png(tmp_path / "colour.png", 6400, 6400, RGB)
    Image.new("L", (8000, 8000)).save(tmp_path / "photo.jpeg", quality=1)
    Image.new("RGB", (5200, 5200)).save(tmp_path / "progressive.jpeg", quality=1, progressive=True, subsampling=0)
    Image.new("RGB", (3200, 3200)).save(tmp_path / "photo.webp", lossless=True, method=0)
    Image.new("RGB", (1790, 1790)).save(tmp_path / "photo.avif", speed=10)
    Image.new("RGB", (1140, 1140)).save(tmp_path / "photo.jp2")
    Image.fromarray(np.zeros((8000, 8000), np.uint16)).save(tmp_path / "16_bits.png")
    Image.fromarray(np.zeros((6400, 6400), np.int32)).save(tmp_path / "32_bits.tiff", compression="tiff_adobe_deflate")
    Image.new("RGB", (6400, 6400)).save(tmp_path / "photo.ppm")
    Image.new("RGB", (6400, 6400)).save(tmp_path / "photo.tga", compression="tga_rle")
    for name in sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("_")):
        folder = tmp_path / "one"  # each image needs its own process, because a process keeps some freed memory
        folder.mkdir()
        for file in ("_valid.png", name):
            (folder / file).symlink_to(tmp_path / file)
        report = load_in_process(folder)[name]
        shutil.rmtree(folder)
        print(report)
        assert report["outcome"] == "accepted" and report["memory"] < MEMORY, report


@pytest.mark.integration
def test_read_scales_large_image_as_pillow_does(tmp_path):
    """The image is transparent and rotated by its EXIF data; tiled reading changes no value by more than one level."""
    ramp = np.linspace(0, 255, 3000)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[::-1], ramp[None, :], ramp[:, None] / 2 + 127), -1)
    image = Image.fromarray(np.rint(np.ascontiguousarray(pixels[:, :2500])).astype(np.uint8), "RGBA")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "large.png", compress_level=1, exif=exif)
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    expected = np.asarray(cover(opaque.transpose(Image.Transpose.ROTATE_270), (40, 30)), np.float32) / 255
    actual = read(tmp_path / "large.png", (3, 30, 40))
    assert np.abs(actual - expected.transpose(2, 0, 1)).max() < 1.5 / 255  # (H, W, 3) -> (3, H, W)
    with pytest.raises(UsageError, match="has 3000x2500 pixels in colour"):
        read(tmp_path / "large.png", (1, 30, 40), exact=True)


def test_jpeg_header_is_checked_after_an_early_end_marker_and_in_a_truncated_file():
    empty_segments = b"\xff\xd8\xff\xd9" + 100_000 * b"\xff\xe5\x00\x02"
    with pytest.raises(InvalidHeader, match="segments"):
        read_header(BytesIO(empty_segments))
    buffer = BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", progressive=True)
    complete = buffer.getvalue()
    assert read_header(BytesIO(complete)).holds_coefficients
    assert read_header(BytesIO(complete[: complete.rindex(b"\xff\xda") + 2])).holds_coefficients


@pytest.mark.parametrize("kind", [3, 4, 5])
def test_tiff_with_many_numbers_in_a_tag_is_rejected(kind):
    tag = struct.pack("<HHII", 258, kind, 2**24, 64)  # BitsPerSample
    with pytest.raises(InvalidHeader, match="numbers in a tag"):
        read_header(BytesIO(b"II*\0" + struct.pack("<IH", 8, 1) + tag + bytes(4)))
