"""A model's methods under conditions of every kind, compared with a model that can be computed by hand."""

import numpy as np
import pytest
from affine_model import AGE, BREED, CONDITIONS, SMILING, TRAITS, AffineModel

import cvae
from cvae.condition_rows import unknown_rows
from cvae.errors import UsageError
from cvae.runtime.conditions import condition_rows, describe_rows, fill_unknown, interpolate_numbers, to_arrays
from cvae.runtime.inference import explain, infer_rows

ALL = {"breed": "fox", "age": 4.0, "smiling": True, "traits": "hat"}
ALL_COLUMNS = {"breed": 2, "age": 4.0, "smiling": 1, "traits": (1, 0)}


@pytest.fixture(scope="module")
def model(faces) -> cvae.Model:
    return cvae.load(faces.folder)


def close(images: np.ndarray, expected: np.ndarray) -> bool:
    return images.shape == expected.shape and bool(np.abs(np.asarray(images) - expected).max() < 1e-6)


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ({}, {}),
        (ALL, ALL_COLUMNS),
        ({"age": 0}, {"age": 0}),
        ({"breed": "cat"}, {"breed": 0}),
        ({"label": "cat"}, {"breed": 0}),  # the only category is the label
        ({"label_index": 1, "smiling": False}, {"breed": 1, "smiling": 0}),
        ({"traits": "none", "age": None}, {"traits": (0, 0)}),
        ({"age": 12, "extrapolate": True}, {"age": 12}),
        ({"breed": "any", "smiling": "unknown"}, {}),
    ],
    ids=str,
)
def test_generated_images_follow_the_formula(model, faces, values, columns):
    images = model.generate(3, seed=1, **values)
    assert close(images, faces.decode(model.noise(3, 1), **columns))


def test_a_list_gives_each_image_its_own_value(model, faces):
    images = model.generate(age=[1, None, 9], traits=["hat", None, (True, True)], seed=2)
    expected = [{"age": 1, "traits": (1, 0)}, {}, {"age": 9, "traits": (1, 1)}]
    noise = model.noise(3, 2)
    assert close(
        images, np.concatenate([faces.decode(noise[i : i + 1], **values) for i, values in enumerate(expected)])
    )


def test_unknown_label_of_a_single_category_differs_from_all_classes(tmp_path):
    affine = AffineModel(tmp_path / "pets", (BREED,))
    model = cvae.load(affine.folder)
    noise = model.noise(2, 0)
    assert close(
        model.decode(noise, ["dog", "any"]),
        np.concatenate([affine.decode(noise[:1], breed=1), affine.decode(noise[1:])]),
    )
    assert model.decode(noise, "dog").labels == ["dog"] * 2 and model.decode(noise).labels is None
    assert close(model.generate(2, breed="fox", seed=0), affine.decode(noise, breed=2))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"agee": 1}, "has no condition 'agee'; did you mean 'age'"),
        ({"age": 11}, r"0\.\.10"),
        ({"age": [1, 2, 3]}, "3 values of age for 2 images"),
        ({"age": []}, "age"),
        ({"label": "cat", "breed": "dog"}, "label and the condition breed both choose"),
        ({"label_index": 3}, "index 3"),
    ],
    ids=str,
)
def test_decode_rejects_invalid_conditions(model, values, words):
    with pytest.raises(UsageError, match=words) as caught:
        model.decode(model.noise(2, 0), **values)
    assert "\n" not in str(caught.value)


def test_encoder_inverts_the_decoder_under_the_same_conditions(model, faces):
    noise = model.noise(4, 3)
    codes = model.encode(faces.decode(noise, **ALL_COLUMNS).astype(np.float32), **ALL)
    assert np.abs(codes.mean - noise).max() < 1e-3 and np.allclose(codes.std, 0.25)


@pytest.mark.parametrize("name", ALL)
def test_each_condition_is_inferred_from_an_image(model, name):
    images = model.generate(3, seed=4, **ALL)
    for inferred in model.infer(images, **{other: ALL[other] for other in ALL if other != name}):
        expected = {**ALL, "traits": ["hat"]}
        assert inferred.pop("age") == pytest.approx(expected.pop("age"), abs=0.15)  # the prior shifts it
        assert inferred == expected


def test_restyle_changes_one_condition_and_infers_the_others(model, faces):
    images = model.generate(2, seed=5, **ALL)
    expected = faces.decode(model.noise(2, 5), **{**ALL_COLUMNS, "smiling": 0})
    assert np.abs(model.restyle(images, smiling=False) - expected).max() < 2e-3  # the inferred age is not exact
    assert np.abs(expected - images).max() > 0.02


def test_restyle_infers_only_conditions_that_are_not_known(model, faces):
    images = model.generate(2, seed=5, **ALL)
    restyled = model.restyle(images, known={"age": 4}, smiling=False)
    assert np.abs(restyled - faces.decode(model.noise(2, 5), **{**ALL_COLUMNS, "smiling": 0})).max() < 1e-5
    ages = [4, 2]  # a wrong age changes the code
    restyled = model.restyle(images, known={**ALL, "age": ages}, age=9)
    means = np.concatenate([model.encode(images[i], **{**ALL, "age": age}).mean for i, age in enumerate(ages)])
    assert np.abs(restyled - faces.decode(means, **{**ALL_COLUMNS, "age": 9})).max() < 1e-5
    with pytest.raises(UsageError, match=r"0\.\.10"):
        model.restyle(images, known={"age": 12}, smiling=False)
    assert model.restyle(images, known={"age": 12}, extrapolate=True, smiling=False).shape == images.shape


