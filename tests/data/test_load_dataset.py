"""Loading of data sets for training: held-out images, limits, excluded classes, binarization, plug-ins."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import DOWNLOADABLE, same_split
from helpers import assert_load_fails, load_data

from cvae.data import Dataset, Split
from cvae.errors import CvaeError
from cvae.registry import DATASETS


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that registers a plug-in data set, which loads as `result`, and returns its name."""

    def register(result: object) -> str:
        monkeypatch.setitem(DATASETS._registered, "toy", lambda argument, data_dir, size: result)
        return "toy"

    return register


def make_dataset(n: int = 200, test: int = 10) -> Dataset:
    """Return a data set of different images whose labels are their indices."""
    rng = np.random.default_rng(1)

    def split(n: int) -> Split:
        return Split(images=rng.integers(0, 256, (n, 1, 4, 4), np.uint8), labels=np.arange(n))

    return Dataset(name="toy", train=split(n), test=split(test), classes=tuple(map(str, range(n))), data_license="")


class TestLoad:
    def test_validation_is_held_out(self, toy: Callable[..., str]) -> None:
        full = make_dataset()
        loaded = load_data(toy(full), validation=0.1)
        assert loaded.validation is not None and (len(loaded.train), len(loaded.validation)) == (180, 20)
        assert sorted([*loaded.train.labels, *loaded.validation.labels]) == list(range(200))  # type: ignore[misc]
        for split in (loaded.train, loaded.validation):
            assert np.array_equal(split.images, full.train.images[split.labels])
        assert same_split(loaded.test, full.test)

    def test_seed_determines_split_and_binarization(self, toy: Callable[..., str]) -> None:
        name = toy(make_dataset())
        a, b, c = (load_data(name, seed=seed, binarize="static") for seed in (0, 0, 1))
        assert same_split(a.train, b.train) and same_split(a.validation, b.validation) and same_split(a.test, b.test)
        assert not np.array_equal(a.train.labels, c.train.labels)  # type: ignore[arg-type]
        assert same_split(a.test, c.test)

    @pytest.mark.parametrize(("validation", "count"), [(0, None), (0.001, 1), (0.5, 100)])
    def test_nonzero_validation_fraction_holds_out_at_least_one_image(
        self, toy: Callable[..., str], validation: float, count: int | None
    ) -> None:
        held_out = load_data(toy(make_dataset()), validation=validation).validation
        assert (held_out and len(held_out)) == count

    def test_existing_validation_split_is_kept(self, toy: Callable[..., str]) -> None:
        own = make_dataset()
        own = Dataset(name="", train=own.train, validation=own.test, classes=own.classes, data_license="")
        loaded = load_data(toy(own), validation=0.5)
        assert (
            same_split(loaded.train, own.train)
            and same_split(loaded.validation, own.validation)
            and loaded.test is None
        )
        note = "--validation 0.5 has no effect, because the data have validation images of their own"
        assert list(loaded.notes) == [note] and not load_data("toy").notes

    def test_too_few_images_to_hold_out_are_rejected(self, toy: Callable[..., str]) -> None:
        assert_load_fails(toy(make_dataset(1, 1)), "--validation 0.1", "--validation 0")

    @pytest.mark.parametrize("validation", [0, 0.1])
    def test_limit_applies_after_validation_is_held_out(self, toy: Callable[..., str], validation: float) -> None:
        name = toy(make_dataset())
        full, few, more = (load_data(name, validation=validation, limit=limit) for limit in (None, 7, 1000))
        if validation:
            assert same_split(few.train, Split(images=full.train.images[:7], labels=full.train.labels[:7]))  # type: ignore[index]
        assert same_split(more.train, full.train) and same_split(few.test, full.test) and len(few.train) == 7
        assert validation == 0 or same_split(few.validation, full.validation)

    @pytest.mark.parametrize("has_own", [True, False])
    def test_limit_chooses_images_of_all_classes_from_sorted_data(self, toy: Callable[..., str], has_own: bool) -> None:
        full = make_dataset()
        sorted_train = Split(images=full.train.images, labels=np.arange(200) // 50)
        own = sorted_train if has_own else None
        name = toy(Dataset(name="", train=sorted_train, validation=own, classes=tuple("abcd"), data_license=""))
        first, same, other = (load_data(name, validation=0, limit=60, seed=seed).train for seed in (0, 0, 1))
        assert np.bincount(first.labels).min() > 0 and len(first) == 60  # type: ignore[arg-type]
        assert same_split(first, same) and not np.array_equal(first.labels, other.labels)  # type: ignore[arg-type]

    def test_classes_can_be_excluded(self, toy: Callable[..., str]) -> None:
        full = make_dataset()
        remaining = load_data(toy(full), validation=0, without=("3", "5", "199"))
        assert remaining.classes == tuple(str(i) for i in range(199) if i not in (3, 5))
        assert len(remaining.train) == 197 and len(remaining.test) == 8
        for split, full_split in ((remaining.train, full.train), (remaining.test, full.test)):
            names = [int(remaining.classes[i]) for i in split.labels]  # type: ignore[union-attr]
            assert names == [i for i in range(len(full_split)) if i not in (3, 5, 199)]
            assert np.array_equal(split.images, full_split.images[names])

    def test_excluding_classes_requires_labels(self, toy: Callable[..., str]) -> None:
        full = make_dataset()
        unlabelled = Dataset(name="", train=Split(images=full.train.images), classes=None, data_license="")
        assert_load_fails(toy(unlabelled), "--exclude-class needs labels", "train", without=("3",))

    @pytest.mark.parametrize("mode", ["static", "dynamic"])
    def test_grey_level_is_the_probability_of_white(self, toy: Callable[..., str], mode: str) -> None:
        greys = np.arange(256, dtype=np.uint8)
        images = np.broadcast_to(greys[:, None, None, None], (256, 1, 100, 100))
        splits = {name: Split(images=images) for name in ("train", "validation", "test")}
        loaded = load_data(toy(Dataset(name="", classes=None, data_license="", **splits)), binarize=mode)
        binary_splits = [loaded.validation, loaded.test]
        if mode == "static":
            binary_splits.append(loaded.train)
        else:
            assert np.array_equal(loaded.train.images, images)
        for split in binary_splits:
            assert split is not None and split.images.dtype == np.uint8
            assert set(np.unique(split.images)) == {0, 255}
            share, p = (split.images == 255).mean((1, 2, 3)), greys / 255
            assert share[0] == 0 and share[255] == 1
            assert (abs(share - p) <= 4.5 * np.sqrt(p * (1 - p) / 10_000)).all()
        # Splits have different noise, so a validation image is not a copy of a training image.
        assert len({split.images.tobytes() for split in binary_splits if split}) == len(binary_splits)

    def test_binarization_keeps_binary_images(self, toy: Callable[..., str]) -> None:
        images = np.random.default_rng(0).integers(0, 2, (50, 1, 8, 8), np.uint8) * np.uint8(255)
        loaded = load_data(
            toy(Dataset(name="", train=Split(images=images), classes=None, data_license="")),
            binarize="static",
            validation=0,
        )
        assert np.array_equal(loaded.train.images, images)

    def test_binarization_rejects_colour_images(self, toy: Callable[..., str]) -> None:
        colour = Dataset(name="", train=Split(images=np.zeros((9, 3, 4, 4), np.uint8)), classes=None, data_license="")
        assert_load_fails(toy(colour), "--binarize 'static'", "3 channels", "--binarize none", binarize="static")

    def test_conditional_requires_labels(self, toy: Callable[..., str]) -> None:
        unlabelled = Dataset(
            name="", train=Split(images=np.zeros((9, 1, 4, 4), np.uint8)), classes=None, data_license=""
        )
        assert load_data(toy(unlabelled)).classes is None
        assert_load_fails("toy", "--conditional", "'toy'", "subfolder for each class", conditional=True)
        partly_labelled = dataclasses.replace(make_dataset(), test=unlabelled.train)
        loaded = load_data(toy(partly_labelled), conditional=True)
        assert loaded.test is None and "images of test" in loaded.notes[-1]

    def test_error_for_unknown_name_suggests_data_set_or_prefix(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert_load_fails("mnits", "'mnits'", "'mnist'")
        assert_load_fails("./photos", "'./photos'")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        np.savez("a.npz", train=0)
        assert_load_fails("./photos", "'./photos'", "folder:./photos")
        assert_load_fails("a.npz", "npz:a.npz")

    @pytest.mark.parametrize("name", ["digits", *DOWNLOADABLE])
    def test_data_set_rejects_unexpected_argument(self, name: str) -> None:
        assert_load_fails(f"{name}:7", f"'{name}:7'")

    @pytest.mark.parametrize("name", ["folder", "npz"])
    def test_data_set_requires_path(self, name: str) -> None:
        assert_load_fails(name, f"{name}:PATH")
        assert_load_fails(f"{name}:/no/such", "/no/such")

    images = np.zeros((5, 1, 4, 4), np.uint8)

    @pytest.mark.parametrize(
        ("result", "words"),
        [
            (None, ["NoneType"]),
            (Dataset(name="", train=None, classes=None, data_license=""), ["train is NoneType"]),  # type: ignore[arg-type]
            (Dataset(name="", train=Split(images=[[1]]), classes=None, data_license=""), ["list"]),  # type: ignore[arg-type]
            (images.astype(np.float32), ["float32 (5, 1, 4, 4)"]),
            (images[:, 0], ["uint8 (5, 4, 4)"]),
            (images[:0], ["no images"]),
            ((images, np.zeros(5, np.int32)), ["int32"]),
            ((images, [0] * 5), ["list"]),
            ((images, np.zeros(4, np.int64)), ["(4,)", "(5,)"]),
            ((images, np.full(5, 2)), ["2..2", "0..1"]),
            ((images, np.full(5, -1)), ["-1..-1"]),
            (Dataset(name="", train=Split(images=images, labels=np.zeros(5, int)), classes=None, data_license=""),
             ["None"]),
            ((images, np.array([0, 1, -2, 0, 0])), ["-2..1"]),
            (Dataset(name="", train=Split(images=images, rows=np.zeros((5, 2))), classes=None, data_license=""),
             ["rows", "return Split(columns="]),
            (Dataset(name="", train=Split(images=images), classes=("a", "b", "a"), data_license=""),
             ["'a' more than once"]),
            (Dataset(name="", train=Split(images=images), classes=["a"], data_license=""), ["['a']"]),  # type: ignore[arg-type]
            (Dataset(name="", train=Split(images=images), test=Split(images=images[..., :3]), classes=None,
                     data_license=""), ["(1, 4, 3)"]),
        ],
    )  # fmt: skip
    def test_plugin_with_invalid_result_is_rejected(
        self, toy: Callable[..., str], result: Any, words: list[str]
    ) -> None:
        if isinstance(result, np.ndarray):
            result = Dataset(name="", train=Split(images=result), classes=None, data_license="")
        if isinstance(result, tuple):
            result = Dataset(
                name="", train=Split(images=result[0], labels=result[1]), classes=("a", "b"), data_license=""
            )
        assert_load_fails(toy(result), "'toy'", *words, error_type=CvaeError)
