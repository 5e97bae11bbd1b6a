"""Conditions from a metadata.csv in an image folder, from arrays of an npz file, and in fingerprints."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_load_fails, load_data
from PIL import Image

from cvae.condition_rows import read_rows
from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.data.fingerprints import compute_fingerprint


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, int], None]:
    def save(name: str, grey: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(path)

    return save


def test_metadata_adds_conditions_to_the_classes_of_a_folder(tmp_path: Path, save: Callable[[str, int], None]) -> None:
    for i, name in enumerate(["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"]):
        save(name, i)
    (tmp_path / "metadata.csv").write_text("file_name,age\ndog/2.png,7\ncat/0.png,5\nno.png,9\ncat/1.png,\n")
    dataset = load_data(f"folder:{tmp_path}", validation=0, size=8)
    assert [condition.name for condition in dataset.conditions] == ["label", "age"] and dataset.classes is None
    values, known = read_rows(dataset.conditions, dataset.train.rows)
    assert values["label"].tolist() == [0, 0, 1, 1] and values["age"].tolist() == [5, 0, 7, 0]
    assert known.tolist() == [[True, True], [True, False], [True, True], [True, False]]
    notes = "\n".join(dataset.notes)
    assert "1 row of metadata.csv without an image: 'no.png'" in notes and "'dog/3.png'" in notes
    assert "not readable images" not in notes


def test_each_split_may_have_its_own_metadata(tmp_path: Path, save: Callable[[str, int], None]) -> None:
    for i, name in enumerate(["train/0.png", "train/1.png", "test/2.png"]):
        save(name, i)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,age\n0.png,5\n1.png,6\n")
    (tmp_path / "test" / "metadata.csv").write_text("file_name,age\n2.png,5.5\n")
    dataset = load_data(f"folder:{tmp_path}", validation=0, size=8)
    assert dataset.conditions[0].range == (5, 6) and dataset.test is not None and dataset.test.rows is not None
    assert dataset.test.rows.tolist() == [[5.5, 1]]


def test_wrong_metadata_is_rejected(tmp_path: Path, save: Callable[[str, int], None]) -> None:
    save("cat/0.png", 0)
    save("dog/1.png", 1)
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label\ncat/0.png,1\ndog/1.png,2\n")
    assert_load_fails(f"folder:{tmp_path}", "two conditions have the name 'label'", "--condition NEW_NAME=label")
    assert load_data(f"folder:{tmp_path}", validation=0, condition=("size=label",)).conditions[1].name == "size"
    table.write_text("file_name,x\ncat/0.png,1\ncat/../cat/0.png,2\n")
    assert_load_fails(f"folder:{tmp_path}", "listed before")


def test_arrays_of_an_npz_file_are_conditions(tmp_path: Path) -> None:
    images = np.zeros((40, 8, 8), np.uint8)
    arrays = {
        "train": images,
        "test": images[:2],
        "train_labels": np.arange(40) % 2,
        "test_labels": np.array([0, 1]),
        "train_age": np.array([np.nan, *range(1, 40)]),
        "test_age": np.array([3.5, np.nan]),
        "train_traits": np.arange(120).reshape(40, 3) % 5 < 2,
        "train_breed": np.array(["pug", "", "husky", "pug"] * 10),
        "train_other": np.zeros(7),
        "codes": np.zeros((40, 3)),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    dataset = load_data(f"npz:{tmp_path / 'x.npz'}", validation=0)
    described = {condition.name: condition.describe() for condition in dataset.conditions}
    assert described == {
        "label": "category of 2 (0, 1)",
        "age": "number 1..39",
        "breed": "category of 2 (husky, pug)",
        "traits": "3 attributes (traits_0, traits_1, traits_2)",
    }
    values, known = read_rows(dataset.conditions, dataset.train.rows)
    assert np.array_equal(values["traits"], arrays["train_traits"]) and values["age"][1:].tolist() == [*range(1, 40)]
    assert known[:, 1].tolist() == [False] + [True] * 39 and np.array_equal(known[:, 2], arrays["train_breed"] != "")
    assert dataset.test is not None and dataset.test.rows is not None
    assert read_rows(dataset.conditions, dataset.test.rows)[1].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert "'codes', 'train_other'" in dataset.notes[0]


def test_bare_names_are_conditions_of_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8), np.uint8), age=np.array([1, 2, 3, 4]))
    assert load_data(f"npz:{tmp_path / 'x.npz'}", validation=0).conditions[0].describe() == "number 1..4"


def test_fingerprint_covers_conditions(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, age=np.array([1, 2, 3, 4]))
    dataset = load_dataset(TrainConfig(data=f"npz:{tmp_path / 'x.npz'}", validation=0), identify=True)
    first = dataset.fingerprint
    assert first is not None and dataset.train.rows is not None
    rows = dataset.train.rows.copy()
    rows[2, 0] = 3.5
    changed = compute_fingerprint(replace(dataset, train=replace(dataset.train, rows=rows)), "npz")
    assert first.find_difference(changed) == "1 of 4 images or labels differ"
    renamed = replace(dataset, conditions=(replace(dataset.conditions[0], name="years"),))
    assert first.find_difference(compute_fingerprint(renamed, "npz")) == "the class names differ, or the conditions"
