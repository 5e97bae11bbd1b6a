"""The data sets, against files made or read by hand."""

import gc
import gzip
import hashlib
import io
import shutil
import socket
import struct
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import sklearn.datasets
from conftest import load, refused
from PIL import Image
from torchvision import datasets

from cvae.data import Dataset, Split, downloads
from cvae.errors import CvaeError
from cvae.registry import DATASETS

NAMED = ("mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "svhn")


def same(a: Split | None, b: Split | None) -> bool:
    assert a is not None and b is not None
    return np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def root_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What image folders are decoded to stays in the test."""
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "caches"))


@pytest.fixture
def shared() -> Path:
    path = Path(__file__).parents[1].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no data at {path}")
    return path


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Registers what a plug-in's factory returns."""

    def register(result: object) -> str:
        monkeypatch.setitem(DATASETS._registered, "toy", lambda argument, data_dir, size: result)
        return "toy"

    return register


def numbered(n: int = 200, test: int = 10) -> Dataset:
    """Images that are all different; the label of each is its number."""
    rng = np.random.default_rng(1)

    def split(n: int) -> Split:
        return Split(images=rng.integers(0, 256, (n, 1, 4, 4), np.uint8), labels=np.arange(n))

    return Dataset(name="toy", train=split(n), test=split(test), classes=tuple(map(str, range(n))), data_license="")


class TestLoad:
    def test_validation_is_held_out(self, toy: Callable[..., str]) -> None:
        whole = numbered()
        held = load(toy(whole), validation=0.1)
        assert held.validation is not None and (len(held.train), len(held.validation)) == (180, 20)
        assert sorted([*held.train.labels, *held.validation.labels]) == list(range(200))  # type: ignore[misc]
        for split in (held.train, held.validation):
            assert np.array_equal(split.images, whole.train.images[split.labels])
        assert same(held.test, whole.test)

    def test_seed(self, toy: Callable[..., str]) -> None:
        name = toy(numbered())
        a, b, c = (load(name, seed=seed, binarize="static") for seed in (0, 0, 1))
        assert same(a.train, b.train) and same(a.validation, b.validation) and same(a.test, b.test)
        assert not np.array_equal(a.train.labels, c.train.labels)  # type: ignore[arg-type]
        assert same(a.test, c.test)

    @pytest.mark.parametrize(("validation", "count"), [(0, None), (0.001, 1), (0.5, 100)])
    def test_share(self, toy: Callable[..., str], validation: float, count: int | None) -> None:
        held = load(toy(numbered()), validation=validation).validation
        assert (held and len(held)) == count

    def test_own_validation_split_is_kept(self, toy: Callable[..., str]) -> None:
        own = numbered()
        own = Dataset(name="", train=own.train, validation=own.test, classes=own.classes, data_license="")
        loaded = load(toy(own), validation=0.5)
        assert same(loaded.train, own.train) and same(loaded.validation, own.validation) and loaded.test is None

    def test_too_few_to_hold_out(self, toy: Callable[..., str]) -> None:
        refused(toy(numbered(1, 1)), "--validation 0.1", "--validation 0")

    @pytest.mark.parametrize("validation", [0, 0.1])
    def test_limit_comes_after_the_hold_out(self, toy: Callable[..., str], validation: float) -> None:
        name = toy(numbered())
        whole, few, more = (load(name, validation=validation, limit=limit) for limit in (None, 7, 1000))
        assert same(few.train, Split(images=whole.train.images[:7], labels=whole.train.labels[:7]))  # type: ignore[index]
        assert same(more.train, whole.train) and same(few.test, whole.test)
        assert validation == 0 or same(few.validation, whole.validation)

    def test_classes_can_be_left_out(self, toy: Callable[..., str]) -> None:
        whole = numbered()
        left = load(toy(whole), validation=0, without=("3", "5", "199"))
        assert left.classes == tuple(str(i) for i in range(199) if i not in (3, 5))
        assert len(left.train) == 197 and len(left.test) == 8
        for split, of in ((left.train, whole.train), (left.test, whole.test)):
            names = [int(left.classes[i]) for i in split.labels]  # type: ignore[union-attr]
            assert names == [i for i in range(len(of)) if i not in (3, 5, 199)]
            assert np.array_equal(split.images, of.images[names])

    def test_leaving_out_needs_labels(self, toy: Callable[..., str]) -> None:
        whole = numbered()
        bare = Dataset(name="", train=Split(images=whole.train.images), classes=None, data_license="")
        refused(toy(bare), "--exclude-class needs labels", "train", without=("3",))

    @pytest.mark.parametrize("mode", ["static", "dynamic"])
    def test_binarize(self, toy: Callable[..., str], mode: str) -> None:
        greys = np.arange(256, dtype=np.uint8)
        images = np.broadcast_to(greys[:, None, None, None], (256, 1, 100, 100))
        splits = {name: Split(images=images) for name in ("train", "validation", "test")}
        loaded = load(toy(Dataset(name="", classes=None, data_license="", **splits)), binarize=mode)
        drawn = [loaded.validation, loaded.test]
        if mode == "static":
            drawn.append(loaded.train)
        else:
            assert np.array_equal(loaded.train.images, images)
        for split in drawn:
            assert split is not None and split.images.dtype == np.uint8
            assert set(np.unique(split.images)) == {0, 255}
            share, p = (split.images == 255).mean((1, 2, 3)), greys / 255
            assert share[0] == 0 and share[255] == 1
            assert (abs(share - p) <= 4.5 * np.sqrt(p * (1 - p) / 10_000)).all()
        # No two splits share their noise: a validation image is no copy of a training image.
        assert len({split.images.tobytes() for split in drawn if split}) == len(drawn)

    def test_binarize_leaves_binary_images(self, toy: Callable[..., str]) -> None:
        images = np.random.default_rng(0).integers(0, 2, (50, 1, 8, 8), np.uint8) * np.uint8(255)
        loaded = load(
            toy(Dataset(name="", train=Split(images=images), classes=None, data_license="")),
            binarize="static",
            validation=0,
        )
        assert np.array_equal(loaded.train.images, images)

    def test_binarize_refuses_colour(self, toy: Callable[..., str]) -> None:
        colour = Dataset(name="", train=Split(images=np.zeros((9, 3, 4, 4), np.uint8)), classes=None, data_license="")
        refused(toy(colour), "--binarize 'static'", "3 channels", "--binarize none", binarize="static")

    def test_conditional_needs_labels(self, toy: Callable[..., str]) -> None:
        flat = Dataset(name="", train=Split(images=np.zeros((9, 1, 4, 4), np.uint8)), classes=None, data_license="")
        assert load(toy(flat)).classes is None
        refused("toy", "--conditional", "'toy'", "sub-folder for each class", conditional=True)
        half = numbered()
        half = Dataset(name="", train=half.train, test=flat.train, classes=half.classes, data_license="")
        refused(toy(half), "test of 'toy'", conditional=True)

    def test_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refused("mnits", "'mnits'", "'mnist'")
        refused("./photos", "'./photos'")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        np.savez("a.npz", train=0)
        refused("./photos", "'./photos'", "folder:./photos")
        refused("a.npz", "npz:a.npz")

    @pytest.mark.parametrize("name", ["digits", *NAMED])
    def test_argument_that_is_not_taken(self, name: str) -> None:
        refused(f"{name}:7", f"'{name}:7'")

    @pytest.mark.parametrize("name", ["folder", "npz"])
    def test_argument_that_is_missing(self, name: str) -> None:
        refused(name, f"{name}:PATH")
        refused(f"{name}:/no/such", "/no/such")

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
            (Dataset(name="", train=Split(images=images), classes=("a", "b", "a"), data_license=""),
             ["'a' more than once"]),
            (Dataset(name="", train=Split(images=images), classes=["a"], data_license=""), ["['a']"]),  # type: ignore[arg-type]
            (Dataset(name="", train=Split(images=images), test=Split(images=images[..., :3]), classes=None,
                     data_license=""), ["(1, 4, 3)"]),
        ],
    )  # fmt: skip
    def test_plugin_that_returns_something_else(self, toy: Callable[..., str], result: Any, words: list[str]) -> None:
        if isinstance(result, np.ndarray):
            result = Dataset(name="", train=Split(images=result), classes=None, data_license="")
        if isinstance(result, tuple):
            result = Dataset(
                name="", train=Split(images=result[0], labels=result[1]), classes=("a", "b"), data_license=""
            )
        refused(toy(result), "'toy'", *words, kind=CvaeError)


