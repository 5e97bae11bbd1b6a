"""Choice of a class, either by its name (a string or a number) or by its index.

In the models here, each class has its own brightness, so the pixels identify the class.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cvae as package
from cvae.conditions import label_condition
from cvae.detection.scores import measure
from cvae.errors import UsageError
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.exporters.web import measure_effects
from cvae.plots import grid as grid_plot
from cvae.runtime import bulk
from cvae.runtime.arguments import label_indices
from cvae.spec import KEY, Spec

NUMBERS, PADDED, SIGNED, WORDS = ("1", "10", "2"), ("01", "02"), ("-10", "0", "10"), ("cat", "dog")
EQUAL_NUMBERS, FRACTIONS, MIXED = ("01", "1"), ("0.5", "1.0", "1e-4"), ("3", "other")
LONG = ("9007199254740992", "9007199254740994")  # 2**53 and the next float64: above 2**53, floats skip odd integers
BOOLEANS = ("True", "False")

LEVELS = (0.2, 0.4, 0.8)
"""Brightness of the first, second and third class."""


def spec(classes: tuple[str, ...] | None, role: str = "decoder") -> Spec:
    return Spec(
        role=role, name="run", architecture="mlp", image_shape=(1, 8, 8), latent_dim=2,
        conditions=label_condition(classes),
        likelihood="bernoulli", prior="normal", data="folder", data_license="free", weights="0" * 64,
    )  # fmt: skip


def save_model(folder: Path, classes: tuple[str, ...]) -> Path:
    """Write a decoder and an encoder whose outputs depend only on the class.

    The decoder returns an image with the brightness of the class. The encoder's mean is -1, 0 and 1 for the first,
    second and third class.
    """
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str, shape: tuple[int, ...], elem_type: int = TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, elem_type, ["batch", *shape])

    image, label = tensor("image", (1, 8, 8)), tensor("label", (), TensorProto.INT64)
    rows = np.arange(len(classes))[:, None]
    graphs = {
        "decoder": (
            [tensor("noise", (2,)), label],
            [image],
            [
                helper.make_node("MatMul", ["noise", "zeros"], ["blank"]),
                helper.make_node("Gather", ["levels", "label"], ["level"]),
                helper.make_node("Add", ["blank", "level"], ["flat"]),
                helper.make_node("Reshape", ["flat", "shape"], ["image"]),
            ],
            {
                "zeros": np.zeros((2, 64), np.float32),
                "levels": np.take(LEVELS, rows).astype(np.float32),
                "shape": np.array([-1, 1, 8, 8]),
            },
        ),
        "encoder": (
            [image, label],
            [tensor("mean", (2,)), tensor("std", (2,))],
            [
                helper.make_node("Reshape", ["image", "shape"], ["flat"]),
                helper.make_node("MatMul", ["flat", "zeros"], ["blank"]),
                helper.make_node("Gather", ["means", "label"], ["row"]),
                helper.make_node("Add", ["blank", "row"], ["mean"]),
                helper.make_node("Exp", ["blank"], ["std"]),
            ],
            {
                "zeros": np.zeros((64, 2), np.float32),
                "means": (rows - 1).astype(np.float32),
                "shape": np.array([-1, 64]),
            },
        ),
    }
    folder.mkdir()
    for role, (inputs, outputs, nodes, constants) in graphs.items():
        initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, role, inputs, outputs, initial)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        helper.set_model_props(model, {KEY: spec(classes, role).to_json()})
        (folder / f"{role}.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Save a model whose classes are named by numbers: class 1 has index 0, class 10 has index 1."""
    return save_model(tmp_path_factory.mktemp("numbers") / "run", NUMBERS)


@pytest.fixture(scope="module")
def model(folder) -> package.Model:
    return package.load(folder)


def class_names(images: np.ndarray) -> list[str]:
    """Return the names of the classes in images from a model with the classes `NUMBERS`."""
    levels = np.asarray(images).reshape(len(images), -1)
    assert np.ptp(levels, axis=1).max() < 1e-6
    return [NUMBERS[int(np.abs(np.subtract(LEVELS, level)).argmin())] for level in levels[:, 0]]


