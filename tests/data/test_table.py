"""Tables of images: paths, splits, conditions and errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_load_fails, load_data
from PIL import Image

from cvae.condition_rows import read_rows
from cvae.data import Dataset, Split, condition_rows, list_conditions

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a table and its images, and returns the value of --data.

    The image 0.png is grey 0, 1.png is grey 1, and so on.
    """

    def write(text: str, name: str = "faces.csv", encoding: str = "utf-8", images: int = 40) -> str:
        for i in range(images):
            Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
        (tmp_path / name).write_bytes(text.encode(encoding))
        return f"table:{tmp_path / name}"

    return write


def make_text(**columns: Any) -> str:
    """Return a CSV with one row per image."""
    rows = [",".join(["file_name", *columns])]
    rows += [",".join([f"{i}.png", *map(str, values)]) for i, values in enumerate(zip(*columns.values(), strict=True))]
    return "\n".join(rows)


def read(dataset: Dataset, split: Split | None = None) -> tuple[dict[str, list[Any]], list[list[bool]]]:
    """Return the values of each condition in a split, in the order of the images, and the known flags."""
    split = split or dataset.train
    rows = condition_rows(split)
    assert rows is not None and len(rows) == len(split)
    order = np.argsort(split.images[:][:, 0, 0, 0])
    values, known = read_rows(list_conditions(dataset), rows[order])
    return {name: value.tolist() for name, value in values.items()}, known.tolist()


def test_kinds_are_inferred_and_described(write: Write) -> None:
    text = make_text(
        age=[3, 92, *range(10, 48)],
        smiling=["yes", "No"] * 20,
        hat=["true", ""] * 19 + ["False", "true"],
        breed=["pug", "husky", "dachshund", ""] * 10,
        legs=[2, 4] * 20,
        few=[1, 2, 3, 4] * 10,
        size=[0.5, "1e-1"] * 20,
    )
    dataset = load_data(write(text), validation=0, conditional=True)
    kinds = {condition.name: condition.describe() for condition in dataset.conditions}
    assert kinds == {
        "age": "number 3..92",
        "smiling": "attribute",
        "hat": "attribute",
        "breed": "category of 3 (dachshund, husky, pug)",
        "legs": "category of 2 (2, 4)",
        "few": "number 1..4",
        "size": "number 0.1..0.5",
    }
    assert [condition.name for condition in dataset.conditions if condition.optional] == ["hat", "breed"]
    assert "; age: number 3..92; smiling: attribute; hat: attribute (19 of 40 unknown); breed: category of 3 (" in (
        dataset.description
    )
    values, known = read(dataset)
    assert values["age"][:3] == [3, 92, 10] and values["smiling"][:2] == [[1], [0]]
    assert values["breed"][:3] == [2, 1, 0] and [flags[3] for flags in known[:4]] == [True, True, True, False]
    assert dataset.classes is None and dataset.train.labels is None


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1] * 20, "attributes"),
        ([1, 2] * 20, "category"),
        ([1, 2] * 19 + [1, 1], "number"),  # 2 occurs 19 times
        (["1.0", "2.0"] * 20, "category"),
        ([1.5, 2.5] * 20, "number"),
        (["a", 1] * 20, "category"),
        (["1", 2, 3, "?"] * 1 + [5] * 36, "number"),
    ],
)
def test_kind_of_a_column(write: Write, values: list[Any], kind: str) -> None:
    (condition,) = list_conditions(load_data(write(make_text(x=values)), validation=0))
    assert (condition.name, condition.kind) == ("x", kind)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("delimiter", "name"), [(",", "x.csv"), ("\t", "x.tsv"), (";", "x.csv")])
def test_delimiters_quotes_and_byte_order_marks(write: Write, delimiter: str, name: str, encoding: str) -> None:
    rows = [["path", "species"], ["0.png", '"hedgehog, ""spiny"""'], ["1.png", "bär"], [], ["2.png", " bär "]]
    dataset = load_data(write("\r\n".join(map(delimiter.join, rows)), name, encoding), validation=0)
    assert dataset.classes == ("bär", 'hedgehog, "spiny"')
    assert dataset.train.labels is not None and dataset.train.labels.tolist() == [1, 0, 0]
    assert dataset.conditions[0].name == "species" and dataset.train.rows is not None


