"""Writing image files, and reading them in every mode and size."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from cvae import imaging
from cvae.errors import CvaeError, UsageError


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".webp", ".gif", ".jpg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_saved_image_can_be_read(tmp_path, suffix, channels):
    ramp = np.linspace(0, 1, 16 * 16).reshape(1, 16, 16).repeat(channels, axis=0).astype(np.float32)
    path = tmp_path / f"new folder/ramp{suffix}"
    imaging.save(imaging.to_pil(ramp), path)
    actual = imaging.read(path, (channels, 16, 16))
    assert actual.dtype == np.float32 and actual.shape == ramp.shape
    lossless = suffix not in (".jpg", ".webp") and not (suffix == ".gif" and channels == 3)
    assert np.abs(actual - ramp).max() <= (0.5 / 255 + 1e-6 if lossless else 0.05)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["x.foo", "x", "x.mp4", "png"])
def test_unknown_extension_is_rejected_and_nothing_is_written(in_tmp, name):
    with pytest.raises(UsageError, match=rf"'{name}'.*\.png"):
        imaging.save(Image.new("L", (8, 8)), name)
    assert not list(in_tmp.iterdir())


def make_image(mode: str) -> tuple[Image.Image, np.ndarray]:
    """Return an image with this mode, and its RGB values (8, 8, 3)."""
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    rgb[0, :2] = [[0], [255]]
    grey = rgb[..., :1].repeat(3, axis=2)
    alpha = np.random.default_rng(1).integers(0, 256, (8, 8, 1), dtype=np.uint8)

    def on_white(colours: np.ndarray) -> np.ndarray:
        return (colours * (alpha / 255) + 255 * (1 - alpha / 255)).round()

    if mode == "1":
        return Image.fromarray(grey[..., 0] > 127), (grey > 127) * 255
    if mode == "L":
        return Image.fromarray(grey[..., 0]), grey
    if mode == "I;16":
        return Image.fromarray(grey[..., 0].astype(np.uint16) * 257), grey
    if mode == "LA":
        return Image.fromarray(np.concatenate([grey[..., :1], alpha], axis=2), "LA"), on_white(grey)
    if mode == "RGBA":
        return Image.fromarray(np.concatenate([rgb, alpha], axis=2)), on_white(rgb)
    if mode == "P":
        indexed = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
        indexed.putpalette(rgb.tobytes())
        return indexed, rgb
    if mode == "CMYK":
        ink = np.concatenate([255 - rgb, np.zeros((8, 8, 1), np.uint8)], axis=2)
        return Image.fromarray(ink, "CMYK"), rgb
    return Image.fromarray(rgb), rgb


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("mode", ["1", "L", "I;16", "LA", "RGB", "RGBA", "P", "CMYK"])
def test_images_of_all_modes_are_read_correctly(tmp_path, mode):
    image, expected = make_image(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path)
    with Image.open(path) as written:
        assert written.mode == mode
    colour = imaging.read(path, (3, 8, 8)).transpose(1, 2, 0) * 255
    assert np.abs(colour - expected).max() <= (1.01 if "A" in mode else 0.001)  # blending rounds twice
    grey = imaging.read(path, (1, 8, 8))[0] * 255
    assert np.abs(grey - expected @ [0.299, 0.587, 0.114]).max() <= 1.6  # ITU-R 601


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_rejected(tmp_path, dtype):
    Image.fromarray(np.full((8, 8), 70_000, dtype)).save(tmp_path / "x.tif")
    with pytest.raises(CvaeError, match=r"x\.tif.*unknown (range|scale)"):
        imaging.read(tmp_path / "x.tif", (1, 8, 8))


def test_image_is_rotated_by_its_exif_orientation(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(imaging.read(tmp_path / "x.png", (1, 8, 8))[0] * 255, np.rot90(pixels, -1))


def test_image_is_scaled_and_cropped_to_its_centre(tmp_path):
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200  # the middle third
    Image.fromarray(pixels).save(tmp_path / "x.png")
    actual = imaging.read(tmp_path / "x.png", (1, 10, 10)) * 255
    assert actual.shape == (1, 10, 10) and np.abs(actual[0, :, 1:-1] - 200).max() <= 3
    assert (imaging.read(tmp_path / "x.png", (1, 10, 30))[0, :, [0, 29]] == 0).all()


def test_image_with_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99 * 100)
    with pytest.raises(CvaeError, match=r"x\.png"):
        imaging.read(tmp_path / "x.png", (1, 8, 8))


@pytest.mark.parametrize(("fps", "milliseconds"), [(10, 100), (20, 50), (30, 30), (60, 20), (7, 140)])
def test_animation_loops_with_rounded_frame_durations(tmp_path, fps, milliseconds):
    imaging.save_gif([Image.new("L", (8, 4), 60 * i) for i in range(4)], tmp_path / "x.gif", fps)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.size == (280, 140) and gif.info["loop"] == 0
        frames = [(frame.convert("L").getextrema(), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert frames == [((60 * i, 60 * i), milliseconds) for i in range(4)]
