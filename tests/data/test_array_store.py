"""Storage of the images that a program passes to `cvae.train`."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_load_fails, load_data

from cvae.condition_rows import read_rows
from cvae.data import Dataset, array_store
from cvae.data.collect import collect
from cvae.errors import CvaeError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 10), np.uint8)


@pytest.fixture
def dataset() -> Dataset:
    return collect(IMAGES, list("abcabc"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "caches" / "arrays"


def test_stored_images_can_be_loaded(dataset, root):
    data = array_store.store(dataset, None)
    loaded = load_data(data, validation=0, conditional=True)
    assert np.array_equal(loaded.train.images, IMAGES) and loaded.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert loaded.classes == ("a", "b", "c")
    assert array_store.identify(dataset) == data == f"arrays:{next(root.iterdir()).name}"
    unlabelled = load_data(array_store.store(collect(IMAGES), None), validation=0, size="8x10")
    assert unlabelled.classes is None and unlabelled.train.labels is None


def test_stored_conditions_can_be_loaded(root):
    conditions = {"age": [3, None, 5, 6, 7, 8.5], "traits": np.eye(6, 2, dtype=bool), "breed": [*"xyxyx", None]}
    dataset = collect(IMAGES, list("abcabc"), conditions=conditions)
    data = array_store.store(dataset, None)
    assert data == array_store.identify(dataset) != array_store.identify(collect(IMAGES, list("abcabc")))
    loaded = load_data(data, validation=0, conditional=True)
    described = {condition.name: condition.describe() for condition in loaded.conditions}
    assert described == {
        "label": "category of 3 (a, b, c)",
        "age": "number 3..8.5",
        "traits": "2 attributes (traits_0, traits_1)",
        "breed": "category of 2 (x, y)",
    }
    values, known = read_rows(loaded.conditions, loaded.train.rows)
    assert values["age"].tolist() == [3, 0, 5, 6, 7, 8.5] and values["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(values["traits"], np.eye(6, 2)) and values["breed"].tolist() == [0, 1, 0, 1, 0, 0]
    assert known.T.tolist() == [[True] * 6, [True, False] + [True] * 4, [True] * 6, [True] * 5 + [False]]
    ages = load_data(data, validation=0, condition=("years:category=age",), ignore=("label", "traits", "breed"))
    assert ages.conditions[0].values == ("3", "5", "6", "7", "8.5") and ages.classes is None


def test_equal_data_sets_are_stored_once(dataset, root):
    variants = [
        dataset,
        collect(IMAGES),
        collect(IMAGES, list("abcabd")),
        collect(IMAGES, list("abcabc"), ["a", "b", "c", "d"]),
        collect(IMAGES.transpose(0, 1, 3, 2), list("abcabc")),
        collect(255 - IMAGES, list("abcabc")),
    ]
    for variant in variants:
        array_store.store(variant, None)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert len(list(root.iterdir())) == len(variants)
    for variant in variants:
        array_store.store(variant, None)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("damage", ["images.npy", "labels.npy", "classes.json", ""])
def test_missing_or_damaged_images_can_be_stored_again(dataset, root, damage):
    data = array_store.store(dataset, None)
    folder = root / data.removeprefix("arrays:")
    if damage:
        (folder / damage).write_bytes((folder / damage).read_bytes()[:-3])
    else:
        shutil.rmtree(folder)
    words = [data, str(root), "cvae.resume(run, images=..., labels=..., conditions=...)"]
    assert_load_fails(data, *words, error_type=CvaeError)
    assert array_store.store(dataset, None) == data
    assert np.array_equal(load_data(data, validation=0).train.images, IMAGES)


def test_failed_write_leaves_no_files(dataset, root, monkeypatch):
    def save(path: Path, array: np.ndarray) -> None:
        path.write_bytes(b"half")
        if path.name == "labels.npy":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(array_store, "save_array", save)
    with pytest.raises(CvaeError, match="No space left"):
        array_store.store(dataset, None)
    assert list(root.iterdir()) == []
    monkeypatch.undo()


def test_files_of_a_killed_process_are_removed(dataset, root):
    (root / ".cvae-0123456789ab.tmp").mkdir(parents=True)
    (root / ".cvae-0123456789ab.tmp" / "images.npy").touch()
    data = array_store.store(dataset, None)
    assert [path.name for path in root.iterdir()] == [data.removeprefix("arrays:")]


def test_invalid_argument_or_size_is_rejected(dataset):
    assert_load_fails("arrays", "'arrays:'", "cvae.train")
    assert_load_fails("arrays:../../etc/passwd", "cvae.train")
    data = array_store.store(dataset, None)
    assert_load_fails(data, "--size 16x16", "8x10", size=16)
    assert array_store.identify(replace(dataset, name="other")) == data
