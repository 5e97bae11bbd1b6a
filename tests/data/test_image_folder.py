"""Image folders: layouts, image modes, image sizes, and unreadable files."""

import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_load_fails, load_data
from PIL import Image

from cvae.data import Split
from cvae.errors import CvaeError


def save_image(
    path: Path, colour: Any = (255, 0, 0), size: tuple[int, int] = (8, 8), mode: str = "RGB", **save: Any
) -> Path:
    """Save an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **save)
    return path


def load_single_image(folder: Path, **flags: Any) -> np.ndarray:
    """Return the only image of a folder, (C, H, W)."""
    images = load_data(f"folder:{folder}", validation=0, **{"size": 8, **flags}).train.images
    assert len(images) == 1
    return images[0]


class TestFolder:
    def test_subfolders_are_classes(self, tmp_path: Path) -> None:
        save_image(tmp_path / "b" / "nested" / "deeper" / "1.PNG", (0, 0, 255))
        save_image(tmp_path / "a" / "2.jpeg", (255, 0, 0))
        save_image(tmp_path / "b" / "0.gif", (0, 255, 0))
        save_image(tmp_path / "a" / ".hidden.png")
        save_image(tmp_path / ".cache" / "3.png")
        save_image(tmp_path / "a" / ".thumbnails" / "3.png")
        (tmp_path / "empty").mkdir()
        (tmp_path / "a" / "notes.txt").write_text("not an image")
        loaded = load_data(f"folder:{tmp_path}", validation=0, conditional=True)
        assert loaded.classes == ("a", "b") and loaded.name == tmp_path.name
        assert loaded.train.images.shape == (3, 3, 64, 64)
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [0, 1, 1]
        assert loaded.train.images[:, :, 32, 32].argmax(1).tolist() == [0, 1, 2]

    @pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "gif", "webp", "tif", "TIFF"])
    def test_folder_without_subfolders_has_no_classes(self, tmp_path: Path, suffix: str) -> None:
        save_image(tmp_path / f"x.{suffix}", (200, 100, 50), (20, 10))
        image = load_single_image(tmp_path)
        assert image.shape == (3, 8, 8) and np.abs(image.mean((1, 2)) - (200, 100, 50)).max() < 4
        assert load_data(f"folder:{tmp_path}", validation=0).classes is None

    def test_split_with_other_folders_than_the_classes_has_no_labels(self, tmp_path: Path) -> None:
        for name in ("train/a", "train/b", "test/unknown"):
            save_image(tmp_path / name / "x.png")
        loaded = load_data(f"folder:{tmp_path}", validation=0)
        assert loaded.classes == ("a", "b") and loaded.test is not None and loaded.test.labels is None
        assert "'unknown' is not a class of train" in loaded.notes[0]
        assert load_data(f"folder:{tmp_path}", validation=0, conditional=True).test is None
        save_image(tmp_path / "test" / "a" / "x.png")
        assert_load_fails(f"folder:{tmp_path}", "'unknown', which train does not have")

    @pytest.mark.parametrize("valid", ["valid", "val", "validation"])
    def test_splits_are_recognized(self, tmp_path: Path, valid: str) -> None:
        for name, colour in (("train/a", 10), ("train/b", 20), (f"{valid}/b", 30), ("test/a", 40)):
            save_image(tmp_path / name / "x.png", colour, mode="L")
        loaded = load_data(f"folder:{tmp_path}")
        contents = {
            name: list(zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True))
            for name, split in vars(loaded).items()
            if isinstance(split, Split) and split.labels is not None
        }
        assert contents == {"train": [(10, 0), (20, 1)], "validation": [(30, 1)], "test": [(40, 0)]}
        assert loaded.classes == ("a", "b")

    def test_splits_without_classes_are_recognized(self, tmp_path: Path) -> None:
        save_image(tmp_path / "train" / "x.png", 1, mode="L")
        save_image(tmp_path / "train" / "y.png", 2, mode="L")
        save_image(tmp_path / "test" / "x.png", 3, mode="L")
        loaded = load_data(f"folder:{tmp_path}", validation=0.5)
        assert loaded.classes is None and loaded.test is not None and loaded.test.images.max() == 3
        assert len(loaded.train) == 1

    def test_folder_named_train_among_class_folders_is_a_class(self, tmp_path: Path) -> None:
        save_image(tmp_path / "train" / "x.png")
        save_image(tmp_path / "bus" / "x.png")
        save_image(tmp_path / "car" / "x.png")
        assert load_data(f"folder:{tmp_path}", validation=0).classes == ("bus", "car", "train")

    def test_unclear_layouts_are_rejected(self, tmp_path: Path) -> None:
        assert_load_fails(f"folder:{tmp_path}", str(tmp_path), "no images")
        save_image(tmp_path / "train" / "a" / "x.png")
        save_image(tmp_path / "test" / "c" / "x.png")
        assert_load_fails(f"folder:{tmp_path}", "'c'", "train")
        save_image(tmp_path / "loose.png")
        assert_load_fails(f"folder:{tmp_path}", "'loose.png'", "'test', 'train'")
        (tmp_path / "loose.png").unlink()
        shutil.rmtree(tmp_path / "test")
        save_image(tmp_path / "val" / "a" / "x.png")
        save_image(tmp_path / "valid" / "a" / "x.png")
        assert_load_fails(f"folder:{tmp_path}", "val, valid")
        assert_load_fails(f"folder:{tmp_path / 'val' / 'a' / 'x.png'}", "no such folder")

    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("1", 1, [255]),
            ("L", 77, [77]),
            ("LA", (0, 0), [255]),
            ("LA", (100, 255), [100]),
            ("RGB", (9, 9, 9), [9]),
            ("RGB", (10, 20, 30), [10, 20, 30]),
            ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
            ("RGBA", (0, 100, 200, 51), [204, 224, 244]),  # one fifth opaque, on white
            ("I;16", 65535, [255]),
            ("I;16", 257 * 77, [77]),
            ("I;16", 0, [0]),
        ],
    )
    def test_images_of_every_mode_are_read(self, tmp_path: Path, mode: str, colour: Any, expected: list[int]) -> None:
        image = load_single_image(save_image(tmp_path / "x.png", colour, mode=mode).parent)
        assert image.shape == (len(expected), 8, 8)
        assert np.abs(image.astype(int) - np.reshape(expected, (-1, 1, 1))).max() <= 1

    def test_big_endian_16_bit_tiff_is_read(self, tmp_path: Path) -> None:
        big_endian = Image.frombytes("I;16B", (8, 8), struct.pack(">64H", *[257 * 150] * 64))
        big_endian.save(tmp_path / "x.tif")
        assert (load_single_image(tmp_path) == 150).all()

    def test_transparent_palette_entry_becomes_white(self, tmp_path: Path) -> None:
        image = Image.new("P", (8, 8), 0)
        image.putpalette([10, 20, 30, 0, 255, 0])
        image.paste(1, (4, 0, 8, 8))
        image.save(tmp_path / "x.png", transparency=1)
        pixels = load_single_image(tmp_path)
        assert pixels[:, 0, 0].tolist() == [10, 20, 30] and pixels[:, 0, 7].tolist() == [255, 255, 255]

    def test_cmyk_is_converted_to_rgb(self, tmp_path: Path) -> None:
        save_image(tmp_path / "x.jpg", (0, 255, 255, 0), mode="CMYK")  # magenta and yellow ink make red
        image = load_single_image(tmp_path)
        assert image[0].min() > 240 and image[1:].max() < 15

    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif"])
    def test_exif_orientation_is_applied(self, tmp_path: Path, suffix: str) -> None:
        image = Image.new("L", (64, 64), 0)
        image.paste(255, (0, 0, 32, 64))  # the left half is white; the rotation moves it to the top
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / f"x.{suffix}", exif=exif)
        pixels = load_single_image(tmp_path)
        assert pixels[0, :3].min() > 240 and pixels[0, 5:].max() < 15

    def test_preview_embedded_in_photo_is_ignored(self, tmp_path: Path) -> None:
        preview = Image.new("RGB", (8, 8), "blue")
        Image.new("RGB", (8, 8), "red").save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[preview])
        assert load_single_image(tmp_path)[0].min() > 240

    def test_one_rgb_image_makes_the_data_set_rgb(self, tmp_path: Path) -> None:
        save_image(tmp_path / "train" / "x.png", 7, mode="L")
        save_image(tmp_path / "test" / "y.png", (1, 2, 3))
        loaded = load_data(f"folder:{tmp_path}", validation=0, size=8)
        assert loaded.train.images.shape == (1, 3, 8, 8) and (loaded.train.images == 7).all()

    @pytest.mark.parametrize("rotated", [False, True])
    def test_images_are_cropped_to_the_centre(self, tmp_path: Path, rotated: bool) -> None:
        image = Image.new("RGB", (96, 32), "red")
        image.paste("blue", (64, 0, 96, 32))
        image.paste("lime", (32, 0, 64, 32))
        (image.transpose(Image.Transpose.ROTATE_90) if rotated else image).save(tmp_path / "x.png")
        # The resampling filter blends a little of the cropped parts into the edges.
        inner = load_single_image(tmp_path, size=16)[:, 2:-2, 2:-2]
        assert (inner == np.reshape([0, 255, 0], (3, 1, 1))).all()

    def test_size_can_be_height_and_width(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (96, 32), "red")
        image.paste("blue", (72, 0, 96, 32))
        image.paste("lime", (24, 0, 72, 32))
        image.save(tmp_path / "x.png")
        fitted = load_single_image(tmp_path, size="16x32")  # a third of the width is cropped
        assert fitted.shape == (3, 16, 32)
        assert fitted[:, 8, [0, 16, 31]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]

    def test_downscaling_is_antialiased(self, tmp_path: Path) -> None:
        board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "x.png")
        assert np.abs(load_single_image(tmp_path)[:, 1:-1, 1:-1].astype(int) - 127).max() < 8

    def test_jpeg_draft_mode_does_not_change_the_image(self, tmp_path: Path) -> None:
        """Decoding at a reduced size, as in draft mode, gives the same image."""
        ramp = np.linspace(0, 255, 1024)[None].repeat(700, 0).astype(np.uint8)
        Image.fromarray(ramp).save(tmp_path / "x.jpg", quality=95)
        pixels = load_single_image(tmp_path, size=16)[0].astype(int)
        expected = np.interp((np.arange(16) + 0.5) * 700 / 16 + 162, np.arange(1024), ramp[0])
        assert np.abs(pixels[0] - expected).max() < 3

    def test_unreadable_images_are_skipped(self, tmp_path: Path) -> None:
        save_image(tmp_path / "a" / "good.png", 1, mode="L")
        data = save_image(tmp_path / "b" / "good.png", 2, mode="L").read_bytes()
        (tmp_path / "a" / "truncated.png").write_bytes(data[:-30])
        (tmp_path / "a" / "empty.jpg").touch()
        save_image(tmp_path / "a" / "float.tif", 1.0, mode="F")
        save_image(tmp_path / "a" / "wide.tif", 70_000, mode="I")
        for i in range(3):
            (tmp_path / "b" / f"text{i}.gif").write_text("not an image")
        Image.new("RGB", (8, 8)).save(tmp_path / "b" / "disguised.png", "PPM")
        with pytest.warns(UserWarning) as caught:
            loaded = load_data(f"folder:{tmp_path}", validation=0)
        (warning,) = caught
        message = str(warning.message)
        assert "7 of 10 images" in message and "\n" not in message
        for reason in ("damaged (image file is truncated", "not an image", "floats", "integers from 70,000 to 70,000"):
            assert reason in message
        for name in ("truncated.png", "empty.jpg", "float.tif", "wide.tif"):
            assert f"'a/{name}'" in message
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [0, 1, 1]
        assert loaded.train.images[:, 0, 0, 0].tolist() == [1, 0, 2]  # disguised.png is read, although it is a PPM file

    @pytest.mark.parametrize("pixels", [65, 1000])
    def test_image_with_too_many_pixels_is_skipped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
        save_image(tmp_path / "small.png", size=(8, 8))
        save_image(tmp_path / "large.png", size=(pixels, 1))
        with pytest.warns(UserWarning, match="1 of 2 images .*'large.png'"):
            assert len(load_data(f"folder:{tmp_path}", validation=0).train) == 1

    def test_folder_without_readable_image_is_an_error(self, tmp_path: Path) -> None:
        for i in range(7):
            (tmp_path / f"{i}.png").write_text("not an image")
        assert_load_fails(f"folder:{tmp_path}", "7", "'0.png', '1.png'", error_type=CvaeError)

    def test_warning_filters_are_restored(self, tmp_path: Path) -> None:
        save_image(tmp_path / "x.png")
        before = list(warnings.filters)
        load_single_image(tmp_path)
        assert list(warnings.filters) == before