def test_splits_of_the_table_are_used_and_unfit_test_values_are_noted(write: Write) -> None:
    split = ["Training"] * 6 + ["val"] * 2 + ["test"] * 4
    age = [10, 20, 30, 40, 50, 60, 20, 70, 80, 5, "x", 30]
    breed = ["a", "b", "c"] * 3 + ["a", "new", ""]
    dataset = load_data(write(make_text(split=split, age=age, breed=breed)))
    assert [len(dataset.train), len(dataset.validation or ()), len(dataset.test or ())] == [6, 2, 4]
    assert dataset.conditions[0].range == (10, 60) and not dataset.conditions[1].optional
    notes = "\n".join(dataset.notes)
    assert "age: 2 test values beyond the range 10..60 of train: '5', '80'" in notes
    assert "age: 1 validation value beyond the range 10..60 of train: '70'" in notes
    assert "age: 1 test value that can't be read as numbers, so unknown: 'x'" in notes
    assert "breed: 1 test value that train does not have, so unknown: 'new'" in notes
    values, known = read(dataset, dataset.test)
    assert values["age"] == [80, 5, 0, 30] and known == [[True] * 2, [True] * 2, [False] * 2, [True, False]]


def test_ignored_split_does_not_assign_images(write: Write) -> None:
    text = make_text(split=["train"] * 6 + ["other"] * 4, age=range(10))
    dataset = load_data(write(text), ignore=("split",), validation=0)
    assert len(dataset.train) == 10 and dataset.test is None
    assert [condition.name for condition in dataset.conditions] == ["age"]


def test_rows_stay_with_their_images(write: Write) -> None:
    text = make_text(number=[100 + i for i in range(40)], breed=["a", "b"] * 20)
    dataset = load_data(write(text), validation=0.25, limit=20, seed=3, without=("b",), condition=("label=breed",))
    assert dataset.validation is not None and len(dataset.train) == 15
    for split in (dataset.train, dataset.validation):
        values, _ = read(dataset, split)
        images = np.sort(split.images[:][:, 0, 0, 0])
        assert (images % 2 == 0).all() and values["number"] == (100 + images.astype(float)).tolist()
    assert dataset.conditions[1].values == ("a",)


def test_condition_flags_choose_kinds_names_and_columns(write: Write) -> None:
    text = make_text(n=[1, 2] * 20, seed=[0, 1] * 20, a=[1, 0] * 20, b=["", "yes"] + ["no"] * 38, c=["u", "v"] * 20)
    condition = ("size:number=n", "sown=seed", "traits:attributes=a,b")
    dataset = load_data(write(text), validation=0, condition=condition, ignore=("c",))
    described = {condition.name: condition.describe() for condition in dataset.conditions}
    assert described == {"size": "number 1..2", "sown": "attribute", "traits": "2 attributes (a, b)"}
    values, known = read(dataset)
    assert values["traits"][:3] == [[0, 0], [0, 1], [1, 0]] and [flags[2] for flags in known[:3]] == [False, True, True]


def test_names_and_units_of_columns(write: Write) -> None:
    text = make_text(**{"age [years]": range(40), "eye colour": ["blue", "brown"] * 20, "5_o_clock": [0, 1] * 20})
    dataset = load_data(write(text), validation=0)
    names = [condition.name for condition in dataset.conditions]
    assert names == ["age", "eye_colour", "_5_o_clock"] and dataset.conditions[0].unit == "years"
    assert [note for note in dataset.notes if "is the condition" in note] == [
        "the column 'eye colour' is the condition eye_colour",
        "the column '5_o_clock' is the condition _5_o_clock",
    ]
    overridden = load_data(write(text), validation=0, condition=("age:category",), ignore=("eye colour",))
    assert [condition.kind for condition in overridden.conditions] == ["category", "attributes"]


