"""Predictors of conditions that are passed as ONNX files: linear functions of images whose conditions are painted."""

import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from untrained_model import export_model

import cvae
from cvae.conditions import Condition
from cvae.errors import CvaeError, UsageError
from cvae.evaluation.predictor import load_predictor

SIDE = Condition(name="side", kind="category", values=("left", "right"), optional=True)
LEVEL = Condition(name="level", kind="number", low=0, high=100, unit="lux", optional=True)
LIT = Condition(name="lit", kind="attributes", values=("top", "middle"), optional=True)
TOP, MIDDLE = (Condition(name=name, kind="attributes", values=(name,), optional=True) for name in LIT.values)
SHAPE, PIXELS = (1, 8, 8), np.arange(64)
ROW, COLUMN = PIXELS // 8, PIXELS % 8

SIDES = np.stack([(ROW < 2) & (COLUMN < 4), (ROW < 2) & (COLUMN >= 4)], axis=1) / 8
LEVELS = (ROW >= 4)[:, None] * 100 / 32
TOPS, MIDDLES = (ROW == 2)[:, None] / 8, (ROW == 3)[:, None] / 8
WEIGHTS = {"side": SIDES, "level": LEVELS, "lit": np.hstack([TOPS, MIDDLES]), "top": TOPS, "middle": MIDDLES}
"""Weights (64, K) of linear functions of the pixels, which read the conditions of images by `paint` exactly."""


def paint(side, level, top, middle):
    """Return images (N, 8, 8) uint8: the side in two rows, the attributes in one each, the level in the rest."""
    images = np.zeros((len(side), 8, 8))
    images[:, :2, :4], images[:, :2, 4:] = (side == 0)[:, None, None], (side == 1)[:, None, None]
    images[:, 2], images[:, 3] = top[:, None], middle[:, None]
    images[:, 4:] = level[:, None, None] / 100
    return np.rint(255 * images).astype(np.uint8)