class TestDigits:
    def test_against_scikit_learn(self) -> None:
        truth = sklearn.datasets.load_digits()
        digits = load("digits", validation=0)
        assert digits.test is not None and (len(digits.train), len(digits.test)) == (1438, 359)
        assert digits.classes == tuple("0123456789")
        images = np.concatenate([digits.train.images, digits.test.images])
        labels = np.concatenate([digits.train.labels, digits.test.labels])
        assert images.shape == (1797, 1, 8, 8) and (images.min(), images.max()) == (0, 255)
        got = sorted((int(label), *np.rint(x.ravel() * (16 / 255))) for x, label in zip(images, labels, strict=True))
        assert got == sorted((int(label), *x.ravel()) for x, label in zip(truth.images, truth.target, strict=True))
        # A change here makes figures on the test split incomparable with those of earlier versions.
        assert digits.test.labels is not None and digits.test.labels[:5].tolist() == [8, 8, 9, 8, 3]

    def test_size(self) -> None:
        small, large = load("digits"), load("digits", size=28)
        assert large.train.images.shape == (1294, 1, 28, 28)
        assert np.array_equal(small.train.labels, large.train.labels)  # type: ignore[arg-type]
        means = [x.train.images.mean((1, 2, 3)) for x in (small, large)]
        assert np.corrcoef(*means)[0, 1] > 0.99