# -- names and numbers -------------------------------------------------------------------------------------------------

LABELS_BY_NAME = [
    (NUMBERS, "1", "1"), (NUMBERS, "10", "10"), (NUMBERS, "2", "2"),
    (NUMBERS, 1, "1"), (NUMBERS, 10, "10"), (NUMBERS, 2, "2"), (NUMBERS, 2.0, "2"),
    (NUMBERS, "02", "2"), (NUMBERS, "2.0", "2"), (NUMBERS, "+1", "1"), (NUMBERS, "1e1", "10"), (NUMBERS, ".1e1", "1"),
    (PADDED, 1, "01"), (PADDED, "1", "01"), (PADDED, "01", "01"), (PADDED, 2, "02"), (PADDED, "002", "02"),
    (SIGNED, -10, "-10"), (SIGNED, "-10", "-10"), (SIGNED, 0, "0"), (SIGNED, "-0", "0"), (SIGNED, 10, "10"),
    (FRACTIONS, 0.5, "0.5"), (FRACTIONS, ".50", "0.5"), (FRACTIONS, 1, "1.0"), (FRACTIONS, 1e-4, "1e-4"),
    (EQUAL_NUMBERS, "01", "01"), (EQUAL_NUMBERS, "1", "1"), (EQUAL_NUMBERS, 1, "1"),
    (MIXED, 3, "3"), (MIXED, "other", "other"),
    (LONG, 2**53, LONG[0]), (LONG, f"0{2**53 + 2}", LONG[1]),
    (WORDS, "dog", "dog"),
]  # fmt: skip

LABELS_BY_INDEX = [(WORDS, 0, "cat"), (WORDS, 1, "dog"), (WORDS, "0", "cat"), (WORDS, "1", "dog")]

UNKNOWN_LABELS = [
    *[
        (NUMBERS, label)
        for label in (0, "0", 3, -1, "-1", "x", "", " 1", "1_0", "1,0", 1.5, "nan", "inf", "1e9999", "²")
    ],
    *[(PADDED, label) for label in (0, 3, "0")],
    *[(SIGNED, label) for label in (1, 2, "1", -1)],
    *[(FRACTIONS, label) for label in (0, 2, 0.25)],
    *[(MIXED, label) for label in (0, 1, "1")],
    *[(LONG, label) for label in (2**53 + 1, str(2**53 + 1), 0)],
    *[(WORDS, label) for label in (2, -1, "-1", "2", "bird", "1e0", "1.0", "0" * 12)],
]

AMBIGUOUS_LABELS = [(EQUAL_NUMBERS, "001"), (EQUAL_NUMBERS, "1.0"), (("2", "2.0", "x"), "02")]


@pytest.mark.parametrize(("classes", "label", "name"), [*LABELS_BY_NAME, *LABELS_BY_INDEX], ids=repr)
def test_label_selects_class_by_name_or_else_by_index(classes, label, name):
    assert spec(classes).label_index(label) == classes.index(name)


@pytest.mark.parametrize(
    ("classes", "label", "name"),
    [
        (NUMBERS, np.int64(10), "10"),
        (NUMBERS, np.uint8(1), "1"),
        (NUMBERS, np.float32(2), "2"),
        (NUMBERS, np.str_("10"), "10"),
        (NUMBERS, torch.tensor(10), "10"),
        (FRACTIONS, np.float32(0.5), "0.5"),
        (WORDS, np.int8(1), "dog"),
        (BOOLEANS, True, "True"),
        (("\u0661", "\u0662"), 2, "\u0662"),  # Arabic one and two
    ],
    ids=repr,
)
def test_label_can_be_a_scalar_of_any_type(classes, label, name):
    assert spec(classes).label_index(label) == classes.index(name)


