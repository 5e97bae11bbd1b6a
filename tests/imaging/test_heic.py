"""HEIC files: they are read if pillow-heif is installed, and otherwise skipped and counted."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from heif_stub import install_pillow_heif, uninstall_pillow_heif, write_heic
from helpers import load_data
from PIL import Image

from cvae.errors import CvaeError
from cvae.imaging.formats import MAX_DECODED_BYTES, is_image
from cvae.imaging.reader import read

MISSING = r"HEIC images need pillow-heif, which is not installed \(pip install pillow-heif\)"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_heic(tmp_path / "a.heic", Image.new("RGB", (8, 8), (200, 100, 50)))
    return tmp_path / "a.heic"


def test_heic_file_is_read_if_pillow_heif_is_installed(photo, monkeypatch):
    with install_pillow_heif(monkeypatch):
        image = read(photo, (3, 8, 8), exact=True)
    np.testing.assert_allclose(image[:, 4, 4], np.array([200, 100, 50]) / 255, atol=1e-6)


def test_heic_file_is_recognized_as_an_image_even_if_pillow_heif_is_missing(photo, monkeypatch):
    uninstall_pillow_heif(monkeypatch)
    photo.rename(photo.with_name("no-extension"))
    assert is_image(photo.with_name("no-extension"))
    with pytest.raises(CvaeError, match=f"^can't read '.*no-extension' as an image: {MISSING}$"):
        read(photo.with_name("no-extension"), (3, 8, 8))


def test_large_heic_file_is_rejected(tmp_path, monkeypatch):
    write_heic(tmp_path / "large.heic", Image.new("1", (MAX_DECODED_BYTES // 12 // 1000 + 1, 1000)))
    with install_pillow_heif(monkeypatch), pytest.raises(CvaeError, match="1000 pixels are too many"):
        read(tmp_path / "large.heic", (3, 8, 8))


def test_damaged_heic_file_is_rejected(photo, monkeypatch):
    photo.write_bytes(photo.read_bytes()[:30])
    with install_pillow_heif(monkeypatch), pytest.raises(CvaeError, match=r"a.heic' as an image: damaged"):
        read(photo, (3, 8, 8))


def test_heic_files_in_a_folder_are_skipped_and_counted_unless_pillow_heif_is_installed(photo, monkeypatch):
    Image.new("RGB", (8, 8)).save(photo.with_name("b.png"))
    uninstall_pillow_heif(monkeypatch)
    with pytest.warns(UserWarning, match=rf"1 of 2 images in '.*' are skipped: {MISSING}: 'a.heic'"):
        assert len(load_data(f"folder:{photo.parent}", size=8, validation=0).train) == 1
    with install_pillow_heif(monkeypatch), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_data(f"folder:{photo.parent}", size=8, validation=0).train) == 2