class TestShared:
    def test_mnist(self, shared: Path) -> None:
        mnist = load("mnist", data_dir=str(shared), validation=0)
        raw = shared / "MNIST" / "raw"
        for split, stem in ((mnist.train, "train"), (mnist.test, "t10k")):
            assert split is not None and split.labels is not None
            images = np.frombuffer((raw / f"{stem}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
            labels = np.frombuffer((raw / f"{stem}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
            assert np.array_equal(split.images, images.reshape(-1, 1, 28, 28))
            assert np.array_equal(split.labels, labels) and split.labels.dtype == np.int64
        assert mnist.train.labels is not None and mnist.test is not None and mnist.test.labels is not None
        assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
        counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert np.bincount(mnist.train.labels).tolist() == counts
        assert np.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert mnist.classes == tuple("0123456789") and "CC BY-SA 3.0" in mnist.data_license

    def test_packed_mnist(self, shared: Path) -> None:
        path = shared / "mnist_static_binarized.npz"
        packed = load(f"npz:{path}", conditional=True)
        splits = packed.train, packed.validation, packed.test
        assert [split and split.images.shape for split in splits] == [(n, 1, 28, 28) for n in (50_000, 10_000, 10_000)]
        mnist = load("mnist", data_dir=str(shared), validation=0)
        with np.load(path) as archive:
            indices = [archive[f"{key}_index"] for key in ("train", "valid", "test")]
        for split, source, index in zip(splits, (mnist.train, mnist.train, mnist.test), indices, strict=True):
            assert split is not None and source is not None and source.labels is not None
            assert np.array_equal(split.labels, source.labels[index])  # type: ignore[arg-type]
            grey = source.images[index]  # what was black or white stays so
            assert not split.images[grey == 0].any() and (split.images[grey == 255] == 255).all()

    def test_cars(self, shared: Path) -> None:
        cars = load(f"folder:{shared / 'cars' / 'test'}", size=32, validation=0)
        files = sorted((shared / "cars" / "test").glob("*/*.jpg"))
        assert cars.classes == tuple(sorted({file.parent.name for file in files}))
        assert [cars.classes[i] for i in cars.train.labels] == [file.parent.name for file in files]  # type: ignore[union-attr]
        with Image.open(files[0]) as image:
            left = (image.width - image.height) // 2
            square = image.crop((left, 0, left + image.height, image.height)).resize((32, 32), Image.Resampling.BOX)
        assert abs(cars.train.images[0] - np.asarray(square, float).transpose(2, 0, 1)).mean() < 6


def paint(
    path: Path, colour: Any = (255, 0, 0), size: tuple[int, int] = (8, 8), mode: str = "RGB", **save: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **save)
    return path


def only(folder: Path, **flags: Any) -> np.ndarray:
    """The one image of a folder, (C, H, W)."""
    images = load(f"folder:{folder}", validation=0, **{"size": 8, **flags}).train.images
    assert len(images) == 1
    return images[0]


class TestFolder:
    def test_classes(self, tmp_path: Path) -> None:
        paint(tmp_path / "b" / "deep" / "er" / "1.PNG", (0, 0, 255))
        paint(tmp_path / "a" / "2.jpeg", (255, 0, 0))
        paint(tmp_path / "b" / "0.gif", (0, 255, 0))
        paint(tmp_path / "a" / ".hidden.png")
        paint(tmp_path / ".cache" / "3.png")
        paint(tmp_path / "a" / ".thumbnails" / "3.png")
        (tmp_path / "empty").mkdir()
        (tmp_path / "a" / "notes.txt").write_text("no image")
        loaded = load(f"folder:{tmp_path}", validation=0, conditional=True)
        assert loaded.classes == ("a", "b") and loaded.name == tmp_path.name
        assert loaded.train.images.shape == (3, 3, 64, 64)
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [0, 1, 1]
        assert loaded.train.images[:, :, 32, 32].argmax(1).tolist() == [0, 1, 2]

    @pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "gif", "webp", "tif", "TIFF"])
    def test_flat(self, tmp_path: Path, suffix: str) -> None:
        paint(tmp_path / f"x.{suffix}", (200, 100, 50), (20, 10))
        image = only(tmp_path)
        assert image.shape == (3, 8, 8) and np.abs(image.mean((1, 2)) - (200, 100, 50)).max() < 4
        assert load(f"folder:{tmp_path}", validation=0).classes is None

    @pytest.mark.parametrize("valid", ["valid", "val", "validation"])
    def test_splits(self, tmp_path: Path, valid: str) -> None:
        for name, colour in (("train/a", 10), ("train/b", 20), (f"{valid}/b", 30), ("test/a", 40)):
            paint(tmp_path / name / "x.png", colour, mode="L")
        loaded = load(f"folder:{tmp_path}")
        found = {
            name: list(zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True))
            for name, split in vars(loaded).items()
            if isinstance(split, Split) and split.labels is not None
        }
        assert found == {"train": [(10, 0), (20, 1)], "validation": [(30, 1)], "test": [(40, 0)]}
        assert loaded.classes == ("a", "b")

    def test_flat_splits(self, tmp_path: Path) -> None:
        paint(tmp_path / "train" / "x.png", 1, mode="L")
        paint(tmp_path / "train" / "y.png", 2, mode="L")
        paint(tmp_path / "test" / "x.png", 3, mode="L")
        loaded = load(f"folder:{tmp_path}", validation=0.5)
        assert loaded.classes is None and loaded.test is not None and loaded.test.images.max() == 3
        assert len(loaded.train) == 1

    def test_train_among_others_is_a_class(self, tmp_path: Path) -> None:
        paint(tmp_path / "train" / "x.png")
        paint(tmp_path / "bus" / "x.png")
        paint(tmp_path / "car" / "x.png")
        assert load(f"folder:{tmp_path}", validation=0).classes == ("bus", "car", "train")

    def test_bad_layouts(self, tmp_path: Path) -> None:
        refused(f"folder:{tmp_path}", str(tmp_path), "no images")
        paint(tmp_path / "train" / "a" / "x.png")
        paint(tmp_path / "test" / "c" / "x.png")
        refused(f"folder:{tmp_path}", "'c'", "train")
        paint(tmp_path / "loose.png")
        refused(f"folder:{tmp_path}", "'loose.png'", "'test', 'train'")
        (tmp_path / "loose.png").unlink()
        shutil.rmtree(tmp_path / "test")
        paint(tmp_path / "val" / "a" / "x.png")
        paint(tmp_path / "valid" / "a" / "x.png")
        refused(f"folder:{tmp_path}", "val, valid")
        refused(f"folder:{tmp_path / 'val' / 'a' / 'x.png'}", "no such folder")

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
            ("RGBA", (0, 100, 200, 51), [204, 224, 244]),  # a fifth of the colour on white
            ("I;16", 65535, [255]),
            ("I;16", 257 * 77, [77]),
            ("I;16", 0, [0]),
        ],
    )
    def test_modes(self, tmp_path: Path, mode: str, colour: Any, expected: list[int]) -> None:
        image = only(paint(tmp_path / "x.png", colour, mode=mode).parent)
        assert image.shape == (len(expected), 8, 8)
        assert np.abs(image.astype(int) - np.reshape(expected, (-1, 1, 1))).max() <= 1

    def test_16_bit_tiff(self, tmp_path: Path) -> None:
        big_endian = Image.frombytes("I;16B", (8, 8), struct.pack(">64H", *[257 * 150] * 64))
        big_endian.save(tmp_path / "x.tif")
        assert (only(tmp_path) == 150).all()

    def test_palette_with_transparency(self, tmp_path: Path) -> None:
        image = Image.new("P", (8, 8), 0)
        image.putpalette([10, 20, 30, 0, 255, 0])
        image.paste(1, (4, 0, 8, 8))
        image.save(tmp_path / "x.png", transparency=1)
        got = only(tmp_path)
        assert got[:, 0, 0].tolist() == [10, 20, 30] and got[:, 0, 7].tolist() == [255, 255, 255]

    def test_cmyk(self, tmp_path: Path) -> None:
        image = only(paint(tmp_path / "x.jpg", (0, 255, 255, 0), mode="CMYK").parent)  # magenta and yellow ink: red
        assert image[0].min() > 240 and image[1:].max() < 15

    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif"])
    def test_exif_orientation(self, tmp_path: Path, suffix: str) -> None:
        image = Image.new("L", (64, 64), 0)
        image.paste(255, (0, 0, 32, 64))  # white on the left: on top, once turned clockwise
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / f"x.{suffix}", exif=exif)
        got = only(tmp_path)
        assert got[0, :3].min() > 240 and got[0, 5:].max() < 15

    def test_photo_with_a_preview(self, tmp_path: Path) -> None:
        preview = Image.new("RGB", (8, 8), "blue")
        Image.new("RGB", (8, 8), "red").save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[preview])
        assert only(tmp_path)[0].min() > 240

    def test_colour_is_decided_over_all(self, tmp_path: Path) -> None:
        paint(tmp_path / "train" / "x.png", 7, mode="L")
        paint(tmp_path / "test" / "y.png", (1, 2, 3))
        loaded = load(f"folder:{tmp_path}", validation=0, size=8)
        assert loaded.train.images.shape == (1, 3, 8, 8) and (loaded.train.images == 7).all()

    @pytest.mark.parametrize("turned", [False, True])
    def test_centre_crop(self, tmp_path: Path, turned: bool) -> None:
        image = Image.new("RGB", (96, 32), "red")
        image.paste("blue", (64, 0, 96, 32))
        image.paste("lime", (32, 0, 64, 32))
        (image.transpose(Image.Transpose.ROTATE_90) if turned else image).save(tmp_path / "x.png")
        inner = only(tmp_path, size=16)[:, 2:-2, 2:-2]  # the filter sees a little of what is cut off
        assert (inner == np.reshape([0, 255, 0], (3, 1, 1))).all()

    def test_height_by_width(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (96, 32), "red")
        image.paste("blue", (72, 0, 96, 32))
        image.paste("lime", (24, 0, 72, 32))
        image.save(tmp_path / "x.png")
        fitted = only(tmp_path, size="16x32")  # a third of the width is cut off
        assert fitted.shape == (3, 16, 32)
        assert fitted[:, 8, [0, 16, 31]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]

    def test_antialias(self, tmp_path: Path) -> None:
        board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "x.png")
        assert np.abs(only(tmp_path)[:, 1:-1, 1:-1].astype(int) - 127).max() < 8

    def test_large_jpeg(self, tmp_path: Path) -> None:
        """The draft that JPEG is decoded at leaves the same picture."""
        ramp = np.linspace(0, 255, 1024)[None].repeat(700, 0).astype(np.uint8)
        Image.fromarray(ramp).save(tmp_path / "x.jpg", quality=95)
        got = only(tmp_path, size=16)[0].astype(int)
        assert np.abs(got[0] - np.interp((np.arange(16) + 0.5) * 700 / 16 + 162, np.arange(1024), ramp[0])).max() < 3

    def test_unreadable_images_are_skipped(self, tmp_path: Path) -> None:
        paint(tmp_path / "a" / "good.png", 1, mode="L")
        whole = paint(tmp_path / "b" / "good.png", 2, mode="L").read_bytes()
        (tmp_path / "a" / "cut.png").write_bytes(whole[:-30])
        (tmp_path / "a" / "empty.jpg").touch()
        paint(tmp_path / "a" / "float.tif", 1.0, mode="F")
        paint(tmp_path / "a" / "wide.tif", 70_000, mode="I")
        for i in range(3):
            (tmp_path / "b" / f"text{i}.gif").write_text("no image")
        Image.new("RGB", (8, 8)).save(tmp_path / "b" / "disguised.png", "PPM")
        with pytest.warns(UserWarning) as caught:
            loaded = load(f"folder:{tmp_path}", validation=0)
        (warning,) = caught
        message = str(warning.message)
        assert "7 of 10 images" in message and "\n" not in message
        for reason in ("damaged (image file is truncated", "not an image", "floats", "integers from 70,000 to 70,000"):
            assert reason in message
        for name in ("cut.png", "empty.jpg", "float.tif", "wide.tif"):
            assert f"'a/{name}'" in message
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [0, 1, 1]
        assert loaded.train.images[:, 0, 0, 0].tolist() == [1, 0, 2]  # a PPM file is read, whatever it is called

    @pytest.mark.parametrize("pixels", [65, 1000])
    def test_pixel_cap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
        paint(tmp_path / "small.png", size=(8, 8))
        paint(tmp_path / "large.png", size=(pixels, 1))
        with pytest.warns(UserWarning, match="1 of 2 images .*'large.png'"):
            assert len(load(f"folder:{tmp_path}", validation=0).train) == 1

    def test_nothing_readable(self, tmp_path: Path) -> None:
        for i in range(7):
            (tmp_path / f"{i}.png").write_text("no image")
        refused(f"folder:{tmp_path}", "7", "'0.png', '1.png'", kind=CvaeError)

    def test_warning_filters_are_given_back(self, tmp_path: Path) -> None:
        paint(tmp_path / "x.png")
        before = list(warnings.filters)
        only(tmp_path)
        assert list(warnings.filters) == before