@pytest.mark.parametrize(("classes", "label"), UNKNOWN_LABELS, ids=repr)
def test_unknown_label_is_reported_in_one_line(classes, label):
    with pytest.raises(UsageError) as caught:
        spec(classes).label_index(label)
    assert str(caught.value).startswith(f"'run' has no label {label!r}; its classes are named {', '.join(classes)}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "label",
    [True, np.True_, None, b"1", 1j, float("nan"), [1], {1}, {"a": 1}, object(), np.eye(2), 10**5000, "9" * 5000],
    ids=lambda label: type(label).__name__,
)
@pytest.mark.parametrize("classes", [NUMBERS, WORDS], ids=repr)
def test_value_that_is_not_a_label_is_reported_in_one_line(classes, label):
    with pytest.raises(UsageError, match=r"^'run' has no label .{1,80}; its classes are named [\w, ]+$"):
        spec(classes).label_index(label)


@pytest.mark.parametrize(("label", "quoted"), [(0, "0"), ("0", "'0'"), (np.int64(0), "0")])
def test_error_explains_how_to_choose_by_index(label, quoted):
    with pytest.raises(UsageError) as caught:
        spec(NUMBERS).label_index(label)
    assert str(caught.value) == (
        f"'run' has no label {quoted}; its classes are named 1, 10, 2; "
        "to choose by index, pass label_index=0 (--label-index 0)"
    )
    with pytest.raises(UsageError, match=r"no label 3; its classes are named 1, 10, 2$"):
        spec(NUMBERS).label_index(3)


@pytest.mark.parametrize(("classes", "label"), AMBIGUOUS_LABELS, ids=repr)
def test_number_that_equals_several_class_names_is_ambiguous(classes, label):
    with pytest.raises(
        UsageError, match=f"label {label!r} is ambiguous.*{classes[0]}, {classes[1]} .*as it is written"
    ):
        spec(classes).label_index(label)


# -- names and indices in Python ---------------------------------------------------------------------------------------

