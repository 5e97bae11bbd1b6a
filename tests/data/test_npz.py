"""Arrays in npz files: layouts, labels and errors."""

import errno
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_load_fails, load_data

from cvae.errors import CvaeError


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
    def test_images_of_every_layout_are_read(
        self, save: Callable[..., str], array: np.ndarray, expected: np.ndarray
    ) -> None:
        loaded = load_data(save(train=array), validation=0)
        assert np.array_equal(loaded.train.images, expected) and loaded.train.images.flags.c_contiguous
        assert loaded.classes is None and loaded.name == "x"

    def test_images_are_resized(self, save: Callable[..., str]) -> None:
        images = np.full((2, 16, 48, 3), 9, np.uint8)
        images[:, :, 16:32] = (100, 150, 200)
        loaded = load_data(save(images=images), size=8, validation=0)
        assert loaded.train.images.shape == (2, 3, 8, 8)
        assert (loaded.train.images[..., 2:-2] == np.reshape([100, 150, 200], (3, 1, 1))).all()

    @pytest.mark.parametrize("key", ["valid", "validation"])
    def test_splits_and_labels_are_read(self, save: Callable[..., str], key: str) -> None:
        labels = np.array([3, 0, 1, 1, 2, 0], np.uint8)
        loaded = load_data(
            save(train=self.grey, train_labels=labels, test=self.grey[:2], test_labels=labels[:2], other=1,
                 **{key: self.grey[:3], f"{key}_labels": labels[:3]}),
            conditional=True,
        )  # fmt: skip
        assert loaded.classes == ("0", "1", "2", "3") and loaded.validation is not None
        assert np.array_equal(loaded.train.labels, labels)  # type: ignore[arg-type]
        assert np.array_equal(loaded.validation.labels, labels[:3])  # type: ignore[arg-type]

    def test_labels_that_start_above_0_keep_their_values_as_names(self, save: Callable[..., str]) -> None:
        labels = np.array([3, 1, 10, 1, 3, 10])
        loaded = load_data(
            save(train=self.grey, train_labels=labels, test=self.grey[:2], test_labels=labels[:2]), validation=0
        )
        assert loaded.classes == ("1", "3", "10") and loaded.test is not None
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [1, 0, 2, 0, 1, 2]
        assert loaded.test.labels is not None and loaded.test.labels.tolist() == [1, 0]
        one_hot = load_data(save(images=self.grey, labels=np.eye(4, dtype=int)[[1, 2, 3, 1, 2, 3]]), validation=0)
        assert one_hot.classes == ("0", "1", "2", "3")

    def test_unlabelled_split_is_left_out_of_a_conditional_model(self, save: Callable[..., str]) -> None:
        data = save(train=self.grey, train_labels=np.arange(6) % 2, test=self.grey[:2])
        loaded = load_data(data, conditional=True)
        assert loaded.test is None and any("images of test" in note for note in loaded.notes)
        plain = load_data(data)
        assert plain.test is not None and plain.test.labels is None

    def test_string_labels_become_class_names(self, save: Callable[..., str]) -> None:
        labels = np.array(["cat", "ant", "cat", "bee", "bee", "ant"])
        loaded = load_data(save(images=self.grey, labels=labels), validation=0)
        assert loaded.classes == ("ant", "bee", "cat")
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [2, 0, 2, 1, 1, 0]
        loaded = load_data(save(train=self.grey, train_labels=labels, classes=["bee", "cat", "ant"]), validation=0)
        assert loaded.classes == ("bee", "cat", "ant")
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == [1, 2, 1, 0, 0, 2]
        loaded = load_data(save(train=self.grey, train_labels=[0, 1, 1, 0, 0, 0], classes=["a", "b"]), validation=0)
        assert loaded.classes == ("a", "b")

    @pytest.mark.parametrize(
        ("labels", "classes", "expected"),
        [
            (np.array([[2], [0], [1], [1], [0], [2]]), "012", [2, 0, 1, 1, 0, 2]),
            (np.array([["b"], ["a"], ["b"], ["b"], ["b"], ["a"]]), "ab", [1, 0, 1, 1, 1, 0]),
            (np.eye(4)[[2, 0, 1, 1, 0, 2]], "0123", [2, 0, 1, 1, 0, 2]),
            (np.array([2.0, 0, 1, 1, 0, 2], np.float32), "012", [2, 0, 1, 1, 0, 2]),
            (np.array([True, False] * 3), "01", [1, 0] * 3),
        ],
        ids=["column", "column of strings", "one-hot", "floats", "bool"],
    )
    def test_labels_of_every_layout_are_read(
        self, save: Callable[..., str], labels: np.ndarray, classes: str, expected: list[int]
    ) -> None:
        loaded = load_data(save(train=self.grey, train_labels=labels), validation=0)
        assert loaded.classes == tuple(classes)
        assert loaded.train.labels is not None and loaded.train.labels.tolist() == expected

    @pytest.mark.parametrize(
        "array", [(grey / 255).astype(np.float32), binary, colour.transpose(0, 2, 3, 1)], ids=["float", "bool", "NHWC"]
    )
    def test_npy_file_may_have_the_same_types_and_layouts_as_npz(
        self, save: Callable[..., str], tmp_path: Path, array: np.ndarray
    ) -> None:
        np.save(tmp_path / "y.npy", array)
        expected = load_data(save(train=array), size=8, validation=0).train.images
        assert np.array_equal(load_data(f"npz:{tmp_path / 'y.npy'}", size=8, validation=0).train.images, expected)

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
            ({"train": np.zeros((6, 63), np.uint8)}, ["(6, 63)", "(N, H, W)"]),
            ({"train": np.zeros((6, 98))}, ["(6, 98)"]),
            ({"train": np.zeros((6, 2, 8, 8), np.uint8)}, ["(6, 2, 8, 8)"]),
            ({"train": np.uint8(3)}, ["()"]),
            (
                {"train": grey, "train_labels": np.arange(6) / 4},
                ["train labels", "continuous values, such as 0.25", "digitize"],
            ),
            ({"train": grey, "train_labels": np.ones((6, 3))}, ["(6, 3)", "one-hot"]),
            ({"train": grey, "train_labels": np.zeros(6, complex)}, ["complex128", "integers from 0, strings"]),
            ({"train": grey, "train_labels": [10**9] * 6}, ["1000000000"]),
            ({"train": grey, "train_labels": ["a"] * 6, "test": grey, "test_labels": ["b"] * 6}, ["test", "'b'"]),
            ({"train": grey, "train_labels": ["a"] * 6, "test": grey, "test_labels": [0] * 6}, ["<U1", "int64"]),
            ({"train": grey, "train_labels": [0] * 6, "classes": [1]}, ["'classes'"]),
        ],
    )
    def test_unsupported_arrays_are_rejected(
        self, save: Callable[..., str], arrays: dict[str, Any], words: list[str]
    ) -> None:
        assert_load_fails(save(**arrays), "x.npz", *words)

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
    def test_inconsistent_arrays_are_rejected(
        self, save: Callable[..., str], arrays: dict[str, Any], words: list[str]
    ) -> None:
        assert_load_fails(save(**arrays), "x.npz", *words, error_type=CvaeError)

    @pytest.mark.parametrize("shape", [(0, 2**62, 8), (2**33, 1, 0), (4, -8, -8), (-4, 8, 8), (2**62, 2**62, 8)])
    @pytest.mark.parametrize("dtype", ["|u1", "<f4"])
    def test_npy_file_whose_shape_is_impossible_is_rejected(
        self, tmp_path: Path, shape: tuple[int, ...], dtype: str
    ) -> None:
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
            file.write(bytes(1024))
        with pytest.raises(CvaeError, match=r"^[^\n]*x\.npy[^\n]*$"):
            load_data(f"npz:{tmp_path / 'x.npy'}", validation=0)

    def test_member_without_the_ending_npy_is_rejected(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("images", b"not an array")
        assert_load_fails(f"npz:{tmp_path / 'x.npz'}", "x.npz", "'images'", "not an array", error_type=CvaeError)

    def test_damaged_archive_is_rejected(self, save: Callable[..., str], tmp_path: Path) -> None:
        data = save(train=self.grey)
        path = tmp_path / "x.npz"
        content = path.read_bytes()
        path.write_bytes(content[:-50])
        assert_load_fails(data, "x.npz", error_type=CvaeError)
        path.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
        assert_load_fails(data, "x.npz", error_type=CvaeError)
        with path.open("wb") as file:
            np.save(file, self.grey)
        assert_load_fails(data, "x.npz", "numpy.savez", error_type=CvaeError)
        with zipfile.ZipFile(path, "w") as archive:
            header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 1, 64, 64)}"
            archive.writestr("train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        assert_load_fails(data, "x.npz", error_type=CvaeError)

    @pytest.mark.parametrize("read", ["the images", "the names of the conditions", "a condition"])
    def test_failure_to_read_is_reported(self, save: Callable[..., str], monkeypatch: pytest.MonkeyPatch, read: str):
        data = save(images=self.grey, age=np.arange(6.0))
        calls = []

        def fail(*args: Any, **options: Any) -> Any:
            calls.append(read)
            if read == "the images" or (read == "the names of the conditions" and len(calls) == 2):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return load(*args, **options)

        def fail_for_age(archive: zipfile.ZipFile, name: str, *args: Any, **options: Any) -> Any:
            if name == "age.npy":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return open_member(archive, name, *args, **options)

        load, open_member = np.load, zipfile.ZipFile.open
        monkeypatch.setattr(np, "load", fail)
        if read == "a condition":
            monkeypatch.setattr(zipfile.ZipFile, "open", fail_for_age)
        assert_load_fails(data, "x.npz", "Input/output error", error_type=CvaeError)
