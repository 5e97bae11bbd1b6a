"""Fingerprints of data sets, and data sets that a file names."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvae.config import Config, DataConfig
from cvae.data import Dataset, Split, load_dataset
from cvae.data.disk_images import hash_image, hash_images
from cvae.data.fingerprints import MAX_BLOCKS, compute_fingerprint
from cvae.data.recorded import load_recorded
from cvae.errors import CvaeError, UsageError
from cvae.recorded_data import RecordedDataConfig


def make_dataset(count: int = 10, changed: tuple[int, ...] = (), **values: object) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4), np.uint8)
    for i in changed:
        images[i] += 1
    split = Split(images=images, labels=np.arange(count) % 2)
    return Dataset(**{"name": "x", "train": split, "classes": ("a", "b"), "data_license": "", **values})


def write_folder(path: Path, count: int = 8, changed: tuple[int, ...] = ()) -> Path:
    path.mkdir()
    for i in range(count):
        pixels = np.full((8, 8), 10 * i + (i in changed), np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def record(data: str, **values: object) -> RecordedDataConfig:
    """Return the choice of a data set as the config of a run would record it."""
    fingerprint = load_dataset(DataConfig(data=data, size=8), identify=True).fingerprint
    return RecordedDataConfig(data=data, size=8, fingerprint=fingerprint, **values)


def test_fingerprint_tells_what_differs():
    expected = compute_fingerprint(make_dataset(), "npz")
    for dataset, words in [
        (make_dataset(changed=(2, 5, 7)), "3 of 10 images or labels differ"),
        (make_dataset(9), "the numbers of images are train 9, not train 10"),
        (make_dataset(classes=("a", "c")), "the class names differ"),
        (make_dataset(train=replace(make_dataset().train, labels=np.arange(10) // 5)), "4 of 10 images or labels"),
    ]:
        assert words in (expected.find_difference(compute_fingerprint(dataset, "npz")) or "")
    assert expected.find_difference(compute_fingerprint(make_dataset(), "arrays")) is None


def test_fingerprint_of_many_images_is_short_and_counts_a_lower_bound():
    expected = compute_fingerprint(make_dataset(1000), "npz")
    assert len(expected.blocks) == 8 * MAX_BLOCKS
    difference = expected.find_difference(compute_fingerprint(make_dataset(1000, changed=(0, 1, 999)), "npz"))
    assert difference == "at least 2 of 1,000 images or labels differ"


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_the_same_hash_together_and_alone(channels):
    images = np.random.default_rng(0).integers(0, 256, (9, channels, 4, 6), np.uint8)
    images[::2] = images[::2, :1]  # every other image is grey
    images = images.transpose(0, 1, 3, 2)  # not contiguous
    assert hash_images(images).tolist() == [hash_image(image) for image in images]


def test_fingerprint_of_a_folder_equals_that_of_its_arrays(tmp_path):
    folder = load_dataset(DataConfig(data=f"folder:{write_folder(tmp_path / 'x')}", size=8), identify=True)
    plain = replace(folder, train=Split(images=np.stack([np.full((1, 8, 8), 10 * i, np.uint8) for i in range(8)])))
    colour = replace(plain, train=Split(images=plain.train.images.repeat(3, axis=1)), validation=None)
    config = DataConfig(data=f"folder:{tmp_path / 'x'}", size=8, validation=0)
    first = load_dataset(config, identify=True).fingerprint
    assert first is not None and first == folder.fingerprint
    assert first.sha256 == compute_fingerprint(replace(plain, validation=None), "npz").sha256
    assert first.sha256 == compute_fingerprint(colour, "npz").sha256


def test_recorded_folder_is_loaded_after_it_moved_only_if_the_user_names_it(tmp_path):
    config = record(f"folder:{write_folder(tmp_path / 'x')}")
    assert len(load_dataset(config).train) == 7
    (tmp_path / "x").rename(tmp_path / "y")
    with pytest.raises(UsageError, match="no such folder"):
        load_dataset(config)
    load_dataset(replace(config, data=f"folder:{tmp_path / 'y'}"))


def test_recorded_folder_with_other_images_is_rejected(tmp_path):
    config = record(f"folder:{write_folder(tmp_path / 'x')}")
    shutil.rmtree(tmp_path / "x")
    write_folder(tmp_path / "x", changed=(1, 2))
    with pytest.raises(CvaeError, match=r"2 of 8 images or labels differ; .*--data"):
        load_dataset(config)


def test_folder_with_too_few_images_is_not_decoded(tmp_path, cache):
    config = record(f"folder:{write_folder(tmp_path / 'x')}")
    shutil.rmtree(cache)
    (tmp_path / "x" / "0.png").unlink()
    with pytest.raises(CvaeError, match="there are 7 images, not 8"):
        load_dataset(config)
    assert not cache.exists()


@pytest.mark.parametrize("counts", [{"train": 3}, {"train": 0}, {}, {"train": -8}])
def test_folder_is_not_decoded_for_a_forged_number_of_images(tmp_path, cache, counts):
    config = record(f"folder:{write_folder(tmp_path / 'x')}")
    shutil.rmtree(cache)
    config = replace(config, fingerprint=replace(config.fingerprint, images=counts, sha256="0" * 64))
    with pytest.raises(CvaeError, match="images"):
        load_dataset(config)
    assert not cache.exists()


@pytest.mark.parametrize("path", [r"\\server\share", "//server/share", r"\/server\share"])
def test_path_of_another_computer_is_not_read(tmp_path, monkeypatch, path):
    config = record(f"folder:{write_folder(tmp_path / 'x')}")
    monkeypatch.setattr(Path, "stat", lambda self, **_: pytest.fail(f"{self} was read"))
    for change in ({"data": f"folder:{path}"}, {"data": path}, {"recorded_dir": path}):
        with pytest.raises(UsageError, match="named by the model's files, not by you"):
            load_dataset(replace(config, **change))


@pytest.mark.parametrize("data", ["folder:{}", "folder-classes:{}", "npz:{}/x.npz"])
def test_path_without_a_fingerprint_is_not_read(tmp_path, cache, data):
    write_folder(tmp_path / "private")
    config = RecordedDataConfig(data=data.format(tmp_path / "private"), recorded_dir=str(tmp_path / "written"))
    with pytest.raises(UsageError, match=r"named by the model's files, not by you.*--data .*--data-dir"):
        load_dataset(config)
    assert not cache.exists() and not (tmp_path / "written").exists()


def test_recorded_folder_for_data_sets_is_read_but_not_written_to(tmp_path, cache):
    data, recorded_dir = f"folder:{write_folder(tmp_path / 'x')}", tmp_path / "recorded"
    config = record(data, recorded_dir=str(recorded_dir))
    load_dataset(config)
    assert not recorded_dir.exists()
    load_dataset(DataConfig(data=data, size=8, data_dir=str(recorded_dir)))
    shutil.rmtree(cache)
    load_dataset(config)
    assert not cache.exists()  # the decoded images are in the recorded folder


def test_error_about_a_recorded_folder_for_data_sets_is_reported(tmp_path):
    def load(config):
        if config.data_dir == str(tmp_path):
            raise CvaeError("the copy is damaged")
        pytest.fail("the data set was loaded from another folder")

    with pytest.raises(CvaeError, match="the copy is damaged"):
        load_recorded(RecordedDataConfig(data="mnist", recorded_dir=str(tmp_path)), load)


def test_recorded_folder_of_an_unknown_user_is_ignored():
    config = RecordedDataConfig(data="digits", recorded_dir="~nosuchuser/data")
    assert len(load_dataset(config).train) > 1000


def test_data_set_without_a_path_needs_no_fingerprint():
    assert len(load_dataset(RecordedDataConfig(data="digits")).train) > 1000


def test_argument_of_a_plugin_is_not_passed_on(monkeypatch):
    from cvae.registry import DATASETS

    monkeypatch.setattr(DATASETS, "_registered", {"remote": pytest.fail})
    with pytest.raises(UsageError, match="named by the model's files"):
        load_dataset(RecordedDataConfig(data="remote:http://example.org"))


def test_config_keeps_the_fingerprint_where_earlier_versions_accept_it(trained, tmp_path):
    config = replace(Config.read(trained["plain"] / "config.json"), fingerprint=None)
    assert '"data": {' not in config.to_json()
    path = tmp_path / "config.json"
    with_fingerprint = replace(config, fingerprint=compute_fingerprint(make_dataset(), "npz"))
    path.write_text(with_fingerprint.to_json())
    assert Config.read(path) == with_fingerprint
    content = json.loads(path.read_text())
    assert content.pop("fingerprint")["images"] == {"train": 10}
    assert content == {key: value for key, value in json.loads(config.to_json()).items() if key != "fingerprint"}