@pytest.fixture
def save_predictor(tmp_path):
    """Return a function that writes a predictor with linear outputs, each (N, K), or (N,) if its name is in `flat`."""

    def save(outputs, *, name="predictor.onnx", shape=("batch", *SHAPE), flat=()):
        nodes, values, infos = (
            [helper.make_node("Reshape", ["image", "row"], ["pixels"])],
            {"row": np.array([-1, 64])},
            [],
        )
        for output, weights in outputs.items():
            values[f"w_{output}"] = np.asarray(weights, np.float32)
            nodes.append(helper.make_node("MatMul", ["pixels", f"w_{output}"], [f"{output}_columns"]))
            last = f"{output}_columns"
            if output in flat:
                values["all"] = np.array([-1])
                nodes.append(helper.make_node("Reshape", [last, "all"], [last := f"{output}_flat"]))
            nodes.append(helper.make_node("Identity", [last], [output]))
            infos.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
        graph = helper.make_graph(
            nodes,
            "predictor",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            infos,
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        model.ir_version = 10
        (tmp_path / name).write_bytes(model.SerializeToString())
        return str(tmp_path / name)

    return save


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write images with their conditions. A third of the levels is unknown."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 300), ("test", 100)):
        side, level = rng.integers(2, size=count), rng.uniform(0, 100, count)
        top, middle = rng.integers(2, size=(2, count))
        arrays[split] = paint(side, level, top, middle)
        arrays[f"{split}_side"] = np.array(SIDE.values)[side]
        arrays[f"{split}_level"] = np.where(np.arange(count) % 3, level, np.nan)
        arrays |= {f"{split}_top": top > 0, f"{split}_middle": middle > 0}
    path = tmp_path_factory.mktemp("data") / "set.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export_model(tmp_path_factory.mktemp("untrained") / "painter", (SIDE, LEVEL, TOP, MIDDLE))


@pytest.mark.parametrize("flat", [(), ("level",)])
def test_outputs_are_read_by_the_kind_of_their_condition(save_predictor, flat):
    rng = np.random.default_rng(1)
    side, level, (top, middle) = rng.integers(2, size=130), rng.uniform(0, 100, 130), rng.integers(2, size=(2, 130))
    images = paint(side, level, top, middle)[:, None].astype(np.float32) / 255
    path = save_predictor({**WEIGHTS, "other": np.eye(64)[:, :5], "features": np.eye(64)}, flat=flat)
    predictor = load_predictor(path, (SIDE, LEVEL, LIT), SHAPE, "painter")
    values = predictor.predict_conditions(images)
    assert values.keys() == {"side", "level", "lit"}
    np.testing.assert_array_equal(values["side"], side)
    np.testing.assert_allclose(values["level"], level, atol=0.25)  # images are rounded to 1/255
    np.testing.assert_array_equal(values["lit"], np.stack([top, middle], axis=1))
    np.testing.assert_allclose(predictor.features(images), images.reshape(130, 64), atol=1e-6)


@pytest.mark.integration
def test_evaluation_scores_the_conditions_that_a_file_predicts(model, data, save_predictor, cvae):
    """The predictor is exact, so its scores on real images are perfect. It says nothing about `middle`."""
    path = save_predictor({name: WEIGHTS[name] for name in ("side", "level", "top")}, flat=("top",))
    result = cvae("evaluate", model, "--data", data, "--features", path, "--json")
    report = result.json
    assert set(report["conditions"]) == {"side", "level", "top"}
    assert report["conditions"]["side"]["accuracy_of_real_images"] == 1
    assert report["conditions"]["top"]["accuracy_of_real_images"] == 1
    assert report["conditions"]["level"]["mean_absolute_error_of_real_images"] < 0.25
    assert report["conditions"]["level"]["correlation_of_real_images"] == pytest.approx(1, abs=1e-4)
    assert report["conditions"]["level"]["unit"] == "lux"
    generated = report["generated"]
    assert generated["features"].startswith("predictor.onnx, sha256 ") and "sharpness" in generated
    assert "frechet" not in generated  # the file has no features

    path = save_predictor({"side": WEIGHTS["side"], "features": np.eye(64)[:, :8]})
    report = cvae("evaluate", model, "--data", data, "--features", path, "--json").json
    assert set(report["conditions"]) == {"side"} and {"frechet", "memorization"} < set(report["generated"])


WRONG = {
    "no_condition": ({"age": TOPS}, {}, r"has the outputs age; give an output the name .* side, level, .*, features"),
    "columns": ({"side": np.eye(64)[:, :3]}, {}, r"returned side of shape \(2, 3\) .*needs logits .*\(2 columns\)"),
    "number": ({"level": np.eye(64)[:, :2]}, {}, r"level of shape \(2, 2\) .* a number needs one number for each"),
    "logits": ({"top": 20 * TOPS}, {}, r"top of shape \(2, 1\) with values in 0..\d+ .* needs probabilities in 0..1"),
    "not_finite": ({"level": np.full((64, 1), np.inf)}, {}, r"returned level .* with values in \w+..\w+"),
    "features": ({"features": np.eye(64)[:, :1]}, {"flat": ("features",)}, r"features \(2,\) .* must be finite"),
    "batch": ({"side": SIDES}, {"shape": (1, *SHAPE)}, r"has the inputs image .*must have .* a batch of any size"),
    "size": ({"side": SIDES}, {"shape": ("batch", 1, 9, 9)}, r"must have one input, float images of shape .* 1, 8, 8"),
    "rank": ({"side": SIDES}, {"shape": ("batch", 64)}, r"must have one input"),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", WRONG)
def test_wrong_predictors_are_rejected(name, model, data, save_predictor, cvae):
    outputs, options, message = WRONG[name]
    result = cvae("evaluate", model, "--data", data, "--features", save_predictor(outputs, **options))
    assert result.code == 2, result.err
    lines = [line for line in result.err.splitlines() if "predictor.onnx" in line]
    assert lines == result.err.splitlines()[-1:] and re.search(message, lines[0]), result.err


def test_files_that_are_no_predictors_are_rejected(tmp_path):
    def load(name):
        return load_predictor(str(tmp_path / name), (SIDE,), SHAPE, "painter")

    with pytest.raises(CvaeError, match=r"can't read .*missing.onnx"):
        load("missing.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(
        CvaeError, match=r"onnxruntime can't load .*text.onnx.*use one ONNX file that contains its weights"
    ):
        load("text.onnx")


def test_nearest_images_need_features(model, data, save_predictor):
    with pytest.raises(UsageError, match="has no output named features"):
        cvae.plot.nearest(model, data=data, features=save_predictor({"side": SIDES}))
    figure = cvae.plot.nearest(model, data=data, features=save_predictor({"features": np.eye(64)}), n=2, neighbours=1)
    assert figure.axes
