"""Conditions: their checks, their values, and the rows that hold the values."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from affine_model import AGE, BREED, CONDITIONS, SMILING, TRAITS

from cvae.condition_rows import count_columns, feed, make_rows, read_category, read_rows, unknown_rows
from cvae.conditions import RESERVED, Condition, check_conditions, graph_inputs
from cvae.errors import UsageError
from cvae.runtime.model import Model

CODES = Condition(name="code", kind="category", values=("01", "2", "any"))


@pytest.mark.parametrize(
    ("condition", "value", "columns"),
    [
        (BREED, "dog", (1,)),
        (BREED, 2, (2,)),  # no name is a number, so 2 is an index
        (BREED, "any", None),
        (BREED, "Unknown", None),
        (BREED, None, None),
        (CODES, "1", (0,)),
        (CODES, 2.0, (1,)),
        (CODES, "any", (2,)),  # the name of a value always means this value
        (AGE, 2.5, (2.5,)),
        (AGE, "1e1", (10,)),
        (AGE, np.float32(3), (3,)),
        (AGE, "unknown", None),
        (SMILING, True, (1,)),
        (SMILING, "no", (0,)),
        (SMILING, 1, (1,)),
        (TRAITS, "beard", (0, 1)),
        (TRAITS, "beard, hat", (1, 1)),
        (TRAITS, "none", (0, 0)),
        (TRAITS, [False, "yes"], (0, 1)),
        (TRAITS, {"beard": True, "hat": "no"}, (0, 1)),
        (TRAITS, "any", None),
    ],
    ids=str,
)
def test_parse_returns_the_columns_of_a_value(condition, value, columns):
    assert condition.parse(value, "faces") == columns


@pytest.mark.parametrize(
    ("condition", "value", "words"),
    [
        (BREED, "dogg", "has no breed 'dogg'.*did you mean 'dog'.*cat, dog, fox"),
        (BREED, 3, "has no breed 3"),
        (BREED, -1, "has no breed -1"),
        (CODES, None, "code of 'faces' must be known"),
        (AGE, 10.01, r"age is 10.01, .* values in 0..10.*--extrapolate"),
        (AGE, -0.01, "0..10"),
        (AGE, "old", "must be a number, not 'old'"),
        (AGE, True, "must be a number"),
        (AGE, float("nan"), "must be a finite number"),
        (AGE, 1e300, "must be a finite number"),
        (SMILING, "maybe", "must be yes or no, not 'maybe'"),
        (SMILING, 2, "must be yes or no"),
        (TRAITS, "bread", "has no attribute 'bread'; did you mean 'beard'"),
        (TRAITS, {"beard": True}, "lacks hat"),
        (TRAITS, {"hat": True, "beard": True, "bear": True}, "has no attribute 'bear'"),
        (TRAITS, [True], "must be the names"),
    ],
    ids=str,
)
def test_parse_rejects_invalid_values_in_one_line(condition, value, words):
    with pytest.raises(UsageError, match=words) as caught:
        condition.parse(value, "faces")
    assert "\n" not in str(caught.value)


def test_extrapolate_accepts_numbers_beyond_the_range():
    assert AGE.parse(12, "faces", extrapolate=True) == (12,)
    with pytest.raises(UsageError, match="finite"):
        AGE.parse("inf", "faces", extrapolate=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "two words"}, "not an identifier"),
        ({"name": "class"}, "not an identifier"),
        *(({"name": name}, "which is an argument") for name in sorted(RESERVED)[:3]),
        ({"kind": "text"}, "kind 'text'"),
        ({"values": ()}, "0 values"),
        ({"values": ("a", "a")}, "more than once"),
        ({"values": ("a\x1b",)}, "controls"),
        ({"low": 0.0}, "no range"),
        ({"kind": "number", "values": (), "low": 1.0, "high": 1.0}, "empty"),
        ({"kind": "number", "values": (), "low": 0.0, "high": float("inf")}, "empty"),
        ({"kind": "number", "low": 0.0, "high": 1.0}, "1 values"),
    ],
    ids=str,
)
def test_invalid_conditions_are_rejected(fields, words):
    with pytest.raises(UsageError, match=words):
        Condition(**{"name": "age", "kind": "category", "values": ("a",)} | fields)


def test_conditions_of_a_model_must_fit_together():
    check_conditions(CONDITIONS)
    check_conditions([CODES])
    with pytest.raises(UsageError, match="two conditions have the name 'age'"):
        check_conditions([AGE, AGE])
    with pytest.raises(UsageError, match="every condition must be optional"):
        check_conditions([CODES, AGE])
    with pytest.raises(UsageError, match="65 conditions"):
        check_conditions([Condition(name=f"c{i}", kind="attributes", values=("a",)) for i in range(65)])


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (AGE, "number 0..10 years"),
        (BREED, "category of 3 (cat, dog, fox)"),
        (SMILING, "attribute"),
        (TRAITS, "2 attributes (hat, beard)"),
    ],
)
def test_describe_names_kind_values_range_and_unit(condition, text):
    assert condition.describe() == text
    assert Condition(**{**condition.to_json(), "values": tuple(condition.to_json().get("values", ()))}) == condition


def test_rows_hold_values_and_flags_of_all_conditions():
    values = {
        "breed": np.array([2, 0]),
        "age": np.array([7.5, 99]),
        "smiling": np.array([[1], [1]]),
        "traits": np.array([[0, 1], [1, 1]]),
    }
    known = np.array([[True, True, False, True], [False, False, True, False]])
    rows = make_rows(CONDITIONS, values, known)
    assert count_columns(CONDITIONS) == 9
    assert rows.tolist() == [[2, 7.5, 0, 0, 1, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0, 0, 1, 0]]
    read, flags = read_rows(CONDITIONS, rows)
    assert np.array_equal(flags, known) and read["age"].tolist() == [7.5, 0] and read["traits"].shape == (2, 2)
    inputs = feed(CONDITIONS, rows)
    types = {name: (array.dtype.name, array.shape) for name, array in inputs.items()}
    assert types == {
        "breed": ("int64", (2,)),
        "age": ("float32", (2,)),
        "smiling": ("float32", (2, 1)),
        "traits": ("float32", (2, 2)),
        "known": ("bool", (2, 4)),
    }
    assert list(graph_inputs(CONDITIONS)) == list(types)


def test_rows_of_a_single_category_are_indices():
    rows = make_rows([BREED], {"breed": np.array([1, 1])}, np.array([[True], [False]]))
    assert rows.tolist() == [1, 3] and read_rows([BREED], rows)[1].tolist() == [[True], [False]]
    assert {name: array.tolist() for name, array in feed([BREED], rows).items()} == {"breed": [1, 3]}
    assert unknown_rows([BREED], 2).tolist() == [3, 3] and unknown_rows([], 2) is None


def test_labels_of_images_with_several_categories_are_those_of_the_category_named_label():
    label = replace(BREED, name="label", values=("x", "y"))
    values = {"breed": np.array([2, 0, 1]), "label": np.array([1, 0, 0])}
    known = np.array([[True, True], [True, True], [True, False]])
    for conditions, expected in ((BREED, label), [1, 0, 2]), ((label, BREED), [1, 0, 2]):
        columns = [[condition.name for condition in (BREED, label)].index(condition.name) for condition in conditions]
        rows = make_rows(conditions, values, known[:, columns])
        assert read_category(conditions, rows)[0].tolist() == expected
    other = replace(BREED, name="colour")
    rows = make_rows((BREED, other), {"breed": np.array([2]), "colour": np.array([1])}, np.array([[True, True]]))
    assert read_category((BREED, other), rows)[0].tolist() == [2]


def test_names_of_arguments_are_reserved():
    methods = (
        Model.generate,
        Model.decode,
        Model.encode,
        Model.infer,
        Model.reconstruct,
        Model.restyle,
        Model.interpolate,
    )
    arguments = {name for method in methods for name in inspect.signature(method).parameters}
    assert arguments - {"label", "conditions"} <= RESERVED
    assert {"noise", "image", "known", "mean", "std"} <= RESERVED  # of a graph
