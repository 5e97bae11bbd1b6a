"""Reader of image files: orientation, size and brightness."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cvae.data.listing import is_image
from cvae.errors import CvaeError
from cvae.imaging.reader import read
from cvae.imaging.stream import ImageStream, read_set

AVIF = pytest.param("avif", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF"))


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp", AVIF])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exact_read_compares_the_size_of_the_upright_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The upright image has a white upper half, however it is stored. Pillow itself rotates TIFF files."""
    upright = Image.new("RGB", (48, 64), "black")
    upright.paste("white", (0, 0, 48, 32))
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation in undo else upright
    stored.save(tmp_path / f"x.{suffix}", exif=exif)
    notes: list[str] = []
    image = read(tmp_path / f"x.{suffix}", (3, 64, 48), exact=True, note=notes.append)
    assert notes == []
    assert image[:, :28].min() > 0.9 and image[:, 36:].max() < 0.1


@pytest.mark.parametrize(("dtype", "suffix"), [(np.int32, "tif"), (np.uint16, "png"), (">u2", "tif")])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bit_depth_follows_from_the_largest_value_and_is_reported(
    tmp_path: Path, dtype: str, suffix: str, bits: int
) -> None:
    ramp = np.linspace(0, 2**bits - 1, 64).reshape(8, 8).astype(dtype)
    Image.fromarray(ramp).save(tmp_path / f"x.{suffix}")
    notes: list[str] = []
    image = read(tmp_path / f"x.{suffix}", (1, 8, 8), note=notes.append)
    assert np.abs(image[0] - ramp / (2**bits - 1)).max() < 1 / 254
    assert len(notes) == (bits < 16) and all(f"read as {bits} bits" in note for note in notes)


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "RGB"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_rotated_tiff_of_any_mode_is_upright(tmp_path: Path, mode: str, orientation: int) -> None:
    """Pillow scrambles the rows of a rotated TIFF that it maps into memory, unless it is RGB."""
    white = 65535 if mode == "I;16" else "white"
    upright = Image.new(mode, (48, 64), 0 if mode == "I;16" else "black")
    upright.paste(white, (0, 0, 48, 32))
    undo = {5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(Image.Transpose[undo[orientation]]).save(tmp_path / "x.tif", exif=exif)
    image = read(tmp_path / "x.tif", (3, 64, 48), exact=True)
    assert image[:, :28].min() > 0.9 and image[:, 36:].max() < 0.1


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tiff_in_which_zero_means_white_is_read_correctly(tmp_path: Path, bits: int) -> None:
    ramp = np.linspace(0, 2**bits - 1, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "x.tif", tiffinfo={262: 0})
    image = read(tmp_path / "x.tif", (1, 8, 8))
    assert np.abs(image[0] - (1 - ramp / (2**bits - 1))).max() < 1 / 254


def test_12_bit_tiff_is_read_with_its_declared_bit_depth(tmp_path: Path) -> None:
    """Two 12-bit values take 3 bytes. Every value in this file is 200 (of 4,095)."""
    data = bytes([0x0C, 0x80, 0xC8]) * 32
    fields = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 128), (277, 1), (278, 8), (279, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    header = struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + directory
    (tmp_path / "x.tif").write_bytes(header.ljust(128, b"\0") + data)
    notes: list[str] = []
    image = read(tmp_path / "x.tif", (1, 8, 8), note=notes.append)
    assert notes == [] and np.abs(image - 200 / 4095).max() < 1 / 254


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_dark_16_bit_jpeg_2000_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 2000, np.uint16)).save(tmp_path / "x.jp2")
    assert np.abs(read(tmp_path / "x.jp2", (1, 32, 32)) - 2000 / 65535).max() < 1 / 254


@pytest.mark.parametrize("key", [0, 700, 65535])
def test_transparent_16_bit_value_becomes_white(tmp_path: Path, key: int) -> None:
    """The transparent value does not affect the range of the other values."""
    pixels = np.full((8, 8), 4095, np.uint16)
    pixels[:, :4] = key
    pixels[:, 4:6] = 1000
    Image.fromarray(pixels).save(tmp_path / "x.png", transparency=key)
    image = read(tmp_path / "x.png", (1, 8, 8))[0]
    assert image[:, :4].min() == 1
    assert np.abs(image[:, 4:6] - 1000 / 4095).max() < 1 / 254


def test_dark_16_bit_colour_image_is_reported(tmp_path: Path) -> None:
    """Pillow drops the lower 8 bits of each value."""
    rows = b"".join(b"\0" + struct.pack(">24H", *[200] * 24) for _ in range(8))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    notes: list[str] = []
    read(tmp_path / "x.png", (3, 8, 8), note=notes.append)
    assert len(notes) == 1 and "no value is above 255 (of 65,535)" in notes[0]


def test_image_set_is_read_with_a_common_bit_depth(tmp_path: Path) -> None:
    """The darkest of three images needs 8 bits, the brightest 12."""
    peaks = (200, 4000, 900)
    for peak in peaks:
        Image.fromarray(np.full((8, 8), peak, np.uint16)).save(tmp_path / f"{peak}.png")
    Image.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    paths = [tmp_path / f"{name}.png" for name in (*peaks, "grey")]
    images, note = read_set(paths, (1, 8, 8), exact=True)
    expected = [*(peak / 4095 for peak in peaks), 128 / 255]
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=1 / 254)
    assert note == "3 images of 16 or 32 bits: values of at most 4,000 are read as 12 bits, 0..4,095"
    assert read_set(paths[3:], (1, 8, 8))[1] is None


def test_stream_reads_images_again_when_the_bit_depth_increases(tmp_path: Path) -> None:
    peaks = (200, 4000, 900)
    for i, peak in enumerate(peaks):
        Image.fromarray(np.full((8, 8), peak, np.uint16)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"")
    stream = ImageStream([tmp_path / f"{i}.png" for i in range(4)], (1, 8, 8), exact=True, chunk=1, skip=True)
    chunks = [(indices, images.mean()) for indices, images in stream]
    assert [indices for indices, _ in chunks] == [[0], [1], [2], [0]] and list(stream.unreadable) == [3]
    np.testing.assert_allclose([mean for _, mean in chunks[1:]], np.array([4000, 900, 200]) / 4095, atol=1 / 254)
    np.testing.assert_allclose(stream.read([0])[0].mean(), 200 / 4095, atol=1 / 254)


@pytest.mark.parametrize("header", [True, False])
def test_dib_file_is_read(tmp_path: Path, header: bool) -> None:
    """A DIB file is a BMP file with or without the file header."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "x.dib", "BMP" if header else "DIB")
    assert np.array_equal(read(tmp_path / "x.dib", (1, 8, 8), exact=True)[0] * 255, pixels)
    assert is_image(tmp_path / "x.dib")


def test_damaged_dib_file_is_reported_in_one_line(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.dib")
    for length in (0, 3, 20, 60):
        (tmp_path / "truncated.dib").write_bytes((tmp_path / "x.dib").read_bytes()[:length])
        with pytest.raises(CvaeError, match=r"^can't read '.*truncated\.dib' as an image: .*$"):
            read(tmp_path / "truncated.dib", (1, 8, 8))


def test_images_of_another_size_are_counted_in_one_message(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("L", (20, 20), 128).save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for count, others in (1, ""), (2, " (and 1 other image)"), (3, " (and 2 other images)"):
        notes: list[str] = []
        read_set(paths[:count], (1, 8, 8), note=notes.append)
        message = "has 20x20 pixels, but the model takes 8x8 in grey; the image is converted to fit"
        assert notes == [f"{str(paths[0])!r} {message}{others}"]