def test_missing_and_damaged_files_are_skipped(write: Write, tmp_path: Path) -> None:
    data = write(make_text(age=range(41)), images=40)
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 of 40 images .*'3.png'"):
        dataset = load_data(data, validation=0)
    assert len(dataset.train) == 39 and "skipped 1 of 41 rows of 'faces.csv', whose file does not exist: '40.png'" in (
        "\n".join(dataset.notes)
    )
    values, _ = read(dataset)
    assert values["age"] == [i for i in range(40) if i != 3]


def test_columns_of_no_use_are_left_out(write: Write) -> None:
    text = make_text(x=[1, 2] * 20, id=[f"id{i}" for i in range(40)], same=["a"] * 40, blank=[""] * 40)
    dataset = load_data(write(text), validation=0)
    assert [condition.name for condition in dataset.conditions] == ["x"] and dataset.classes == ("1", "2")
    assert dataset.notes == [
        "left out the column 'id', because each image has its own text",
        "left out the column 'same', because it has the value 'a' only",
        "left out the column 'blank', because it has no values",
    ]
    assert load_data(write(text), validation=0, condition=("id:category",)).conditions[1].name == "id"


@pytest.mark.parametrize(
    ("text", "flags", "messages"),
    [
        ("name,age\n0.png,1\n", {}, ["no column 'file_name'", "--path-column", "'name', 'age'"]),
        ("file_name,age\n0.png,1\n", {"path_column": "nam"}, ["--path-column 'nam'", "no such column"]),
        ("file_name,age\n0.png\n", {}, ["line 2", "1 column, but the header has 2"]),
        ("file_name,age,age\n0.png,1,2\n", {}, ["two columns named 'age'"]),
        ("file_name,age\n", {}, ["no rows"]),
        ("", {}, ["no rows"]),
        ('file_name,a\n0.png,"x"y\n', {}, ["line 2", "not valid CSV"]),
        ("file_name,split\n0.png,fold3\n", {}, ["line 2", "split 'fold3'", "train, validation or test"]),
        ("file_name,split\n0.png,test\n", {}, ["no row", "split train"]),
        ("file_name,n\n0.png,1\n1.png,3\n", {}, ["'n'", "argument of generate", "--condition 'NEW_NAME=n'"]),
        ("file_name,a b,a_b\n0.png,1,2\n1.png,3,5\n", {}, ["second condition 'a_b'", "--ignore 'a_b'"]),
        ("file_name,x\n0.png,1\n1.png,2\n", {"condition": ("y:number",)}, ["no column 'y'"]),
        ("file_name,x\n0.png,1\n1.png,2\n", {"condition": ("x:float",)}, ["unknown kind 'float'", "number"]),
        ("file_name,x\n0.png,1\n1.png,2\n", {"condition": ("x:number", "y=x")}, ["'x' is also in 'x:number'"]),
        ("file_name,x\n0.png,1\n1.png,2\n", {"condition": ("seed=x",)}, ["'seed'", "argument of generate"]),
        ("file_name,x\n0.png,u\n1.png,v\n", {"condition": ("x:number",)}, ["'x:number'", "no numbers"]),
        ("file_name,x\n0.png,1\n1.png,2\n", {"ignore": ("y",)}, ["--ignore 'y'", "no such column"]),
        ("file_name,x\n0.png,1\n1.png,2\n", {"ignore": ("x",)}, ["no column is left"]),
        ("file_name,x\n0.png,1\n1.png,\u202e\n", {}, ["U+202E"]),
    ],
)
def test_wrong_tables_and_flags_are_rejected(
    write: Write, text: str, flags: dict[str, Any], messages: list[str]
) -> None:
    assert_load_fails(write(text), *messages, **flags)


def test_other_files_are_rejected(write: Write, tmp_path: Path) -> None:
    assert_load_fails("table:", "table:PATH")
    assert_load_fails(f"table:{tmp_path / 'none.csv'}", "no such file")
    assert_load_fails(write("file_name,name\n0.png,bär\n", encoding="latin-1"), "UTF-8")
    assert_load_fails("digits", "--condition 'a:number'", "no columns", condition=("a:number",))
    assert_load_fails("digits", "--path-column 'a'", "not a table", path_column="a")