def test_known_numbers_beyond_the_range_are_accepted_with_extrapolate(model):
    images = model.generate(1, seed=5, **{**ALL, "age": 12, "extrapolate": True})
    others = {name: value for name, value in ALL.items() if name != "age"}
    assert np.abs(model.reconstruct(images, age=12, extrapolate=True, **others) - images).max() < 1e-5
    assert model.infer(images, age=12, extrapolate=True)[0]["age"] == 12


def test_interpolation_sweeps_a_number_without_blending(model, faces):
    images = model.interpolate(6, 6, 4, age=(2, 8), smiling=True)
    expected = [faces.decode(model.noise(1, 6), age=age, smiling=1) for age in (2, 4, 6, 8)]
    assert close(images, np.concatenate(expected))


def test_interpolation_blends_other_conditions_and_sweeps_the_number(model, faces):
    images = model.interpolate(6, 6, 3, age=(2, 8), breed=("cat", "dog"))
    noise = model.noise(1, 6)
    middle = (faces.decode(noise, age=5, breed=0) + faces.decode(noise, age=5, breed=1)) / 2
    assert close(images[1:2], middle)
    assert close(
        images[::2], np.concatenate([faces.decode(noise, age=2, breed=0), faces.decode(noise, age=8, breed=1)])
    )


def test_ends_of_an_interpolation_share_the_conditions_of_an_image(model, faces):
    image = model.generate(1, seed=7, **ALL)
    inferred = model.infer(image)[0]
    path = model.interpolate(image, 8, 3)
    columns = {**ALL_COLUMNS, "age": inferred["age"]}
    assert inferred["breed"] == "fox" and close(path[2:], faces.decode(model.noise(1, 8), **columns))
    assert close(
        model.interpolate(image, 8, 3, age="any")[2:], faces.decode(model.noise(1, 8), **{**columns, "age": None})
    )


def test_numbers_that_are_unknown_at_one_end_do_not_change():
    rows = condition_rows_of({"age": [2, None], "smiling": [True, True]})
    positions = np.linspace(0, 1, 3)[:, None]
    assert np.array_equal(interpolate_numbers(CONDITIONS, rows[:1], rows[1:], positions), rows[:1].repeat(3, axis=0))
    rows = condition_rows_of({"age": [2, 6], "smiling": [True, False]})
    swept = describe_rows(CONDITIONS, interpolate_numbers(CONDITIONS, rows[:1], rows[1:], positions))
    assert [(row["age"], row["smiling"]) for row in swept] == [(2, True), (4, True), (6, True)]


def condition_rows_of(values: dict[str, list]) -> np.ndarray:
    class Spec:
        name, conditions, category = "faces", CONDITIONS, BREED

    rows = condition_rows(Spec, len(next(iter(values.values()))), values=values)
    assert rows is not None
    return rows


def test_unknown_values_are_filled_from_other_rows():
    rows = condition_rows_of({"age": [None, 0.3], "traits": ["beard", None]})
    filled = fill_unknown(CONDITIONS, rows, rows[::-1])
    assert describe_rows(CONDITIONS, filled) == [
        {"breed": None, "age": 0.3, "smiling": None, "traits": ["beard"]},
        {"breed": None, "age": 0.3, "smiling": None, "traits": ["beard"]},
    ]
    assert describe_rows(CONDITIONS, unknown_rows(CONDITIONS, 1)) == [dict.fromkeys(ALL)]


def test_arrays_of_rows_mark_unknown_values():
    rows = condition_rows_of(
        {"breed": ["fox", None], "age": [4, None], "smiling": [None, True], "traits": [None, "hat"]}
    )
    arrays = to_arrays(CONDITIONS, rows)
    assert arrays["breed"].tolist() == ["fox", ""]
    assert np.array_equal(arrays["age"], [4, np.nan], equal_nan=True)
    assert np.array_equal(arrays["smiling"], [np.nan, 1], equal_nan=True)
    assert np.array_equal(arrays["traits"], [[np.nan, np.nan], [1, 0]], equal_nan=True)


@pytest.mark.parametrize("name", ["faces", "labels"])
def test_inference_of_several_images_at_once_agrees_with_that_of_each(name, model):
    model = model if name == "faces" else cvae.load("mnist-resnet-conditional")
    values = {"breed": ["cat", "dog", "fox"] * 4} if name == "faces" else {}
    images = model.generate(12, seed=8, **values)  # their candidates take several runs
    rows = explain(model, images, {})
    single = np.concatenate([explain(model, images[i : i + 1], {}) for i in range(12)])
    np.testing.assert_allclose(rows, single, atol=0.2)  # neighbouring ages are nearly as good
    assert len(np.unique(rows, axis=0)) > 2


def test_inference_finds_the_lowest_bound_of_each_image():
    """Each image has its own target, from which the bound is the distance."""
    conditions = (AGE, SMILING, TRAITS)
    targets, calls = np.array([[2.25, 1, 0, 1], [7.5, 0, 1, 1]]), []

    def bound(rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        assert (rows[:, -2:] == 1).all() or not rows[:, -2:].all()
        return np.abs(rows[:, :4] - np.tile(targets, (len(rows) // 2, 1))).sum(axis=1)

    start = np.zeros((2, 7), np.float32)
    rows = infer_rows(conditions, start, [False] * 3, bound)
    assert np.abs(rows[:, 0] - targets[:, 0]).max() <= 10 / 16 / 16 and np.array_equal(rows[:, 1:4], targets[:, 1:])
    assert (rows[:, 4:] == 1).all() and not start.any()
    calls.clear()
    rows = infer_rows(conditions, start, [True, False, True], bound)
    assert calls == [4]  # both values of both images at once, and only once
    assert rows[:, [0, 2, 3]].tolist() == [[0] * 3] * 2 and rows[:, 1].tolist() == [1, 0]
    assert rows[:, 4:].tolist() == [[0, 1, 0]] * 2
