"""Listing of an image folder: which subfolders are splits or classes, and which files are images."""

import errno
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_load_fails, load_data
from PIL import Image, features

from cvae.data import cache
from cvae.data.split_names import recognize_split
from cvae.data.splits import list_folder
from cvae.errors import CvaeError
from cvae.imaging import reader as decoding


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the image folder of this test. The cache is in another folder."""
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def fill(root: Path, *layout: str) -> None:
    """Write images: "train/cat 3" means three images in train/cat."""
    for part in layout:
        name, _, count = part.rpartition(" ")
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(int(count)):
            Image.new("L", (4, 4), i).save(root / name / f"{i}.png")


def count_images(root: Path) -> dict[str, dict[str, int] | int]:
    """Return, for each split, the number of images per class, or in total if the split has no labels."""
    splits = list_folder(root, str(root)).splits
    return {name: dict(Counter(split.labels)) if split.labels else len(split.paths) for name, split in splits.items()}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "train") for name in ("train", "Train", "TRAIN", "training", "Training", "training_set", "train2017")],
        *[(name, "train") for name in ("seg_train", "asl_alphabet_train", "TrainImages", "my-train", "trainset")],
        *[(name, "validation") for name in ("val", "Valid", "validation", "dev", "eval", "Evaluation", "x_val_data")],
        *[(name, "test") for name in ("test", "Testing", "TEST", "seg_test", "tests", "test images")],
        *[
            (name, None)
            for name in ("cat", "test_tube", "trainers", "train_station", "contest", "valley", "10", "data")
        ],
        ("train_test", ""),
    ],
)
def test_folder_name_is_recognized_as_split(name: str, split: str | None) -> None:
    assert recognize_split(name) == split


PETS = {"train": {"cat": 2, "dog": 3}, "test": {"cat": 1, "dog": 1}}


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (["Training/cat 2", "Training/dog 3", "Testing/cat 1", "Testing/dog 1"], PETS),
        (["Train/cat 2", "Train/dog 3", "Test/cat 1", "Test/dog 1"], PETS),
        (["a_train/a_train/cat 2", "a_train/a_train/dog 3", "a_test/a_test/cat 1", "a_test/a_test/dog 1",
          "a_pred/a_pred 4"], PETS),
        (["archive/train/cat 2", "archive/train/dog 3", "archive/test/cat 1", "archive/test/dog 1"], PETS),
        (["a/b/train/cat 2", "a/b/train/dog 3", "a/b/test/cat 1", "a/b/test/dog 1", "a/more 9"], PETS),
        (["train/cat 2", "train/dog 3", "test/cat 1", "test/dog 1", "sample_images 4"], PETS),
        (["cat/train 2", "cat/test 1", "dog/train 3", "dog/test 1"], PETS),
        (["train 5", "dev 2", "eval 3"], {"train": 5, "validation": 2, "test": 3}),
        (["train 5", "eval 2"], {"train": 5, "validation": 2}),
        (["train 5", "valid 2", "test 3"], {"train": 5, "validation": 2, "test": 3}),
        (["images/train 5", "images/val 2"], {"train": 5, "validation": 2}),
        (["train/images/cat 2", "train/images/dog 3", "test/images/cat 1", "test/images/dog 1"], PETS),
        (["train/images 5", "test/images 2"], {"train": 5, "test": 2}),
        (["train/cat 2", "train/dog 3"], {"train": {"cat": 2, "dog": 3}}),
        (["train/train 2", "train/bus 3", "test/bus 1", "test/train 1"],
         {"train": {"bus": 3, "train": 2}, "test": {"bus": 1, "train": 1}}),
        (["bus 1", "car 2", "train 3"], {"train": {"bus": 1, "car": 2, "train": 3}}),
        (["DIV2K_train_HR 4", "DIV2K_valid_HR 2"], {"train": 4, "validation": 2}),
        (["ds1_train_v2/cat 2", "ds1_train_v2/dog 3", "ds1_test_v2/cat 1", "ds1_test_v2/dog 1", "more 1"], PETS),
        (["mytrain 4", "mytest 2"], {"train": 4, "test": 2}),
        (["trn 4", "tst 2"], {"train": 4, "test": 2}),
        (["trainA 4", "testA 2"], {"train": 4, "test": 2}),
        (["train 4", "test/cat 1", "test/dog 1"], {"train": 4, "test": 2}),
        (["beaker 1", "test_tube 2"], {"train": {"beaker": 1, "test_tube": 2}}),
        (["cat/young 1", "cat/old 2", "dog 3"], {"train": {"cat": 3, "dog": 3}}),
    ],
)  # fmt: skip
def test_splits_are_recognized_by_name(root: Path, layout: list[str], expected: object) -> None:
    fill(root, *layout)
    assert count_images(root) == expected


@pytest.mark.parametrize(
    ("layout", "tree", "classes"),
    [
        (["Testing/cat 1", "Testing/dog 1"], "Testing/ (cat 1, dog 1)", ("Testing",)),
        (["test/cat 1", "val/cat 1"], "test/ (cat 1), val/ (cat 1)", ("test", "val")),
        (["extra/cat 1", "train/cat 1"], "train/ (cat 1), extra/ (cat 1)", ("extra", "train")),
        (
            ["train1/cat 1", "train2/cat 1", "test/a 1"],
            "the train split (train1, train2)",
            ("test", "train1", "train2"),
        ),
        (["train 3", "sample_images 3"], "train/ (3 images), sample_images/ (3 images)", ("sample_images", "train")),
        (["test 3", "bus 2"], "test/ (3 images), bus/ (2 images)", ("bus", "test")),
        (["train/train/cat 1", "train/test/cat 1", "test/cat 1"], "train/ (test 1, train 1)", ("test", "train")),
        (["train/a/train 1", "train/a/test 1", "test/a 1"], "train/ (a 2)", ("test", "train")),
        (["train_test/cat 1", "train/cat 1"], "train_test/ (cat 1)", ("train", "train_test")),
        (["cat/train 1", "cat/test 1", "dog 1"], "cat/ (test 1, train 1), dog/ (1 image)", ("cat", "dog")),
        (["a/train/x 1", "a/test/x 1", "b/train/x 1", "b/test/x 1"], "a/ (test 1, train 1)", ("a", "b")),
        (
            ["trainA 1", "trainB 1", "testA 2", "testB 2"],
            "several look like the train split",
            ("testA", "testB", "trainA", "trainB"),
        ),
        (
            ["ds_train_v2 1", "ds_test_v1 2"],
            "ds_test_v1/ (2 images), ds_train_v2/ (1 image)",
            ("ds_test_v1", "ds_train_v2"),
        ),
        (["tr 1", "va 1", "te 1"], "te/ (1 image), tr/ (1 image)", ("te", "tr", "va")),
        (["train 3", "bus 2"], "train/ (3 images), bus/ (2 images)", ("bus", "train")),
        *[(["train 3", f"{name} 2"], f"{name}/ (2 images)", (name, "train")) for name in ("holdout", "pred", "query")],
        (["train 3", "unseen 2"], "unseen/ (2 images)", ("train", "unseen")),
        (["train 3", "masks 2", "extra 1"], "masks/ (2 images)", ("extra", "masks", "train")),
        (["train/images 3", "train/masks 3", "test/images 1", "test/masks 1"], "masks/ (3 images)", ("test", "train")),
        (["images 3", "annotations 3"], "annotations/ (3 images)", ("annotations", "images")),
        (["images/train 1", "images/val 1", "labels/train 1", "labels/val 1"], "images/ (", ("images", "labels")),
    ],
)
def test_error_for_unclear_folder_shows_the_tree_and_both_fixes(
    root: Path, layout: list[str], tree: str, classes: tuple[str, ...]
) -> None:
    fill(root, *layout)
    assert_load_fails(
        f"folder:{root}", "unclear", tree, "name them train, validation and test", f"folder-classes:{root}"
    )
    assert load_data(f"folder-classes:{root}", validation=0, size=4).classes == classes


def test_shortened_tree_contains_an_ellipsis(root: Path) -> None:
    fill(root, "train/x 1", *(f"more{i}/x 1" for i in range(12)))
    assert_load_fails(f"folder:{root}", "train/ (x 1)", "...")


def test_skipped_folders_are_reported(root: Path) -> None:
    fill(root, "train/cat 2", "test/cat 1", "sample_images 4")
    (root / "train" / "cat" / "notes.txt").touch()
    (root / "labels.csv").touch()
    notes = load_data(f"folder:{root}", size=4).notes
    assert notes[0] == "ignored folders next to the splits: sample_images (4 images)"
    assert "1 .txt file" in notes[1] and "1 .csv file" in notes[1]


def test_images_of_each_class_are_counted(root: Path) -> None:
    fill(root, "Training/cat 2", "Training/dog 3", "Testing/dog 1")
    assert (
        load_data(f"folder:{root}", size=4).description
        == "set: 5 training images (cat 2, dog 3), 1 test image (cat 0, dog 1)"
    )


def test_symbolic_links_are_followed_without_endless_loops(root: Path, tmp_path: Path) -> None:
    fill(tmp_path, "store/a 5", "store/b 6", "set/a 2")
    (root / "b").mkdir()
    (root / "a" / "part").symlink_to(tmp_path / "store" / "a")
    (root / "b" / "part").symlink_to(tmp_path / "store" / "b")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(".")
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "itself").symlink_to("itself")
    (root / "b" / "part-too").symlink_to(tmp_path / "store" / "b")
    contents = list_folder(root, "")
    assert Counter(contents.splits["train"].labels) == {"a": 7, "b": 6}
    assert contents.notes == [
        "ignored: broken link: 'a/gone.png', 'a/itself'; link to a folder above it: 'a/loop', 'a/self'"
    ]


def test_several_splits_can_link_to_the_same_folder(root: Path, tmp_path: Path) -> None:
    fill(tmp_path, "store/a 5", "store/b 6")
    for split in ("train", "test"):
        (root / "dataset" / split).mkdir(parents=True)
        for name in "ab":
            (root / "dataset" / split / name).symlink_to(tmp_path / "store" / name)
    assert count_images(root) == {"train": {"a": 5, "b": 6}, "test": {"a": 5, "b": 6}}


@pytest.mark.integration
def test_too_many_links_are_rejected(root: Path) -> None:
    """20 levels of two links each would lead to a million folders."""
    fill(root, "20 1")
    for level in range(20):
        (root / str(level)).mkdir()
        for name in "ab":
            (root / str(level) / name).symlink_to(root / str(level + 1))
    assert_load_fails(f"folder:{root}", "links lead to the same folders more than 10,000 times")


def test_folders_without_images_are_reported(root: Path) -> None:
    fill(root, "train/cat 2", "train/dog 1", "train/fox 0", "test 0")
    assert list_folder(root, "").notes == [
        "ignored folders next to the splits: test (no images)",
        "ignored folders without images: 'fox'",
    ]


def test_images_of_runs_are_not_training_images(root: Path) -> None:
    fill(root, "cat 2", "dog 3", "dog/run/samples 4", "runs/mine/samples 2", "runs/old 1", "runs/runs 0")
    for run in ("dog/run", "runs/mine"):
        (root / run / "config.json").write_text('{"format": 2, "cvae_version": "0.1"}')
    (root / "cat/config.json").write_text('{"id2label": {}}')  # not the config of a run
    assert count_images(root) == {"train": {"cat": 2, "dog": 3}}
    assert "ignored 7 images in run folders" in list_folder(root, "").notes
    (root / "runs/old/0.png").unlink()
    assert_load_fails(f"folder:{root / 'runs'}", "no images in", "only 2 images in run folders")
    assert count_images(root / "runs/mine/samples") == {"train": 2}
    (root / "runs/mine/config.json").unlink()
    assert count_images(root)["train"] == {"cat": 2, "dog": 3, "runs": 2}


def test_empty_training_split_is_an_error(root: Path) -> None:
    fill(root, "train/cat 0", "test/cat 1")
    assert_load_fails(f"folder:{root}", "the training split of", "has no images")


def test_labels_of_test_images_are_ignored_without_training_labels(root: Path) -> None:
    fill(root, "train 4", "test/cat 1", "test/dog 1")
    loaded = load_data(f"folder:{root}", size=4, validation=0)
    assert loaded.classes is None and loaded.test is not None and loaded.test.labels is None
    assert loaded.notes[0] == "labels are not used: train has no subfolders for classes, unlike test"


def test_unreadable_folder_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, "a 2", "b 1", "c 0")
    scandir = os.scandir

    def failing_scandir(path: Path) -> object:
        if path.name == "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing_scandir)
    assert list_folder(root, "").notes == ["ignored: Permission denied: 'b'", "ignored folders without images: 'c'"]
    monkeypatch.setattr(root.__class__, "is_dir", lambda path: True)
    assert_load_fails(f"folder:{root / 'b'}", "b'", "Permission denied", error_type=CvaeError)


@pytest.mark.parametrize(
    ("name", "image_format"),
    [("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.avif", "AVIF"), ("a.ppm", "PPM"), ("a.pgm", "PPM"), ("a.tga", "TGA"),
     ("a.dib", "DIB"),
     ("a.jp2", "JPEG2000"), ("a.dib", "BMP"), ("a", "PNG"), ("a.0001", "PNG"), ("a", "JPEG"), ("a.unknown", "WEBP")],
)  # fmt: skip
def test_images_are_recognized_by_content_or_extension(root: Path, name: str, image_format: str) -> None:
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow does not support AVIF here")
    Image.new("L" if name == "a.pgm" else "RGB", (8, 8), 200 if name == "a.pgm" else (200, 100, 50)).save(
        root / name, image_format
    )
    loaded = load_data(f"folder:{root}", size=8, validation=0)
    assert len(loaded.train) == 1 and abs(int(loaded.train.images[0, 0, 4, 4]) - 200) < 4


def test_io_error_is_not_cached(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, "a 3")
    open_image, failing = decoding.open_image, [True]

    def failing_open(path: Path) -> Image.Image:
        if path.name == "1.png" and failing[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_image(path)

    monkeypatch.setattr(decoding, "open_image", failing_open)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 of 3 images .* are skipped: Input/output error: 'a/1\.png'"):
            assert len(load_data(f"folder:{root}", size=4, validation=0).train) == 2
    failing[0] = False
    assert len(load_data(f"folder:{root}", size=4, validation=0).train) == 3


def test_interrupted_process_does_not_mix_two_caches(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable image is stored as black; it must not count as read until it has been decoded again."""
    fill(root, "a 3")
    open_image, failing = decoding.open_image, [True]

    def failing_open(path: Path) -> Image.Image:
        if path.name == "1.png" and failing[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_image(path)

    monkeypatch.setattr(decoding, "open_image", failing_open)
    with pytest.warns(UserWarning, match="1 of 3"):
        load_data(f"folder:{root}", size=4, validation=0)
    failing[0] = False
    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_data(f"folder:{root}", size=4, validation=0)
    images = load_data(f"folder:{root}", size=4, validation=0).train.images
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_warning_gives_a_reason_for_each_skipped_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, "a 2")
    monkeypatch.setattr("cvae.imaging.formats.MAX_PIXELS", 100)
    Image.new("RGB", (20, 30)).save(root / "a" / "big.webp")
    Image.new("F", (4, 4)).save(root / "a" / "float.tif")
    (root / "a" / "truncated.png").write_bytes((root / "a" / "0.png").read_bytes()[:-30])
    with pytest.warns(UserWarning) as caught:
        load_data(f"folder:{root}", size=4, validation=0)
    message = str(caught[0].message)
    assert "3 of 5 images" in message and "\n" not in message
    assert "20x30 pixels are too many: at most 100" in message and "'a/big.webp'" in message
    assert "floats of an unknown range" in message and "damaged" in message and "'a/truncated.png'" in message


