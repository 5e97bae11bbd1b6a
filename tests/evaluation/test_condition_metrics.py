"""How well images obey their conditions, measured on painted images whose conditions can be read from their pixels."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, mean_absolute_error
from untrained_model import export_model

import cvae
from cvae.api.classifier import train_extractor
from cvae.cli.evaluate import format_report
from cvae.condition_rows import make_rows, read_rows
from cvae.conditions import Condition
from cvae.config import DataConfig, TrainConfig
from cvae.data import Split, load_dataset
from cvae.errors import UsageError
from cvae.evaluation.condition_metrics import count_outputs, read_outputs, score_conditions
from cvae.evaluation.evaluate import evaluate
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.evaluation.feature_extractor import FeatureExtractor
from cvae.evaluation.generation import generation_metrics, subsample
from cvae.evaluation.run_scorer import RunScorer
from cvae.evaluation.run_scorer import classifier as classifier_module
from cvae.evaluation.run_scorer.classifier import fit, predict
from cvae.evaluation.splits import load_split

SIDE = Condition(name="side", kind="category", values=("left", "right", "both"), optional=True)
LEVEL = Condition(name="level", kind="number", low=100, high=200, unit="lux", optional=True)
LIT = Condition(name="lit", kind="attributes", values=("top", "middle"), optional=True)
CONDITIONS = (SIDE, LEVEL, LIT)


def draw_rows(count, seed=0, low=100, high=200, unknown=0.0):
    """Return random rows, of which a share of values is unknown."""
    rng = np.random.default_rng(seed)
    values = {
        "side": rng.integers(3, size=count),
        "level": rng.uniform(low, high, count),
        "lit": rng.integers(2, size=(count, 2)),
    }
    return make_rows(CONDITIONS, values, rng.random((count, 3)) >= unknown)


def paint(rows):
    """Return images (N, 1, 8, 8): the side in two rows of pixels, each attribute in one, and the level in the rest."""
    values, _ = read_rows(CONDITIONS, rows)
    images = np.zeros((len(rows), 1, 8, 8), np.float32)
    images[:, 0, :2, :4] = (values["side"] != 1)[:, None, None]
    images[:, 0, :2, 4:] = (values["side"] != 0)[:, None, None]
    images[:, 0, 2:4] = values["lit"][:, :, None]
    images[:, 0, 4:] = values["level"][:, None, None] / 400
    return images


def read_pixels(images):
    """Return the outputs of an exact predictor."""
    left, right = images[:, 0, :2, :4].mean((1, 2)), images[:, 0, :2, 4:].mean((1, 2))
    side = np.stack([left - right, right - left, left + right - 1.5], axis=1)
    return np.column_stack([side, 400 * images[:, 0, 4:].mean((1, 2)), images[:, 0, 2:4].mean(2) - 0.5])


EXACT = FeatureExtractor(
    name="exact",
    features=lambda images: images.reshape(len(images), -1),
    outputs=read_pixels,
    conditions=CONDITIONS,
    scores={"side": {"accuracy": 0.99}, "level": {"mean_absolute_error": 2.0, "correlation": 0.9}},
)


class Painter:
    """A model that paints what the rows say, after `change`."""

    name, backend, image_shape, latent_dim, groups = "painter", "numpy", (1, 8, 8), 2, (2,)
    conditions, classes, likelihood, discrete = CONDITIONS, None, "gaussian", False

    def __init__(self, change=lambda rows: rows):
        self.change = change

    def decode(self, noise, rows):
        return paint(self.change(rows))


def measure(painter, rows, extractor=EXACT):
    split = Split(images=np.rint(255 * paint(rows)).astype(np.uint8), rows=rows)
    metrics = generation_metrics(painter, split, None, extractor, len(rows), 0, lambda *args: None)
    json.dumps(metrics, allow_nan=False)
    return metrics["conditions"]


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_model_that_obeys_is_as_good_as_the_predictor(unknown):
    scores = measure(Painter(), draw_rows(300, unknown=unknown))
    assert scores["side"] == {"accuracy": 1, "accuracy_of_real_images": 0.99}
    assert scores["lit"] == {"accuracy": 1, "accuracy_per_attribute": {"top": 1, "middle": 1}}
    assert scores["level"]["mean_absolute_error"] == pytest.approx(0, abs=1e-3)
    assert scores["level"]["correlation"] == pytest.approx(1)
    assert scores["level"]["mean_absolute_error_of_real_images"] == 2
    assert scores["level"]["correlation_of_real_images"] == 0.9 and scores["level"]["unit"] == "lux"


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_scores_of_a_model_that_ignores_its_conditions_agree_with_scikit_learn(unknown):
    rows, others = draw_rows(300, unknown=unknown), draw_rows(300, seed=1)
    blocks = iter([others[i : i + 64] for i in range(0, 300, 64)])
    scores = measure(Painter(lambda rows: next(blocks)), rows)
    (values, known), (painted, _) = read_rows(CONDITIONS, rows), read_rows(CONDITIONS, others)
    mask = dict(zip(values, known.T, strict=True))
    expected = {name: (values[name][mask[name]], painted[name][mask[name]]) for name in values}
    assert scores["side"]["accuracy"] == pytest.approx(accuracy_score(*expected["side"]))
    assert scores["lit"]["accuracy"] == pytest.approx(accuracy_score(*map(np.ravel, expected["lit"])))
    for i, name in enumerate(LIT.values):
        per_attribute = accuracy_score(*(values[:, i] for values in expected["lit"]))
        assert scores["lit"]["accuracy_per_attribute"][name] == pytest.approx(per_attribute)
    assert scores["level"]["mean_absolute_error"] == pytest.approx(mean_absolute_error(*expected["level"]), rel=1e-4)
    assert scores["level"]["correlation"] == pytest.approx(pearsonr(*expected["level"]).statistic, abs=1e-4)


def test_values_beyond_the_range_of_a_model_are_scored():
    """The model paints at most the level 200, which is 50 too little on average."""
    rows = draw_rows(200, low=225, high=275)
    scores = measure(
        Painter(lambda rows: np.column_stack([rows[:, :1], rows[:, 1:2].clip(max=200), rows[:, 2:]])), rows
    )
    assert scores["level"]["mean_absolute_error"] == pytest.approx((rows[:, 1] - 200).mean(), rel=1e-4)
    assert scores["level"]["correlation"] is None  # all images have the same level
    assert measure(Painter(), rows)["level"]["correlation"] == pytest.approx(1)


def test_conditions_that_are_unknown_or_not_predicted_are_left_out():
    rows = draw_rows(40)
    rows[:, -2] = 0  # the level is unknown
    assert set(measure(Painter(), rows)) == {"side", "lit"}
    renamed = replace(LIT, values=("a", "b"))
    extractor = replace(EXACT, conditions=(SIDE, LEVEL, renamed))
    assert set(measure(Painter(), draw_rows(40), extractor)) == {"side", "level"}


def test_outputs_are_read_in_the_order_of_the_conditions():
    assert list(map(count_outputs, CONDITIONS)) == [3, 1, 2]
    values = read_outputs(CONDITIONS, np.array([[0.0, 5, 1, 123, -0.1, 0.2]]))
    assert values["side"] == 1 and values["level"] == 123 and values["lit"].tolist() == [[0, 1]]


def test_limit_keeps_rows():
    rows = draw_rows(10)
    np.testing.assert_array_equal(subsample(Split(images=paint(rows), rows=rows), 4).rows, rows[[0, 3, 6, 9]])


# -- the predictor -----------------------------------------------------------------------------------------------------


@pytest.fixture
def short_training(monkeypatch):
    monkeypatch.setattr(classifier_module, "MIN_STEPS", 120)
    monkeypatch.setattr(classifier_module, "MIN_EPOCHS", 1)
    monkeypatch.setattr(classifier_module, "WARMUP", 10)


@pytest.mark.integration
def test_predictor_learns_from_known_values(short_training):
    """Values that are unknown have wrong numbers in the rows, which must not be learned."""
    rows = draw_rows(600)
    images = paint(rows)
    unknown = np.random.default_rng(2).random((600, 3)) < 0.4
    rows[:, -3:] = ~unknown
    rows[unknown[:, 0], 0] = 0
    rows[unknown[:, 1], 1] = -1e6
    rows[unknown[:, 2], 2:4] = 0
    model = fit(images, rows, CONDITIONS)
    test = draw_rows(300, seed=3)
    scores = score_conditions(CONDITIONS, test, read_outputs(CONDITIONS, predict(model, paint(test))))
    assert scores["side"]["accuracy"] > 0.9 and scores["lit"]["accuracy"] > 0.9
    assert scores["level"]["mean_absolute_error"] < 10 and scores["level"]["correlation"] > 0.9  # chance is 25 and 0


@pytest.fixture
def painted_data(tmp_path):
    """Write a data set with all kinds of conditions, in which the levels of a third of the images are unknown."""
    arrays = {}
    for name, count in (("train", 300), ("test", 100)):
        rows = draw_rows(count, seed=count)
        values, _ = read_rows(CONDITIONS, rows)
        arrays[name] = np.rint(255 * paint(rows)).astype(np.uint8)
        arrays[f"{name}_side"] = np.array(SIDE.values)[values["side"].astype(int)]
        arrays[f"{name}_level"] = np.where(np.arange(count) % 3, values["level"], np.nan)
        arrays |= {f"{name}_{part}": values["lit"][:, i] > 0 for i, part in enumerate(LIT.values)}
    np.savez(tmp_path / "set.npz", **arrays)
    return f"npz:{tmp_path / 'set.npz'}"


@pytest.fixture(scope="module")
def painter_run(tmp_path_factory):
    top, middle = (Condition(name=name, kind="attributes", values=(name,), optional=True) for name in LIT.values)
    side = replace(SIDE, values=tuple(sorted(SIDE.values)))
    return export_model(tmp_path_factory.mktemp("untrained") / "painter", (side, LEVEL, top, middle))


@pytest.mark.integration
def test_evaluation_reports_the_conditions_beside_those_of_real_images(
    painter_run, painted_data, tmp_path, short_training, monkeypatch
):
    notes = []
    options = {"data": painted_data, "data_dir": str(tmp_path), "features": "trained", "note": notes.append}
    report = cvae.evaluate(painter_run, **options)
    assert report["protocol"]["likelihood"] == "bernoulli, given the conditions that are known"
    conditions = report["conditions"]
    assert set(conditions) == {"side", "level", "top", "middle"} and "labels" not in report
    for name, metrics in conditions.items():
        for key in ("mean_absolute_error", "correlation") if name == "level" else ("accuracy",):
            assert np.isfinite([metrics[key], metrics[f"{key}_of_real_images"]]).all()
    assert conditions["side"]["accuracy"] < 0.7 < conditions["side"]["accuracy_of_real_images"]  # it is not trained
    assert any("training a classifier of level, middle, side, top on 300 images" in note for note in notes)
    assert "  side: accuracy of real images" in format_report(report)

    dataset = load_dataset(DataConfig(data=painted_data))  # the scores in the file are those of its own predictions
    extractor = train_extractor(DataConfig(data=painted_data, data_dir=str(tmp_path)))
    predicted = extractor.predict_conditions(dataset.test.images[:].astype(np.float32) / 255)
    actual = score_conditions(dataset.conditions, dataset.test.rows, predicted)
    for name, metrics in actual.items():
        assert extractor.scores[name] == pytest.approx(metrics, abs=0.02, rel=1e-3)
    monkeypatch.setattr(classifier_module, "fit", None)  # it is not trained again
    assert cvae.evaluate(painter_run, **options, exported=True)["conditions"].keys() == conditions.keys()
    arrays = dict(np.load(painted_data.removeprefix("npz:")))
    arrays["train_level"][1] = 150
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(TypeError):  # other values need another classifier
        cvae.evaluate(painter_run, **options)


@pytest.mark.integration
def test_run_and_exported_files_agree_under_conditions(painted_data, tmp_path):
    """With a normal prior, the posterior of the exported encoder is that of the run."""
    config = TrainConfig(
        data=painted_data, arch="mlp", conditional=True, prior="normal", likelihood="gaussian", epochs=3, latent_dim=4,
        trackers=("none",),
    )  # fmt: skip
    folder = cvae.train(config, tmp_path / "run", quiet=True).path
    reports = [
        evaluate(scorer, config, samples=5, generated=0)
        for scorer in (RunScorer(folder, "cpu"), ExportedScorer(cvae.load(folder)))
    ]
    for part in ("bound", "importance_weighted", "reconstruction"):
        for name, value in reports[0][part].items():
            assert reports[1][part][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_data_with_other_conditions_are_rejected(painter_run, painted_data, tmp_path):
    model = cvae.load(painter_run).spec
    _, _, split = load_split(DataConfig(data=painted_data), "test", model)
    assert split.rows.shape == (100, 8)
    arrays = dict(np.load(painted_data.removeprefix("npz:")))

    def load(**changes):
        np.savez(
            tmp_path / "other.npz", **{key: value for key, value in (arrays | changes).items() if value is not None}
        )
        return load_split(DataConfig(data=f"npz:{tmp_path / 'other.npz'}"), "test", model)

    with pytest.raises(UsageError, match=r"has no condition level, but 'painter' has: number 100..200 years?lux|lux"):
        load(train_level=None, test_level=None)
    with pytest.raises(
        UsageError, match=r"the condition level of .* is a category .*, but that of 'painter' is a number"
    ):
        load(train_level=np.array(["a", "b", "c"] * 100), test_level=np.array(["a", "b"] * 50))
    with pytest.raises(UsageError, match=r"side .* \(front, left, right\) with 'front', but .* with 'both'"):
        load(train_side=np.array(["front", "left", "right"] * 100), test_side=np.array(["left", "right"] * 50))
    wider = load(train_extra=np.arange(300) * 1.5, test_extra=np.arange(100) * 1.5)[2]  # a further condition
    np.testing.assert_array_equal(wider.rows, split.rows)


def test_unknown_labels_are_left_out_if_the_model_must_know_them(tmp_path):
    label = Condition(name="breed", kind="category", values=("a", "b"))
    arrays = {"train": np.zeros((6, 8, 8), np.uint8), "train_breed": ["a", "b", "a", "b", "a", "b"]}
    arrays |= {"test": np.arange(4, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)}
    np.savez(tmp_path / "set.npz", **arrays, test_breed=["", "b", "", "a"])
    data, notes = DataConfig(data=f"npz:{tmp_path / 'set.npz'}", condition=("breed:category",), validation=0.0), []
    model = cvae.load(export_model(tmp_path / "strict", (label,)))
    _, _, split = load_split(data, "test", model.spec, note=notes.append)
    assert split.images[:, 0, 0, 0].tolist() == [1, 3] and split.rows.tolist() == [1, 0]
    assert any("2 of 4 images" in note and "breed, which 'strict' must know" in note for note in notes)

    optional = cvae.load(export_model(tmp_path / "optional", (replace(label, optional=True),)))
    report = evaluate(ExportedScorer(optional), data, generated=0)
    assert report["protocol"]["likelihood"].endswith("given the conditions that are known") and "labels" not in report
    np.savez(tmp_path / "set.npz", **arrays, test_breed=["a", "b", "b", "a"])
    report = evaluate(ExportedScorer(optional), data, generated=0)
    assert report["protocol"]["likelihood"].endswith("given the label") and "labels" in report


def test_classification_accuracy_score_requires_labels_alone(painter_run, painted_data):
    with pytest.raises(UsageError, match="--cas needs a model whose only condition is a label, unlike 'painter'"):
        cvae.evaluate(painter_run, data=painted_data, cas=True)