ZERO = np.zeros((3, 2), np.float32)
IMAGES = np.full((3, 1, 8, 8), 0.5, np.float32)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"label": 1}, ["1"] * 3),
        ({"label": "10"}, ["10"] * 3),
        ({"label": 10}, ["10"] * 3),
        ({"label": [1, "10", 2.0]}, ["1", "10", "2"]),
        ({"label": np.array([2, 10, 1])}, ["2", "10", "1"]),
        ({"label": torch.tensor([2, 10, 1])}, ["2", "10", "1"]),
        ({"label_index": 1}, ["10"] * 3),
        ({"label_index": np.int64(2)}, ["2"] * 3),
        ({"label_index": (0, 1, 2)}, ["1", "10", "2"]),
        ({"label_index": np.array([2, 1, 0], np.uint8)}, ["2", "10", "1"]),
    ],
    ids=repr,
)
def test_every_method_accepts_names_or_indices(model, choice, names):
    assert class_names(model.generate(3, **choice)) == names
    assert class_names(model.decode(ZERO, **choice)) == names
    assert class_names(model.reconstruct(IMAGES, **choice)) == names
    assert model.encode(IMAGES, **choice)[0][:, 0].tolist() == [NUMBERS.index(name) - 1 for name in names]
    to = {key.replace("label_index", "to_index").replace("label", "to"): value for key, value in choice.items()}
    assert class_names(model.restyle(IMAGES, label=2, **to)) == names
    assert class_names(model.restyle(IMAGES, label_index=2, **to)) == names


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"label": 0}, "no label 0;.*label_index=0"),
        ({"label": [1, 10, 7]}, "no label 7"),
        ({"label": [1, 10, True]}, "no label True"),
        ({"label": [1, 10, {2}]}, r"no label \{2\}"),
        ({"label": np.eye(10, dtype=int)[:3]}, "nested"),
        ({"label": [[1], [10], [2]]}, "nested"),
        ({"label": [[1], [10, 2]]}, "nested"),
        ({"label": [1, 10]}, "2 labels for 3 images"),
        ({"label": "1", "label_index": 0}, "label '1' and label_index 0 both choose the class; give one"),
        ({"label": 0, "label_index": [0, 1, 2]}, "both choose"),
        ({"label_index": -1}, r"index -1; its classes are 0\.\.2, named 1, 10, 2"),
        ({"label_index": 3}, "index 3"),
        ({"label_index": [0, 1, 10]}, "index 10"),
        ({"label_index": 1.0}, r"index 1\.0"),
        ({"label_index": "1"}, "index '1'"),
        ({"label_index": True}, "index True"),
        ({"label_index": [0, 1, np.True_]}, "index True"),
        ({"label_index": [0, 1, None]}, "index None"),
        ({"label_index": 10**30}, "index 10000"),
        ({"label_index": [[0], [1], [2]]}, "nested"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_invalid_choice_is_reported_in_one_line(model, choice, words):
    for call in (
        lambda: model.generate(3, **choice),
        lambda: model.decode(ZERO, **choice),
        lambda: model.encode(IMAGES, **choice),
        lambda: model.reconstruct(IMAGES, **choice),
        lambda: model.restyle(IMAGES, to=1, **choice),
    ):
        with pytest.raises(UsageError, match=f"^.*{words}.*$"):
            call()


def test_list_of_labels_must_not_be_empty(model):
    with pytest.raises(UsageError, match="give at least one label"):
        model.generate(label=[])


def test_number_with_thousands_of_digits_is_not_an_index(model):
    with pytest.raises(UsageError, match="index of thousands of digits"):
        model.generate(1, label_index=10**5000)
    with pytest.raises(UsageError, match="both choose"):
        model.generate(1, label=10**5000, label_index=10**5000)


def test_model_without_labels_rejects_index():
    assert label_indices(spec(None), None, None, 1) is None
    for choice, words in (((1, None), "label 1"), ((None, 0), "label_index 0"), ((None, [0]), "label_index 0")):
        with pytest.raises(UsageError, match=f"^'run' was trained without labels, so it does not accept {words}$"):
            label_indices(spec(None), *choice, 1)


def test_model_with_nonnumeric_class_names_accepts_indices_as_labels(tmp_path):
    model = package.load(save_model(tmp_path / "run", WORDS))
    for label in (1, "1", "dog", np.int64(1)):
        assert model.generate(1, label=label).mean() == pytest.approx(LEVELS[1])
    with pytest.raises(UsageError, match=r"no label 2; its classes are named cat, dog$"):
        model.generate(1, label=2)


def test_generate_without_label_cycles_through_the_classes(model):
    assert class_names(model.generate(7)) == [*NUMBERS, *NUMBERS, "1"]


def test_nearest_label_is_an_index(model):
    images = model.generate(3)
    assert model.nearest_label(images).tolist() == [0, 1, 2]
    assert class_names(model.reconstruct(images, label_index=model.nearest_label(images))) == list(NUMBERS)


@pytest.mark.parametrize(
    ("choice", "first", "last"),
    [
        ({"label": (1, 10)}, "1", "10"),
        ({"label": ["10", 2]}, "10", "2"),
        ({"label": 10}, "10", "10"),
        ({"label_index": (1, 0)}, "10", "1"),
        ({"label_index": 2}, "2", "2"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("ends", [(0, 1), (IMAGES[0], IMAGES[1])], ids=["seeds", "images"])
def test_interpolation_starts_with_first_and_ends_with_last_label(model, ends, choice, first, last):
    images = model.interpolate(*ends, 3, **choice)
    assert class_names(images[[0, 2]]) == [first, last]
    middle = (LEVELS[NUMBERS.index(first)] + LEVELS[NUMBERS.index(last)]) / 2
    assert images[1].mean() == pytest.approx(middle, abs=1e-6)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({}, "has labels"),
        ({"label": (1, 2, 10)}, "3 labels for 2 ends"),
        ({"label": (1, 0)}, "no label 0"),
        ({"label": 1, "label_index": 0}, "give one"),
        ({"label_index": (0, 3)}, "index 3"),
    ],
    ids=repr,
)
def test_interpolation_rejects_invalid_labels(model, choice, words):
    with pytest.raises(UsageError, match=words):
        model.interpolate(0, 1, 3, **choice)


# -- functions that use indices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "names"),
    [({}, [*NUMBERS, "1"]), ({"label": 10}, ["10"] * 4), ({"label": "1"}, ["1"] * 4), ({"label_index": 1}, ["10"] * 4)],
    ids=repr,
)
def test_bulk_files_contain_the_requested_class(model, tmp_path, choice, names):
    bulk.generate(model, 4, tmp_path / "x.npz", seed=0, **choice)
    actual = np.load(tmp_path / "x.npz")
    assert class_names(actual["images"] / 255) == names
    assert actual["classes"][actual["labels"]].tolist() == names


def test_bulk_generation_rejects_unknown_class(model, tmp_path):
    for choice in ({"label": 0}, {"label_index": 3}, {"label": 1, "label_index": 0}):
        with pytest.raises(UsageError):
            bulk.generate(model, 4, tmp_path / "x.npz", **choice)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes", [NUMBERS, SIGNED, FRACTIONS], ids=repr)
def test_image_folders_are_named_after_the_classes(tmp_path, classes):
    bulk.generate(package.load(save_model(tmp_path / "run", classes)), 3, tmp_path / "x", seed=0)
    levels = {path.parent.name: np.asarray(Image.open(path)).mean() / 255 for path in (tmp_path / "x").rglob("*.png")}
    assert levels == pytest.approx(dict(zip(classes, LEVELS, strict=True)), abs=0.005)


def test_scores_and_plots_use_the_class_of_each_index(model, monkeypatch):
    images = model.generate(6)
    scorer, indices = ExportedScorer(model), np.arange(6) % 3
    assert class_names(scorer.decode(np.zeros((6, 2), np.float32), indices)) == [*NUMBERS, *NUMBERS]
    assert class_names(scorer.reconstruct(images, indices)) == [*NUMBERS, *NUMBERS]
    measured = measure(scorer, np.rint(images * 255).astype(np.uint8), reconstructions=True)
    assert measured.label.tolist() == indices.tolist() and class_names(measured.reconstruction) == [*NUMBERS, *NUMBERS]
    assert measure_effects(model).tolist() == [0, 0]

    plotted_names = []
    monkeypatch.setattr(grid_plot, "image_grid", lambda images, *_: plotted_names.extend(class_names(images)))
    grid_plot.condition_grid(model, model.noise(2, 0), np.arange(3).repeat(2), ["a", "b", "c"], ["", ""], "")
    grid_plot.manifold(model, np.array([1]), 2, "")
    assert plotted_names == ["1", "1", "10", "10", "2", "2", *["10"] * 4]


# -- the command line --------------------------------------------------------------------------------------------------


def class_name(path: str) -> str:
    """Return the name of the class of an image, or "mixed" if its brightness is not uniform."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    return class_names(pixels[None] / 255)[0] if np.ptp(pixels) == 0 else "mixed"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--label", "1"], "1"),
        (["--digit", "10"], "10"),
        (["--label", "02"], "2"),
        (["--label-index", "0"], "1"),
        (["--label-index", "1"], "10"),
    ],
    ids=" ".join,
)
def test_generate_command_uses_the_requested_class(cvae, folder, flags, name):
    report = cvae("generate", folder, *flags, "--json").json
    assert report["labels"] == [name] and class_name("generated.png") == name
    many = cvae("generate", folder, *flags, "-n", 4, "--out", "x.npz", "--json").json
    assert many["labels"] == [name] and class_names(np.load("x.npz")["images"] / 255) == [name] * 4


def test_generate_command_without_label_uses_every_class(cvae, folder):
    assert cvae("generate", folder, "--json").json["labels"] == list(NUMBERS)
    cvae("generate", folder, "-n", 6, "--out", "x.npy")
    assert class_names(np.load("x.npy") / 255) == [*NUMBERS, *NUMBERS]
    assert [NUMBERS[index] for index in np.load("x-labels.npy")] == [*NUMBERS, *NUMBERS]


@pytest.fixture
def image_path(in_tmp) -> str:
    """Save an image of class 10 like those that the model generates."""
    Image.fromarray(np.full((8, 8), round(255 * LEVELS[1]), np.uint8)).save("ten.png")
    return "ten.png"


def columns(path: str, count: int) -> list[float]:
    """Return the brightness of each of `count` images in a row."""
    with Image.open(path) as grid:
        pixels = np.asarray(grid.convert("L"))
    middles = (np.arange(count) + 0.5) * pixels.shape[1] / count
    return (pixels[pixels.shape[0] // 4, middles.astype(int)] / 255).tolist()


@pytest.mark.parametrize(
    ("flags", "name"), [([], "10"), (["--label", "2"], "2"), (["--label-index", "0"], "1")], ids=" ".join
)
def test_reconstruct_command_uses_the_requested_or_nearest_class(cvae, folder, image_path, flags, name):
    assert cvae("reconstruct", image_path, "-m", folder, *flags, "--json").json["labels"] == [name]
    with Image.open("reconstruction.png") as grid:
        pixels = np.asarray(grid.convert("L"))
    assert class_names(pixels[3 * pixels.shape[0] // 4, :1, None] / 255) == [name]


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], ["1", "10", "2"]),
        (["--to", "1", "--to", "10"], ["1", "10"]),
        (["--to-index", "2", "--to-index", "0", "--label-index", "1"], ["2", "1"]),
    ],
    ids=" ".join,
)
def test_restyle_command_uses_the_requested_classes(cvae, folder, image_path, flags, names):
    report = cvae("restyle", image_path, "-m", folder, *flags, "--json").json
    assert (report["labels"], report["to"]) == (["10"], names)
    expected = [LEVELS[NUMBERS.index(name)] for name in ("10", *names)]
    assert columns("restyled.png", 1 + len(names)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("flags", "first", "last"),
    [
        (["--label", "1", "--to-label", "10"], "1", "10"),
        (["--label-index", "0", "--to-label-index", "1"], "1", "10"),
        (["--label", "10"], "10", "10"),
        (["--label-index", "0"], "1", "1"),
        (["--label", "2", "--to-label-index", "0"], "2", "1"),
    ],
    ids=" ".join,
)
def test_interpolate_command_starts_with_first_and_ends_with_last_class(cvae, folder, flags, first, last):
    assert cvae("interpolate", folder, *flags, "--steps", 2).code == 0
    expected = [LEVELS[NUMBERS.index(name)] for name in (first, last)]
    assert columns("interpolation.png", 2) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("generate {folder} --label 0", ["has no label '0'", "1, 10, 2", "--label-index 0"]),
        ("generate {folder} --digit 0 --out x.npy", ["has no label '0'", "--label-index 0"]),
        ("generate {folder} --label-index 3", ["index 3", "0..2"]),
        ("generate {folder} --label-index -1", ["index -1", "0..2"]),
        ("generate {folder} --label 1 --label-index 1", ["--label '1' and --label-index 1", "pass only one"]),
        ("generate {folder} --digit 1 --label-index 2", ["--digit '1' and --label-index 2", "pass only one"]),
        ("generate {folder} --label-index 1 --grid", ["--grid", "'10'", "remove --grid"]),
        ("interpolate {folder} --label 1 --label-index 1", ["pass only one"]),
        ("interpolate {folder} --label 1 --to-label 2 --to-label-index 1", ["--to-label '2'", "pass only one"]),
        ("reconstruct ten.png -m {folder} --label 1 --label-index 1", ["pass only one"]),
        ("restyle ten.png -m {folder} --digit 1 --label-index 1", ["pass only one"]),
        ("restyle ten.png -m {folder} --to 1 --to-index 1", ["--to '1'", "--to-index 1"]),
        ("restyle ten.png -m {folder} --to-index 3", ["index 3"]),
        ("restyle ten.png -m {folder} --to-index x", ["class index 'x'", "an integer, a list such as 0,2"]),
        ("plot grid {folder} --label 1 --label-index 1", ["pass only one"]),
        ("plot traverse {folder} --label 1 --label-index 1", ["pass only one"]),
    ],
)
def test_command_rejects_contradictory_flags_and_unknown_class(cvae, folder, image_path, command, words):
    result = cvae(*command.format(folder=folder).split())
    line = result.err.splitlines()[-1]
    assert result.code == 2 and all(word in line for word in words), result.err
    assert {path.name for path in Path().iterdir()} == {image_path}


@pytest.mark.integration
@pytest.mark.parametrize("flags", [["--label", "10"], ["--label-index", "1"]], ids=" ".join)
def test_plot_grid_command_uses_the_requested_class(cvae, folder, flags):
    assert cvae("plot", "grid", folder, *flags, "--json").json["label"] == "10"


# -- JavaScript --------------------------------------------------------------------------------------------------------

NODE = shutil.which("node")
MODULE = Path(__file__).resolve().parents[2] / "exporters" / "page" / "cvae.js"
PROGRAM = """
import { readFileSync } from "node:fs";
import { load } from "./cvae.js";
const ort = { InferenceSession: { create: async () => null } };
const results = [];
for (const [file, labels] of JSON.parse(process.argv[1])) {
    const model = await load(ort, readFileSync(file));
    results.push(labels.map((label) => {
        try { return model.labelIndex(label); } catch (error) { return error.message; }
    }));
}
console.log(JSON.stringify(results));
"""


@pytest.fixture
def in_javascript(tmp_path) -> Callable[..., list[int | str]]:
    """Return a function that calls `labelIndex` of cvae.js for pairs (classes, label), and returns the results."""
    if NODE is None:
        pytest.skip("Node is not installed")

    def run(*pairs: tuple[tuple[str, ...], object]) -> list[int | str]:
        labels: dict[tuple[str, ...], list[object]] = {}
        for classes, label in pairs:
            labels.setdefault(classes, []).append(label)
        files = {c: save_model(tmp_path / str(i), c) / "decoder.onnx" for i, c in enumerate(labels)}
        argument = json.dumps([(str(files[classes]), values) for classes, values in labels.items()])
        program = PROGRAM.replace("./cvae.js", MODULE.as_uri())
        command = [str(NODE), "--input-type=module", "-e", program, argument]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        results = dict(zip(labels, json.loads(result.stdout), strict=True))
        return [results[classes].pop(0) for classes, _ in pairs]

    return run


def test_javascript_selects_the_same_classes_as_python(in_javascript):
    cases = [
        (c, label, name)
        for c, label, name in (*LABELS_BY_NAME, *LABELS_BY_INDEX)
        if c is not LONG or isinstance(label, str)
    ]
    assert in_javascript(*((c, label) for c, label, _ in cases)) == [c.index(name) for c, _, name in cases]


def test_javascript_rejects_the_same_labels_as_python(in_javascript):
    cases = [(c, label) for c, label in UNKNOWN_LABELS if c is not LONG or isinstance(label, str)]
    for (_, label), message in zip(cases, in_javascript(*cases), strict=True):
        assert f'"run" has no label "{label}"; its classes are named' in str(message)


def test_javascript_rejects_number_that_equals_several_class_names(in_javascript):
    for message in in_javascript(*AMBIGUOUS_LABELS):
        assert "ambiguous" in str(message)


def test_javascript_accepts_index_in_an_object(in_javascript):
    indices = in_javascript(*((NUMBERS, {"index": index}) for index in (0, 1, 2)))
    assert indices == [0, 1, 2]


@pytest.mark.parametrize("index", [-1, 3, 1.5, "1", None])
def test_javascript_rejects_invalid_index(in_javascript, index):
    (message,) = in_javascript((NUMBERS, {"index": index}))
    assert re.fullmatch(r'"run" has no class with the index .*; its classes are named 1, 10, 2; .*', str(message))