@pytest.mark.parametrize(("dtype", "suffix"), [(np.int32, "tif"), (np.uint16, "tif"), (np.uint16, "png")])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_images_of_16_or_32_bits_keep_their_brightness(root: Path, dtype: type, suffix: str, bits: int) -> None:
    """A dark image stays dark if another image spans the full range."""
    ramp = np.linspace(0, 2**bits - 1, 64).reshape(8, 8).astype(dtype)
    Image.fromarray(ramp).save(root / f"a.{suffix}")
    Image.fromarray(np.full((8, 8), 2**bits // 20, dtype)).save(root / f"b.{suffix}")
    loaded = load_data(f"folder:{root}", size=8, validation=0)
    images = loaded.train.images[:, 0].astype(float)
    assert np.abs(images[0] - ramp * (255 / (2**bits - 1))).max() <= 1
    assert np.abs(images[1] - 255 / 20).max() <= 1.1
    assert (f"read as {bits} bits" in loaded.notes[0]) == (bits < 16)


def test_dark_16_bit_images_are_reported(root: Path) -> None:
    for i in range(5):
        Image.fromarray(np.full((8, 8), 2000, np.uint16)).save(root / f"{i}.png")
    pixels = np.full((8, 8), 2000, np.uint16)
    pixels[0, 0] = 65535
    Image.fromarray(pixels).save(root / "saturated.png")
    notes = load_data(f"folder:{root}", size=8, validation=0).notes
    assert "5 of 6 images with 16 bits have no value above 2,000 (of 65,535)" in notes[0]


@pytest.mark.parametrize(("max_value", "value", "expected"), [(65535, 3000, 12), (1023, 20, 5), (255, 20, 20)])
def test_range_of_pgm_file_is_read_from_its_header(root: Path, max_value: int, value: int, expected: int) -> None:
    pixels = np.full(64, value, np.uint8 if max_value < 256 else np.dtype(">u2"))
    (root / "x.pgm").write_bytes(f"P5 8 8 {max_value} ".encode() + pixels.tobytes())
    loaded = load_data(f"folder:{root}", size=8, validation=0)
    assert np.abs(loaded.train.images.astype(int) - expected).max() <= 1
    assert loaded.notes == []


@pytest.mark.parametrize("name", [":cat:", "[bold]x", "[x"])
def test_names_that_look_like_markup_are_printed_unchanged(root, capsys, monkeypatch, name):
    from rich.console import Console

    from cvae.engine.display import Display

    monkeypatch.setattr(cache, "Console", lambda **_: Console(file=sys.stderr, force_terminal=True, width=200))
    fill(root / name, f"{name}a 2", "b 2")
    loaded = load_data(f"folder:{root / name}", size=4, validation=0)
    output = capsys.readouterr().err
    assert f"decoding {name}" in output and f"process to decode {name}" in output
    Display().fields({"data": loaded.description})
    assert f"{name}: 4 training images ({name}a 2, b 2)" in capsys.readouterr().err