class TestNpz:
    @pytest.fixture
    def save(self, tmp_path: Path) -> Callable[..., str]:
        def save(**arrays: Any) -> str:
            np.savez(tmp_path / "x.npz", **arrays)
            return f"npz:{tmp_path / 'x.npz'}"

        return save

    colour = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10), np.uint8)
    grey = colour[:, :1]
    square = colour[:, :1, :, :8]
    binary = square > 99

    @pytest.mark.parametrize(
        ("array", "expected"),
        [
            (grey[:, 0], grey),
            (grey, grey),
            (colour, colour),
            (colour.transpose(0, 2, 3, 1), colour),
            (grey.transpose(0, 2, 3, 1), grey),
            (square.reshape(6, 64), square),
            ((square / 255).astype(np.float32), square),
            ((square / 255).reshape(6, 64), square),
            (binary, binary * np.uint8(255)),
            (np.packbits(binary.reshape(6, 64), axis=1), binary * np.uint8(255)),
            (np.zeros((6, 98), np.uint8), np.zeros((6, 1, 28, 28))),
        ],
    )
    def test_images(self, save: Callable[..., str], array: np.ndarray, expected: np.ndarray) -> None:
        loaded = load(save(train=array), validation=0)
        assert np.array_equal(loaded.train.images, expected) and loaded.train.images.flags.c_contiguous
        assert loaded.classes is None and loaded.name == "x"

    def test_size(self, save: Callable[..., str]) -> None:
        images = np.full((2, 16, 48, 3), 9, np.uint8)
        images[:, :, 16:32] = (100, 150, 200)
        loaded = load(save(images=images), size=8, validation=0)
        assert loaded.train.images.shape == (2, 3, 8, 8)
        assert (loaded.train.images[..., 2:-2] == np.reshape([100, 150, 200], (3, 1, 1))).all()

    @pytest.mark.parametrize("key", ["valid", "validation"])
    def test_splits_and_labels(self, save: Callable[..., str], key: str) -> None:
        labels = np.array([3, 0, 1, 1, 2, 0], np.uint8)
        loaded = load(
            save(train=self.grey, train_labels=labels, test=self.grey[:2], test_labels=labels[:2], other=1,
                 **{key: self.grey[:3], f"{key}_labels": labels[:3]}),
            conditional=True,
        )  # fmt: skip
        assert loaded.classes == ("0", "1", "2", "3") and loaded.validation is not None
        assert np.array_equal(loaded.train.labels, labels)  # type: ignore[arg-type]
        assert np.array_equal(loaded.validation.labels, labels[:3])  # type: ignore[arg-type]

    def test_named_labels(self, save: Callable[..., str]) -> None:
        labels = np.array(["cat", "ant", "cat", "bee", "bee", "ant"])
        loaded = load(save(images=self.grey, labels=labels), validation=0)
        assert loaded.classes == ("ant", "bee", "cat")
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [2, 0, 2, 1, 1, 0]
        loaded = load(save(train=self.grey, train_labels=labels, classes=["bee", "cat", "ant"]), validation=0)
        assert loaded.classes == ("bee", "cat", "ant")
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [1, 2, 1, 0, 0, 2]
        loaded = load(save(train=self.grey, train_labels=[0, 1, 1, 0, 0, 0], classes=["a", "b"]), validation=0)
        assert loaded.classes == ("a", "b")

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"test": grey}, ["'train'"]),
            ({"train": grey, "images": grey}, ["'train'", "'images'"]),
            ({"train": grey / 100}, ["float", "2.55", "0..1"]),
            ({"train": np.linspace(-0.5, 1, 32).reshape(2, 4, 4)}, ["-0.5..1"]),
            ({"train": np.full((2, 4, 4), np.nan)}, ["nan"]),
            ({"train": grey.astype(np.int64)}, ["int64", "uint8"]),
            ({"train": grey.astype(complex)}, ["complex128"]),
            ({"train": np.zeros((6, 63), np.uint8)}, ["(6, 63)", "(N, H, W)", "packbits"]),
            ({"train": np.zeros((6, 98))}, ["(6, 98)"]),
            ({"train": np.zeros((6, 2, 8, 8), np.uint8)}, ["(6, 2, 8, 8)"]),
            ({"train": np.uint8(3)}, ["()"]),
            ({"train": grey, "train_labels": np.zeros(6)}, ["float64"]),
            ({"train": grey, "train_labels": [10**9] * 6}, ["1000000000"]),
            ({"train": grey, "train_labels": ["a"] * 6, "test": grey, "test_labels": ["b"] * 6}, ["test", "'b'"]),
            ({"train": grey, "train_labels": ["a"] * 6, "test": grey, "test_labels": [0] * 6}, ["<U1, int64"]),
            ({"train": grey, "train_labels": [0] * 6, "classes": [1]}, ["'classes'"]),
        ],
    )
    def test_refused(self, save: Callable[..., str], arrays: dict[str, Any], words: list[str]) -> None:
        refused(save(**arrays), "x.npz", *words)

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"train": np.array([{}])}, ["allow_pickle=False", "numpy.savez"]),
            ({"train": grey, "train_labels": [0] * 5}, ["(5,)", "(6,)"]),
            ({"train": grey, "train_labels": [-1] * 6}, ["-1"]),
            ({"train": grey, "train_labels": [2] * 6, "classes": ["a"]}, ["2..2", "0..0"]),
            ({"train": grey[:0]}, ["no images"]),
            ({"train": np.zeros((0, 16))}, ["no images"]),
            ({"train": grey, "test": square}, ["(1, 8, 8)", "(1, 8, 10)"]),
        ],
    )
    def test_bad_content(self, save: Callable[..., str], arrays: dict[str, Any], words: list[str]) -> None:
        refused(save(**arrays), "x.npz", *words, kind=CvaeError)

    def test_damaged(self, save: Callable[..., str], tmp_path: Path) -> None:
        data = save(train=self.grey)
        path = tmp_path / "x.npz"
        whole = path.read_bytes()
        path.write_bytes(whole[:-50])
        refused(data, "x.npz", kind=CvaeError)
        path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
        refused(data, "x.npz", kind=CvaeError)
        with path.open("wb") as file:
            np.save(file, self.grey)
        refused(data, "x.npz", "numpy.savez", kind=CvaeError)
        with zipfile.ZipFile(path, "w") as archive:
            header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 1, 64, 64)}"
            archive.writestr("train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        refused(data, "x.npz", kind=CvaeError)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address where it is served."""
    monkeypatch.setenv("no_proxy", "*")
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """https://yann.lecun.org/exdb/mnist/: magic number, big-endian sizes, bytes."""
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


IMAGES = np.random.default_rng(2).integers(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([1, 9, 2, 0, 5])
IDX = {
    "train-images-idx3-ubyte": idx(IMAGES),
    "train-labels-idx1-ubyte": idx(LABELS),
    "t10k-images-idx3-ubyte": idx(IMAGES[:2]),
    "t10k-labels-idx1-ubyte": idx(LABELS[:2]),
}


class TestDownloads:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "root"

    @pytest.fixture(params=[("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
    def kin(
        self, request: pytest.FixtureRequest, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> tuple[str, str]:
        """Serves tiny files as those of MNIST or one of its kin."""
        served, address = server
        resources = []
        for stem, content in IDX.items():
            packed = gzip.compress(content)
            (served / f"{stem}.gz").write_bytes(packed)
            resources.append((f"{stem}.gz", md5(packed)))
        name, kind = request.param
        monkeypatch.setattr(getattr(datasets, kind), "mirrors", [address])
        monkeypatch.setattr(getattr(datasets, kind), "resources", resources)
        return name, kind

    def test_idx(self, kin: tuple[str, str], server: tuple[Path, str], root: Path) -> None:
        name, kind = kin
        first = load(name, data_dir=str(root), validation=0)
        assert np.array_equal(first.train.images, IMAGES[:, None]) and np.array_equal(first.train.labels, LABELS)  # type: ignore[arg-type]
        assert same(first.test, Split(images=IMAGES[:2, None], labels=LABELS[:2]))
        assert first.classes is not None and len(first.classes) == 10 and first.name == name
        shutil.rmtree(server[0])  # a second time nothing is downloaded
        again = load(name, data_dir=str(root), validation=0, size=14)
        assert again.train.images.shape == (5, 1, 14, 14)

        raw = root / kind / "raw"
        (root / kind / "processed").mkdir()
        for legacy in ("training.pt", "test.pt"):
            (root / kind / "processed" / legacy).write_bytes(b"a pickle")
        assert same(load(name, data_dir=str(root), validation=0).train, first.train)
        good = IDX["train-images-idx3-ubyte"]
        four = idx(IMAGES[..., None])
        for content in (good[:-100], good[:9], good + b"x", four, b"", b"\0\0\x09\x03" * 9, b"\xff" * 50):
            (raw / "train-images-idx3-ubyte").write_bytes(content)
            refused(name, repr(name), str(root), "damaged", kind=CvaeError, data_dir=str(root))

    def test_classes(self) -> None:
        assert tuple("0123456789") == downloads.DIGITS
        assert list(downloads.KUZUSHIJI) == datasets.KMNIST.classes
        assert list(downloads.FASHION) == datasets.FashionMNIST.classes
        truth = {
            key: [name for name in row if name != "N/A"] for key, row in datasets.EMNIST.classes_split_dict.items()
        }
        assert truth == downloads.EMNIST and tuple(truth) == datasets.EMNIST.splits == tuple(downloads.EMNIST)

    @pytest.mark.parametrize("kin", [("mnist", "MNIST")], indirect=True)
    def test_where_it_goes(
        self, kin: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("CVAE_DATA_DIR", raising=False)
        load("mnist")
        assert (tmp_path / "home" / ".cache" / "cvae" / "MNIST" / "raw").is_dir()
        monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "variable"))
        load("mnist")
        assert (tmp_path / "variable" / "MNIST" / "raw").is_dir()
        load("mnist", data_dir="~/flag")
        assert (tmp_path / "home" / "flag" / "MNIST" / "raw").is_dir()

    @pytest.mark.parametrize("kin", [("mnist", "MNIST")], indirect=True)
    def test_wrong_checksum(self, kin: tuple[str, str], server: tuple[Path, str], root: Path) -> None:
        (server[0] / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
        refused("mnist", "can't download 'mnist'", "corrupted", kind=CvaeError, data_dir=str(root))

    @pytest.mark.parametrize("selection", ["", "letters", "digits", "mnist", "byclass", "bymerge"])
    def test_emnist(
        self, selection: str, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, root: Path
    ) -> None:
        split = selection or "balanced"
        labels = LABELS + (split == "letters")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for part, n in (("train", 5), ("test", 2)):
                stem = f"gzip/emnist-{split}-{part}"
                archive.writestr(f"{stem}-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES[:n])))
                archive.writestr(f"{stem}-labels-idx1-ubyte.gz", gzip.compress(idx(labels[:n])))
        (server[0] / "gzip.zip").write_bytes(packed.getvalue())
        monkeypatch.setattr(datasets.EMNIST, "url", server[1] + "gzip.zip")
        monkeypatch.setattr(datasets.EMNIST, "md5", md5(packed.getvalue()))
        loaded = load(f"emnist:{selection}", data_dir=str(root), validation=0)
        assert np.array_equal(loaded.train.images[:, 0], IMAGES.swapaxes(1, 2))
        assert np.array_equal(loaded.train.labels, LABELS)  # type: ignore[arg-type]
        sizes = {"balanced": 47, "letters": 26, "digits": 10, "mnist": 10, "byclass": 62, "bymerge": 47}
        assert loaded.classes is not None and len(loaded.classes) == sizes[split]
        assert loaded.classes[0] == ("a" if split == "letters" else "0")

    @pytest.fixture
    def cifar(self, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
        """Serves an archive of six files of two records each; all twelve records (12, 3073)."""
        records = np.random.default_rng(3).integers(0, 256, (12, 3073), np.uint8)
        records[:, 0] %= 10
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for i, stem in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
                content = records[2 * i : 2 * i + 2].tobytes()
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{stem}.bin")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        (server[0] / "cifar.tar.gz").write_bytes(packed.getvalue())
        monkeypatch.setattr(downloads, "CIFAR10_URL", server[1] + "cifar.tar.gz")
        monkeypatch.setattr(downloads, "CIFAR10_MD5", md5(packed.getvalue()))
        monkeypatch.setattr(downloads, "CIFAR10_RECORDS", 2)
        return records

    def test_cifar10(self, cifar: np.ndarray, server: tuple[Path, str], root: Path) -> None:
        loaded = load("cifar10", data_dir=str(root), validation=0)
        assert loaded.train.images.shape == (10, 3, 32, 32)
        assert loaded.train.images[7, 2, 5, 4] == cifar[7, 1 + 2 * 1024 + 5 * 32 + 4]
        assert np.array_equal(loaded.train.labels, cifar[:10, 0])  # type: ignore[arg-type]
        assert loaded.test is not None and np.array_equal(loaded.test.images.reshape(2, -1), cifar[10:, 1:])
        shutil.rmtree(server[0])
        assert same(load("cifar10", data_dir=str(root), validation=0).train, loaded.train)
        file = root / "cifar-10-batches-bin" / "data_batch_5.bin"
        file.write_bytes(file.read_bytes()[:3073])
        refused("cifar10", "damaged", str(root), kind=CvaeError, data_dir=str(root))

    def test_cifar10_as_pickle(self, cifar: np.ndarray, root: Path) -> None:
        (root / "cifar-10-batches-py").mkdir(parents=True)
        refused("cifar10", "pickle", "cifar-10-binary.tar.gz", "--data-dir", kind=CvaeError, data_dir=str(root))

    def test_svhn(self, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        images = np.random.default_rng(4).integers(0, 256, (32, 32, 3, 5), np.uint8)
        packed = io.BytesIO()
        scipy.io.savemat(packed, {"X": images, "y": np.array([[10], [1], [9], [10], [2]], np.uint8)})
        files = {}
        for split in ("train", "test"):
            (server[0] / f"{split}_32x32.mat").write_bytes(packed.getvalue())
            files[split] = [f"{server[1]}{split}_32x32.mat", f"{split}_32x32.mat", md5(packed.getvalue())]
        monkeypatch.setattr(datasets.SVHN, "split_list", files)
        loaded = load("svhn", data_dir=str(root), validation=0)
        assert np.array_equal(loaded.train.images, images.transpose(3, 2, 0, 1))
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [0, 1, 9, 0, 2]
        assert loaded.train.images.flags.c_contiguous and "non-commercial" in loaded.data_license

        broken = b"MATLAB 5.0 MAT-file" + bytes(200)
        (root / "train_32x32.mat").write_bytes(broken)
        files["train"][2] = md5(broken)
        refused("svhn", "damaged", kind=CvaeError, data_dir=str(root))

    @pytest.fixture(params=["refused", "missing", "silent"])
    def nowhere(
        self, request: pytest.FixtureRequest, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        """Points every download to a port that nobody listens to, a server without the file, or one without answer."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if request.param == "silent":
                listener.listen()
            port = listener.getsockname()[1]
            address = server[1] if request.param == "missing" else f"http://127.0.0.1:{port}/"
            monkeypatch.setattr(downloads, "TIMEOUT", 0.05)
            for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
                monkeypatch.setattr(kind, "mirrors", [address])
            monkeypatch.setattr(datasets.EMNIST, "url", address + "gzip.zip")
            monkeypatch.setattr(downloads, "CIFAR10_URL", address + "cifar.tar.gz")
            monkeypatch.setattr(
                datasets.SVHN, "split_list", {split: [address + "x", "x", "0"] for split in ("train", "test")}
            )
            yield
            if request.param == "missing":
                gc.collect()

    # torchvision leaves the answer 404 unclosed; `nowhere` collects it, so that no later test is warned of it.
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    @pytest.mark.parametrize("name", NAMED)
    def test_no_network(self, nowhere: None, name: str, root: Path) -> None:
        before = socket.getdefaulttimeout()
        refused(name, repr(name), str(root), "--data-dir", "--data digits", kind=CvaeError, data_dir=str(root))
        assert socket.getdefaulttimeout() == before

    def test_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        refused("mnist", "can't download", kind=CvaeError, data_dir=str(tmp_path / "file"))
