"""Data sets from arrays, lists of images or paths, and torch data sets."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import load_data
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from cvae.condition_rows import read_rows
from cvae.data.add_conditions import add_conditions
from cvae.data.collect import collect
from cvae.errors import CvaeError, UsageError

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10), np.uint8)
GREY = COLOUR[:, :1]
BROKEN = np.where(np.arange(6)[:, None, None] < 4, GREY[:, 0] / 255, np.nan)
PIL_IMAGES = [Image.fromarray(image.transpose(1, 2, 0)) for image in COLOUR]
LABELS = [2, 0, 1, 1, 0, 2]


class Photos(torch.utils.data.Dataset):
    """Data set of PIL images with labels and class names, like the data sets of torchvision."""

    classes = ("ant", "bee", "cat")

    def __len__(self) -> int:
        return len(PIL_IMAGES)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return PIL_IMAGES[index], LABELS[index]


class Stream(IterableDataset):
    """Data set without a length. It yields pairs of a tensor and a string."""

    def __iter__(self):
        yield from zip(torch.from_numpy(GREY), "abccba", strict=True)


def save_images(folder: Path) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(6)]
    for path, image in zip(paths, COLOUR, strict=True):
        Image.fromarray(image[0].repeat(4, 0).repeat(2, 1)).save(path)
    return paths


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (GREY[:, 0], GREY),
        (COLOUR.transpose(0, 2, 3, 1), COLOUR),
        (GREY > 99, (GREY > 99) * np.uint8(255)),
        (torch.from_numpy(COLOUR / 255).requires_grad_(), COLOUR),
        (torch.from_numpy((GREY > 99).astype(np.float32)).bfloat16(), (GREY > 99) * np.uint8(255)),
        (list(GREY), GREY),
        (TensorDataset(torch.from_numpy(GREY)), GREY),
        (PIL_IMAGES, COLOUR),
        (np.array([*PIL_IMAGES, None], object)[:-1], COLOUR),
        ([Image.fromarray(image[0]).convert("RGB") for image in GREY], GREY),
    ],
    ids=["NHW", "NHWC", "bool", "tensor", "bfloat16", "list of arrays", "TensorDataset", "PIL", "object", "grey PIL"],
)
def test_images_of_every_type_are_collected(images, expected):
    dataset = collect(images)
    assert np.array_equal(dataset.train.images, expected)
    assert dataset.train.labels is None and dataset.classes is None


def test_paths_give_the_same_images_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    paths = save_images(tmp_path / "photos")
    for size in (None, 16):
        expected = load_data(f"folder:{tmp_path / 'photos'}", size=size, validation=0).train.images
        images = collect([*paths[:3], *map(str, paths[3:])], size=size and (size, size)).train.images
        assert np.array_equal(images, expected)
    assert collect([Image.open(path) for path in paths], size=(16, 16)).train.images.tolist() == images.tolist()


def test_pil_images_of_different_or_large_sizes_are_scaled():
    assert collect([*PIL_IMAGES, PIL_IMAGES[0].resize((9, 8))]).train.images.shape == (7, 3, 64, 64)
    assert collect([PIL_IMAGES[0].resize((65, 8))]).train.images.shape == (1, 3, 64, 64)
    assert collect(PIL_IMAGES, size=(8, 4)).train.images.shape == (6, 3, 8, 4)
    assert collect(GREY, size=(4, 5)).train.images.shape == (6, 1, 4, 5)


def test_16_bit_images_are_scaled_by_the_same_factor():
    values = np.full((8, 8), 255, np.uint16)
    images = collect([Image.fromarray(values), Image.fromarray(values * 16)]).train.images
    assert images.shape == (2, 1, 8, 8) and images[0].max() == 16 and images[1].min() == 254


def test_unreadable_image_is_skipped_with_its_label(tmp_path):
    paths = save_images(tmp_path)
    paths[1].write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 of 7 images are skipped: .*1\.png'; No such file .*none\.png"):
        dataset = collect([*paths, tmp_path / "none.png"], [*"abcdef", "x"])
    assert len(dataset.train) == 5 and dataset.classes == (*"abcdef", "x")
    assert dataset.train.labels is not None and dataset.train.labels.tolist() == [0, 2, 3, 4, 5]
    with pytest.raises(CvaeError, match=r"none of the 1 images can be read: .*1\.png"):
        collect(paths[1:2])


@pytest.mark.parametrize(
    ("images", "labels", "classes", "expected"),
    [
        (Photos(), None, None, ("ant", "bee", "cat")),
        (Photos(), None, ["x", "y", "z"], ("x", "y", "z")),
        (Subset(Photos(), range(6)), None, None, ("ant", "bee", "cat")),
        (TensorDataset(torch.from_numpy(GREY), torch.tensor(LABELS)), None, None, ("0", "1", "2")),
        (TensorDataset(torch.from_numpy(GREY), torch.eye(4)[LABELS]), None, None, ("0", "1", "2", "3")),
        (GREY, LABELS, ["x", "y", "z"], ("x", "y", "z")),
        (GREY, ["zoo", "ape", "bar", "bar", "ape", "zoo"], None, ("ape", "bar", "zoo")),
        (GREY, torch.tensor(LABELS, dtype=torch.float32)[:, None], None, ("0", "1", "2")),
    ],
    ids=["Dataset", "classes", "Subset", "TensorDataset", "one-hot", "list", "strings", "column"],
)
def test_labels_and_class_names_are_collected(images, labels, classes, expected):
    dataset = collect(images, labels, classes)
    assert dataset.classes == expected
    assert dataset.train.labels is not None and dataset.train.labels.tolist() == LABELS


def test_data_set_without_length_is_collected():
    dataset = collect(Stream())
    assert np.array_equal(dataset.train.images, GREY) and dataset.classes == ("a", "b", "c")


def test_pandas_labels_are_collected():
    pandas = pytest.importorskip("pandas")
    assert collect(GREY, pandas.Series(list("abccba"))).classes == ("a", "b", "c")
    assert collect(GREY, pandas.Series(list("abccba"), dtype="category")).classes == ("a", "b", "c")
    assert collect(GREY, pandas.Series(LABELS, dtype=object)).classes == ("0", "1", "2")
    missing = collect(GREY, pandas.Series(["a", None, "b", "b", "a", "a"]))
    assert missing.train.labels is not None and missing.train.labels.tolist() == [0, -1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": "photos"}, ["the path 'photos'", "data='folder:PATH'"]),
        ({"images": 3}, ["images is 3", "a list of PIL images"]),
        ({"images": {"train": GREY}}, ["images is {'train'", "torch Dataset"]),
        ({"images": PIL_IMAGES[0]}, ["images is <PIL", "a list"]),
        ({"images": []}, ["images is empty"]),
        ({"images": GREY[:0], "labels": []}, ["images is empty"]),
        ({"images": DataLoader(Photos())}, ["DataLoader", "loader.dataset"]),
        ({"images": GREY * 1.0}, ["images has float values in ", "divide them by 255"]),
        ({"images": GREY / 255 - 0.5}, ["scale them to 0..1"]),
        ({"images": BROKEN}, ["images has values that are not finite", "first at index 4"]),
        ({"images": list(BROKEN.repeat(300, 0))}, ["first at index 1200"]),
        ({"images": np.zeros((6, 192), np.uint8)}, ["(6, 192)", "reshape them to (6, 8, 8, 3), or to (6, 3, 8, 8)"]),
        ({"images": np.zeros((6, 8, 8, 4), np.uint8)}, ["alpha", "[..., :3]"]),
        ({"images": np.zeros((6, 4, 8, 8), np.uint8)}, ["alpha", "[:, :3]"]),
        ({"images": np.zeros((6, 2, 8, 8), np.uint8)}, ["images has shape (6, 2, 8, 8)", "(N, H, W)"]),
        ({"images": [GREY[0], GREY[0, :, :4]]}, ["images[1] has shape (1, 4, 10)", "(1, 8, 10)"]),
        ({"images": [GREY[0], "a.png"]}, ["images[1] is 'a.png'"]),
        ({"images": [PIL_IMAGES[0], GREY[0]]}, ["images[1] is array", "neither a PIL image nor a path"]),
        ({"images": [{"image": 1}]}, ["images[0] is 1, not an image"]),
        ({"images": GREY, "labels": LABELS[:5]}, ["6 images of 1x8x10", "5 labels"]),
        (
            {"images": GREY, "labels": np.linspace(0, 1, 6)},
            ["labels are continuous values, such as 0.2", "numpy.digitize"],
        ),
        ({"images": GREY, "labels": ["a", 1, "b", "b", "a", "a"]}, ["labels have 1, but"]),
        ({"images": GREY, "labels": ["a"] * 6, "classes": ["b"]}, ["labels have 'a'", "not a class"]),
        ({"images": GREY, "labels": LABELS, "classes": "abc"}, ["classes is 'abc'", "a list of strings"]),
        ({"images": GREY, "classes": ["a"]}, ["there are no labels"]),
        ({"images": GREY, "labels": LABELS, "classes": ["a", "b"]}, ["labels are in 0..2, but classes has 2 names"]),
        ({"images": GREY, "labels": LABELS, "classes": ["a", "b", "a"]}, ["more than once"]),
        ({"images": GREY, "labels": [-1, 0, 1, 1, 0, 1]}, ["labels are in -1..1, but they must start at 0"]),
        ({"images": GREY, "labels": [[0], [0, 1], 1, 1, 0, 1]}, ["labels are not an array", "one-hot"]),
        ({"images": [(GREY[0], {"label": {"x": 1}})]}, ["labels have {'x': 1}, but labels are integers"]),
        ({"images": [(GREY[0], [0]), (GREY[0], [0, 1])]}, ["different shapes"]),
        ({"images": [(GREY[0], 1), GREY[0]]}, ["only 1 of 2 items"]),
        ({"images": Photos(), "labels": LABELS}, ["already has labels"]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else "",
)
def test_unsupported_objects_are_rejected(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        collect(**arguments)
    message = str(caught.value)
    assert "\n" not in message and [word for word in words if word not in message] == []


def make_items(kind: str) -> list[Any]:
    images = np.arange(6, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    conditions = [{"age": torch.tensor(3.0 + i), "smiling": None if i == 1 else i % 2 == 0} for i in range(6)]
    if kind == "tuples":
        return [*zip(images, conditions, strict=True)]
    return [{"image": image, "label": "ab"[i % 2], **conditions[i]} for i, image in enumerate(images)]


@pytest.mark.parametrize("kind", ["tuples", "dicts"])
def test_conditions_of_items(kind: str) -> None:
    dataset = add_conditions(collect(make_items(kind)))
    assert [condition.name for condition in dataset.conditions] == ["label"] * (kind == "dicts") + ["age", "smiling"]
    rows = dataset.train.rows
    assert rows is not None
    values, known = read_rows(dataset.conditions, rows)
    assert values["age"].tolist() == [3, 4, 5, 6, 7, 8] and values["smiling"][:, 0].tolist() == [1, 0, 1, 0, 1, 0]
    assert known[:, -1].tolist() == [True, False, True, True, True, True]
    assert kind == "tuples" or values["label"].tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("images", "conditions", "message"),
    [
        (None, {"age": [1, 2]}, "there are 6 images, but conditions['age'] has 2 values"),
        (None, [1, 2], "conditions is [1, 2]: it must be a dict"),
        (None, {"age": [1, 2, 3, 4, 5, {}]}, "conditions['age'] has the value {}"),
        (make_items("dicts"), {"age": range(6)}, "already has conditions"),
        ([{"picture": 1}], None, "images[0] is a dict without the key 'image'"),
    ],
)
def test_wrong_conditions_are_rejected(images: Any, conditions: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        collect(np.zeros((6, 8, 8), np.uint8) if images is None else images, conditions=conditions)


UNLABELLED = {
    "ints": [2, None, 0, 0, None, 2],
    "nan": np.array([2, np.nan, 0, 0, np.nan, 2]),
    "objects": np.array([2, None, 0, 0, float("nan"), 2], object),
    "items": None,
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_labels_can_be_unknown(kind: str) -> None:
    if kind == "items":
        labels = UNLABELLED["ints"]
        dataset = collect([{"image": image, "label": labels[i]} for i, image in enumerate(GREY)])
    else:
        dataset = collect(GREY, UNLABELLED[kind])
    dataset = add_conditions(dataset)
    (label,) = dataset.conditions
    assert (label.kind, label.values, label.optional) == ("category", ("0", "1", "2"), True)
    assert dataset.train.rows is not None and dataset.train.rows.tolist() == [2, 3, 0, 0, 3, 2]
    assert dataset.classes is None and dataset.train.labels is None


def test_unknown_labels_keep_the_order_of_the_classes() -> None:
    dataset = collect(GREY, ["b", None, "a", "b", "a", "a"], classes=["b", "a"], conditions={"age": range(6)})
    dataset = add_conditions(dataset)
    assert [condition.name for condition in dataset.conditions] == ["label", "age"]
    assert dataset.conditions[0].values == ("b", "a") and dataset.conditions[0].optional
    values, known = read_rows(dataset.conditions, dataset.train.rows)
    assert known[:, 0].tolist() == [True, False, True, True, True, True]
    assert values["label"][known[:, 0]].tolist() == [0, 1, 0, 1, 1]


def test_at_least_one_label_must_be_known() -> None:
    with pytest.raises(UsageError, match="all labels are unknown"):
        collect(GREY, [None] * 6)
    assert collect([{"image": image, "label": None} for image in GREY]).classes is None
