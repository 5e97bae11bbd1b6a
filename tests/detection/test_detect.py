"""Anomaly detection: scores (compared with their formulas), detectors, and commands."""

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heif_stub import uninstall_pillow_heif, write_heic
from helpers import SHARED, edit_output, load_data, needs_mnist
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import combine_pvalues, expon

import cvae
from cvae.data import Split
from cvae.detection import calibration as calibration_module
from cvae.detection import scores as scores_module
from cvae.detection.calibration import (
    COMBINED,
    combine,
    combine_normal,
    conformal_threshold,
    log_p_value,
    sorted_scores,
)
from cvae.detection.detector import CALIBRATION, CODES, METADATA, Detector
from cvae.detection.scores import NEIGHBOURS, SCORES, measure
from cvae.errors import CvaeError, UsageError
from cvae.evaluation.bounds import bounds
from cvae.evaluation.exported_scorer import ExportedScorer

MODELS = ["labels", "plain"]


@pytest.fixture(scope="module")
def digits() -> Split:
    """Return images that the runs were not trained on."""
    test = load_data("digits").test
    return Split(images=test.images[:200], labels=test.labels[:200])


@pytest.fixture(scope="module")
def scorers(trained) -> dict[str, ExportedScorer]:
    return {model: ExportedScorer(cvae.load(trained[model])) for model in MODELS}


@pytest.fixture
def detect(cvae) -> Callable[..., Any]:
    """Run `cvae detect` in an empty folder."""
    return partial(cvae, "detect")


@pytest.fixture
def run(trained, in_tmp) -> Path:
    """Copy the conditional run to a folder that can be written to."""
    return Path(shutil.copytree(trained["labels"], "run"))


def save_images(folder: Path, images: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[0]).save(path)
    return paths


# -- scores ------------------------------------------------------------------------------------------------------------


def test_bound_and_kl_agree_with_evaluation(scorers, digits):
    """The two bounds use different noise, but their means over the images agree."""
    measured = measure(scorers["plain"], digits.images, reconstructions=True)
    actual = bounds(scorers["plain"], digits.images, None, samples=scores_module.NUM_SAMPLES)
    np.testing.assert_allclose(measured.kl, actual.rate.sum(1), rtol=1e-4, atol=1e-3)
    difference = measured.bound - actual.importance_weighted
    assert difference.mean() == pytest.approx(0, abs=4 * difference.std() / np.sqrt(len(difference)))
    reconstructions = scorers["plain"].reconstruct(digits.images / np.float32(255), None)
    squares = ((reconstructions - digits.images / 255) ** 2).reshape(len(reconstructions), -1).sum(1)
    np.testing.assert_allclose(measured.squared_error, squares, rtol=1e-4)
    assert np.array_equal(measured.reconstruction, reconstructions)


def test_local_error_is_the_maximum_of_blurred_differences(scorers, digits):
    measured = measure(scorers["plain"], digits.images[:20], reconstructions=True)
    difference = (digits.images[:20] / 255 - measured.reconstruction)[:, 0]  # (N, 1, H, W) -> (N, H, W)
    blur = partial(gaussian_filter, sigma=scores_module.BLUR * 8, mode="constant", truncate=20)
    inside = blur(np.ones((8, 8)))  # sum of the blur weights that are inside the image
    expected = [np.abs(blur(image) / inside).max() for image in difference]
    np.testing.assert_allclose(measured.local, expected, rtol=1e-4)


def test_label_and_ratio_are_computed_at_the_posterior_mean(scorers, digits):
    scorer, images = scorers["labels"], digits.images[:40] / np.float32(255)
    measured = measure(scorer, digits.images[:40])
    nats = []
    for k in range(10):
        mean, std = scorer.model.encode(images, k)
        errors = ((scorer.model.decode(mean, k) - images) ** 2).sum(axis=(1, 2, 3))
        sigma = scorer.model.spec.sigma
        nats.append(errors / (2 * sigma**2) + (0.5 * (mean**2 + std**2 - 1) - np.log(std)).sum(1))
    nats = np.stack(nats, axis=1)  # (N, K), up to a constant
    assert measured.label.tolist() == nats.argmin(1).tolist()
    ratio = [row[row.argmin()] - np.delete(row, row.argmin()).mean() for row in nats]
    np.testing.assert_allclose(measured.ratio, ratio, rtol=1e-3, atol=1e-2)


@pytest.mark.integration
@needs_mnist
def test_inferred_label_is_the_true_label():
    test = load_data("mnist", data_dir=str(SHARED)).test
    measured = measure(ExportedScorer(cvae.load()), test.images[:200])
    assert (measured.label == test.labels[:200]).mean() >= 0.97


def neighbour_distance(code: np.ndarray) -> np.ndarray:
    """Return the mean distance of each latent code to its nearest neighbours."""
    distances = np.linalg.norm(code[:, None] - code, axis=2)
    return np.sort(distances, axis=1)[:, 1 : 1 + NEIGHBOURS].mean(1)


@pytest.mark.parametrize("model", MODELS)
def test_thresholds_accept_the_requested_fraction_of_normal_images(scorers, digits, model):
    normal = measure(scorers[model], digits.images)
    detector = Detector.fit(scorers[model], digits.images, data="digits", quantile=0.9)
    thresholds = detector.metadata.thresholds
    assert list(thresholds) == [name for name in SCORES if name != "ratio" or model == "labels"]
    for name, score in detector.scores(normal).items():
        if name not in ("neighbours", "combined"):  # each image is its own nearest neighbour here
            assert (score <= thresholds[name]).mean() == pytest.approx(0.9, abs=0.01)
    rank = math.ceil((len(digits.images) + 1) * 0.9)
    distance = np.sort(neighbour_distance(normal.code))[rank - 1]
    assert thresholds["neighbours"] == pytest.approx(float(distance), rel=1e-3)


def test_label_ratio_is_normalized_for_each_label(scorers, digits):
    normal = measure(scorers["labels"], digits.images)
    detector = Detector.fit(scorers["labels"], digits.images, data="digits", quantile=0.9)
    score = detector.scores(normal)["ratio"]
    for label in range(10):
        label_scores = score[normal.label == label]
        if len(label_scores) >= calibration_module.MIN_IMAGES:
            assert (label_scores.mean(), label_scores.std()) == pytest.approx((0, 1), abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_combined_by_fishers_method(scorers, digits, model):
    """P-values are fractions of the normal images, except in the upper tail, where they come from a fit."""
    detector = Detector.fit(scorers[model], digits.images, data="digits", quantile=0.9)
    others = measure(scorers[model], load_data("digits").test.images[200:])
    scores = detector.scores(others)
    names = [name for name in COMBINED if name in scores]
    assert names == [name for name in COMBINED if name != "ratio" or model == "labels"]
    counted = 0
    for i in range(len(others.code)):
        p = [(normal >= scores[name][i]).mean() for name, normal in zip(names, detector.calibration.T, strict=True)]
        expected = combine_pvalues(p, method="fisher").statistic if min(p) > 0 else np.inf
        if min(p) > calibration_module.TAIL:
            counted += 1
            assert scores["combined"][i] == pytest.approx(expected, rel=1e-9)
        else:  # at least one p-value is from the fitted tail
            assert scores["combined"][i] >= 2 * np.log(1 / calibration_module.TAIL)
    assert counted >= 20

    normal = measure(scorers[model], digits.images)
    alone = detector.scores(normal) | {"neighbours": neighbour_distance(normal.code)}
    fold, combined = np.arange(len(digits.images)) % calibration_module.NUM_FOLDS, []
    for i in range(len(fold)):  # each image is compared with the other folds
        reference = [np.sort(alone[name][fold != fold[i]]) for name in names]
        tails = [log_p_value(alone[name][i : i + 1], column)[0] for name, column in zip(names, reference, strict=True)]
        combined.append(-2 * sum(tails))
    threshold = np.sort(combined)[math.ceil((len(fold) + 1) * 0.9) - 1]
    assert detector.metadata.thresholds["combined"] == pytest.approx(threshold, rel=1e-3)


@pytest.mark.parametrize("count", [30, 144])
def test_false_alarm_rate_matches_quantile(count):
    """The rate is averaged over random sets of normal images. With 30 images, the threshold is the largest score."""
    rng = np.random.default_rng(0)
    above = []
    for _ in range(300):
        normal, new = (dict(zip(COMBINED, rng.standard_normal((3, n)), strict=True)) for n in (count, 500))
        normal["combined"] = combine_normal(normal)
        new["combined"] = combine(new, sorted_scores(normal))
        above.append([(new[name] > conformal_threshold(normal[name], 0.95)).mean() for name in new])
    alarms = np.mean(above, axis=0)
    expected = 1 - math.ceil((count + 1) * 0.95) / (count + 1)
    np.testing.assert_allclose(alarms, expected, atol=0.006)


def test_p_value_of_rare_score_follows_exponential_tail():
    rng = np.random.default_rng(0)
    normal = np.sort(rng.exponential(3.0, 20_000))
    actual = log_p_value(np.array([1.0, 6.0, 12.0, 30.0, 60.0]), normal)
    np.testing.assert_allclose(actual, expon.logsf([1.0, 6.0, 12.0, 30.0, 60.0], scale=3.0), rtol=0.06)
    constant = log_p_value(np.array([4.9, 5.0, 5.1]), np.full(30, 5.0))  # all normal scores are equal
    assert np.isfinite(constant).all() and constant[0] == constant[1] == 0 > constant[2]


@pytest.mark.parametrize("count", [NEIGHBOURS + 1, 30, 144])
def test_combined_score_detects_image_that_is_extreme_in_one_score(count):
    rng = np.random.default_rng(0)
    normal_scores = {name: rng.standard_normal(count) for name in COMBINED}
    calibration = np.sort(list(normal_scores.values()), axis=1).T
    threshold = conformal_threshold(combine_normal(normal_scores), 0.95)
    for name in COMBINED:
        outliers = {other: np.zeros(2) for other in COMBINED} | {name: np.array([50.0, 60.0])}
        combined = combine(outliers, calibration)
        assert threshold < combined[0] < combined[1]


@pytest.mark.parametrize(
    ("model", "score_name"),
    [("labels", "combined"), ("labels", "ratio"), ("plain", "combined"), ("plain", "neighbours"), ("plain", "local")],
)
def test_inverted_digits_are_detected_as_anomalies(scorers, digits, model, score_name):
    detector = Detector.fit(scorers[model], digits.images, data="digits", quantile=0.95)
    others = load_data("digits").test.images[200:]
    inverted = 255 - others
    actual = [detector.scores(measure(scorers[model], images))[score_name] for images in (others, inverted)]
    normal_rate, inverted_rate = (float((score > detector.metadata.thresholds[score_name]).mean()) for score in actual)
    assert normal_rate < 0.2 and inverted_rate > normal_rate + 0.1


@pytest.mark.parametrize("model", MODELS)
def test_scores_do_not_depend_on_the_order_of_images(scorers, digits, model):
    forward, reverse = (measure(scorers[model], images) for images in (digits.images, digits.images[::-1].copy()))
    for name in ("bound", "kl", "squared_error"):
        np.testing.assert_allclose(getattr(reverse, name)[::-1], getattr(forward, name), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_saved_detector_can_be_loaded(scorers, digits, tmp_path, model):
    scorer = scorers[model]
    detector = Detector.fit(scorer, digits.images, data="digits", quantile=0.9)
    assert [path.name for path in detector.save(tmp_path)] == [METADATA, CODES, CALIBRATION]
    loaded = Detector.load(tmp_path, scorer.model.spec)
    assert loaded.metadata == detector.metadata and np.array_equal(loaded.codes, detector.codes)
    assert np.array_equal(loaded.calibration, detector.calibration)


def test_fit_rejects_too_few_images_and_invalid_quantile(scorers, digits):
    few = digits.images[:NEIGHBOURS]
    with pytest.raises(UsageError, match="5 normal images are too few"):
        Detector.fit(scorers["plain"], few, data="digits", quantile=0.9)
    for quantile in (0, 1, float("nan")):
        with pytest.raises(UsageError, match=rf"--quantile {quantile}"):
            Detector.fit(scorers["plain"], few, data="digits", quantile=quantile)


# -- commands ----------------------------------------------------------------------------------------------------------


def test_fit_and_score_commands_agree_with_the_api_and_write_scores_and_maps(detect, run, digits, scorers):
    report = detect("fit", "run", "--quantile", 0.9, "--json").json
    validation = load_data("digits").validation.images
    assert report["out"] == "run/detector.json" and report["images"] == len(validation)
    expected = Detector.fit(scorers["labels"], validation, data="digits", quantile=0.9)
    assert report["thresholds"] == pytest.approx(dict(expected.metadata.thresholds), rel=1e-4)

    flipped = digits.images[20:23, :, ::-1]
    save_images(Path("mine/a"), digits.images[:9])
    save_images(Path("mine/b"), flipped)
    report = detect("score", "mine", "--model", "run", "--json").json
    assert report["by"] == "combined"
    names = [*(f"a/{i}.png" for i in range(9)), *(f"b/{i}.png" for i in range(3))]
    assert [row["image"] for row in report["images"]] == names
    all_images = np.concatenate([digits.images[:9], flipped])
    measured = measure(scorers["labels"], all_images, reconstructions=True)
    for name, values in expected.scores(measured).items():
        assert [row[name] for row in report["images"]] == pytest.approx(values.tolist(), rel=1e-3, abs=1e-3)
    for row in report["images"]:
        assert row["verdict"] == ("anomaly" if row["combined"] > report["thresholds"]["combined"] else "normal")

    second = detect("score", "mine", "--model", "run", "--out", "mine", "--json").json
    # The images that the previous call wrote to the same folder are not scored.
    third = detect("score", "mine", "--model", "run", "--out", "mine", "--json").json
    assert report["images"] == second["images"] == third["images"]
    shutil.rmtree("mine/maps")

    with Path("anomalies/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == names and set(rows[0]) == {"image", "verdict", "label", *SCORES}
    worst = sorted(range(12), key=lambda i: -report["images"][i]["combined"])[:8]
    with Image.open("anomalies/worst.png") as file:
        grid = file.convert("RGB").resize((3 * 9 - 1, 8 * 9 - 1), Image.Resampling.BOX)
    assert file.width * (8 * 9 - 1) == file.height * (3 * 9 - 1)  # 8 rows of image, reconstruction and map
    top = np.asarray(grid.crop((0, 0, 8, 8)), dtype=float)
    # The tolerance is large because the grid was enlarged smoothly and reduced again.
    assert np.abs(top - all_images[worst[0], 0][:, :, None]).mean() < 25
    for i, name in enumerate(names):
        with Image.open(Path("anomalies/maps") / name) as file:
            brightness = np.asarray(file.convert("RGB"), dtype=float).mean()
        error = np.abs(all_images[i] / 255 - measured.reconstruction[i])
        assert brightness == pytest.approx(255 * (3 * error).clip(0, 3).mean() / 3, abs=12)


def test_fit_accepts_a_folder_of_normal_images(detect, run, digits):
    save_images(Path("normal"), digits.images[:30])
    report = detect("fit", "run", "--data", "folder:normal", "--size", 8, "--json").json
    assert (report["images"], report["data"]) == (30, "normal")


def test_score_command_accepts_another_score_and_image_size(detect, run, digits):
    assert detect("fit", "run", "--limit", 50)[0] == 0
    Image.fromarray(digits.images[0, 0]).resize((20, 30)).save("large.png")
    flags = ["--resize", "--score", "bound", "--out", "found", "--json"]
    assert detect("score", "large.png", "-m", "run", *flags).json["by"] == "bound"
    assert Path("found/maps/large.png").is_file()


INVALID_COMMANDS: dict[str, tuple[int, str, list[str]]] = {
    "missing detector": (1, "score 0.png -m {plain}", ["detector.json", "cvae detect fit"]),
    "missing image": (1, "score nowhere.png -m run", ["nowhere.png"]),
    "invalid image": (1, "score text.png -m run", ["text.png"]),
    "empty folder": (2, "score empty -m run", ["'empty'", ".png"]),
    "wrong size": (2, "score large.png -m run", ["20x30", "8x8", "--resize"]),
    "colour image": (2, "score colour.png -m run", ["8x8", "in colour", "--resize"]),
    "unknown score": (2, "score 0.png -m run --score ratios", ["'ratios'", "'ratio'"]),
    "quantile above 1": (2, "fit run --quantile 95", ["--quantile 95", "0.95"]),
    "unknown split": (2, "fit run --split tset", ["'tset'", "test"]),
    "misspelt data set": (2, "fit run --data digitz", ["'digitz'", "'digits'"]),
    "wrong number of channels": (2, "fit run --data folder:images", ["3 channels", "takes 1", "--data"]),
    "missing model": (2, "fit nowhere", ["'nowhere'"]),
    "zoo model": (2, "fit mnist-resnet-conditional", ["cvae zoo copy mnist-resnet-conditional"]),
}


@pytest.mark.parametrize(("code", "command", "words"), INVALID_COMMANDS.values(), ids=INVALID_COMMANDS)
def test_detect_rejects_invalid_arguments_and_writes_nothing(detect, run, trained, digits, code, command, words):
    detect("fit", "run", "--limit", 50)
    Path("text.png").write_text("not an image")
    Path("empty").mkdir()
    Image.fromarray(digits.images[0, 0]).save("0.png")
    Image.new("L", (20, 30)).save("large.png")
    Image.new("RGB", (8, 8), "red").save("colour.png")
    save_images(Path("images"), np.zeros((2, 1, 9, 9), np.uint8))
    Image.new("RGB", (80, 80), "red").save("images/red.png")
    before = {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*") if path.is_file()}
    result = detect(*(word.format(**trained) for word in command.split()))
    line = result.err.splitlines()[-1]
    assert (result.code, result.out) == (code, "") and line.startswith("cvae: error: "), result.err
    assert [word for word in words if word not in line] == [], line
    assert {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*") if path.is_file()} == before


def edit_metadata(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        metadata = json.loads((folder / METADATA).read_text())
        (folder / METADATA).write_text(json.dumps({**metadata, **changes}))

    return edit


CORRUPTIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "invalid JSON": (lambda folder: (folder / METADATA).write_text("{"), "can't be read"),
    "older version": (lambda folder: (edit_metadata(format=1)(folder), (folder / CALIBRATION).unlink()), "is 1, not 2"),
    "missing version": (edit_metadata(format=None), "is None, not 2"),
    "unknown key": (edit_metadata(more=2), "can't be read"),
    "different weights": (edit_metadata(weights="0" * 64), "to different weights"),
    "not an object": (lambda folder: (folder / METADATA).write_text("[]"), "can't be read"),
    "empty thresholds": (edit_metadata(thresholds={}), "does not fit the model"),
    "too few codes": (lambda folder: np.save(folder / CODES, np.zeros((3, 8), np.float32)), "of shape"),
    "too few labels": (edit_metadata(centre=[1.0], scale=[1.0]), "does not fit the model"),
    "scale of zero": (edit_metadata(scale=[0.0] * 10), "scale that is not positive"),
    "missing codes": (lambda folder: (folder / CODES).unlink(), "can't be read"),
    "truncated codes": (lambda folder: os.truncate(folder / CODES, 200), "can't be read"),
    "codes of wrong size": (lambda folder: np.save(folder / CODES, np.zeros((9, 3), np.float32)), "of shape"),
    "missing scores": (lambda folder: (folder / CALIBRATION).unlink(), "can't be read"),
    "too few scores": (lambda folder: np.save(folder / CALIBRATION, np.zeros((200, 2))), "of shape"),
    "pickled codes": (lambda folder: np.save(folder / CODES, np.array([{}]), allow_pickle=True), "can't be read"),
}


@pytest.mark.parametrize(("corrupt", "words"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_damaged_detector_is_rejected(scorers, digits, tmp_path, corrupt, words):
    scorer = scorers["labels"]
    Detector.fit(scorer, digits.images, data="digits", quantile=0.9).save(tmp_path)
    corrupt(tmp_path)
    with pytest.raises(CvaeError, match=f"{words}.*; fit a new one with: cvae detect fit"):
        Detector.load(tmp_path, scorer.model.spec)


def test_scores_do_not_depend_on_the_bit_depth(detect, run, digits):
    """A 12-bit image has the same scores as its 8-bit version, whatever other images are scored with it."""
    detect("fit", "run", "--limit", 50)
    save_images(Path("8-bit"), digits.images[:3])
    Path("12-bit").mkdir()
    for i, (image, scale) in enumerate(zip(digits.images[:3, 0], (1, 1, 1 / 20), strict=True)):
        Image.fromarray(np.rint(image * (scale * 4095 / 255)).astype(np.uint16)).save(f"12-bit/{i}.png")
    dark = Image.fromarray(np.rint(digits.images[2, 0] / 20).astype(np.uint8))
    dark.save("8-bit/2.png")
    result = detect("score", "12-bit", "-m", "run", "--json")
    assert result.err == "3 images of 16 or 32 bits: values of at most 4,095 are read as 12 bits, 0..4,095\n"
    expected = detect("score", "8-bit", "-m", "run", "--json").json["images"]
    for row, expected_row in zip(result.json["images"], expected, strict=True):
        assert row["reconstruction"] == pytest.approx(expected_row["reconstruction"], rel=0.02)


def test_score_skips_images_that_cannot_be_read(detect, run, digits):
    detect("fit", "run", "--limit", 50)
    whole, truncated, last = save_images(Path("mine"), digits.images[:3])
    truncated.write_bytes(truncated.read_bytes()[:40])
    write_heic(last.with_suffix(".heic"), Image.fromarray(digits.images[2, 0]))
    last.unlink()
    with pytest.MonkeyPatch.context() as monkeypatch:
        uninstall_pillow_heif(monkeypatch)
        result = detect("score", "mine", "-m", "run", "--json")
    assert [row["image"] for row in result.json["images"]] == [whole.name]
    reasons = {image["image"]: image["reason"] for image in result.json["skipped"]}
    assert set(reasons) == {"1.png", "2.heic"} and "pip install pillow-heif" in reasons["2.heic"]
    expected = "; ".join(f"{reason}: {name!r}" for name, reason in reasons.items())
    assert result.err == f"2 of 3 images are skipped: {expected}\n"
    assert [path.name for path in Path("anomalies/maps").iterdir()] == [whole.name]
    whole.unlink()
    result = detect("score", "mine", "-m", "run", "--out", "none")
    assert result.code == 1 and result.err.startswith("cvae: error: none of the 2 images can be read: "), result.err
    assert not Path("none").exists()


def test_chunks_give_the_same_result_as_all_images_at_once(detect, run, digits, monkeypatch):
    """With chunks of 4 images, the bit depth of all images is known only after the first chunk."""
    detect("fit", "run", "--limit", 50)
    Path("mine").mkdir()
    for i, image in enumerate(digits.images[:10, 0]):
        scale = 4095 / 255 * (1 if i > 4 else 1 / 20)
        Image.fromarray(np.rint(image * scale).astype(np.uint16)).save(f"mine/{i}.png")
    at_once = detect("score", "mine", "-m", "run", "--json")
    maps = {path.name: path.read_bytes() for path in Path("anomalies/maps").iterdir()}
    counts: list[int] = []

    def count_images(scorer: ExportedScorer, images: np.ndarray, **options: Any) -> scores_module.Measurement:
        counts.append(len(images))
        return measure(scorer, images, **options)

    monkeypatch.setattr("cvae.api.detect.CHUNK_VALUES", 4 * 64)
    monkeypatch.setattr("cvae.api.detect.MAX_WORST", 3)
    monkeypatch.setattr("cvae.detection.scores.measure", count_images)
    result = detect("score", "mine", "-m", "run", "--json")
    assert result.err == at_once.err and max(counts) == 4 and sum(counts) == 10 + 5 + 3
    for row, expected in zip(result.json["images"], at_once.json["images"], strict=True):
        assert row["image"] == expected["image"]
        assert [row[name] for name in SCORES] == pytest.approx([expected[name] for name in SCORES], rel=1e-3, abs=1e-3)
    for name, content in maps.items():
        pixels, expected_pixels = (
            np.asarray(Image.open(file), dtype=int) for file in (f"anomalies/maps/{name}", io.BytesIO(content))
        )
        assert np.abs(pixels - expected_pixels).max() <= 3


def test_interrupted_score_leaves_earlier_output_unchanged(detect, run, digits, monkeypatch):
    detect("fit", "run", "--limit", 50)
    save_images(Path("mine"), digits.images[:2])
    assert detect("score", "mine", "-m", "run").code == 0
    before = {path: path.read_bytes() for path in Path("anomalies").rglob("*") if path.is_file()}
    save_images(Path("other"), digits.images[2:6])
    monkeypatch.setattr("cvae.api.detect.CHUNK_VALUES", 64)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for out in ("anomalies", "new"):
        with pytest.raises(KeyboardInterrupt):
            cvae.detect.score("other", model="run", out=out, progress=stop)
    assert {path: path.read_bytes() for path in Path("anomalies").rglob("*") if path.is_file()} == before
    assert {path.name for path in Path().iterdir()} == {"run", "mine", "other", "anomalies"}


def test_functions_return_what_the_commands_print(detect, run, digits):
    notes: list[str] = []
    fitted = cvae.detect.fit("run", limit=50, note=notes.append)
    assert fitted == detect("fit", "run", "--limit", 50, "--json").json and notes
    paths = save_images(Path("mine"), digits.images[:3])
    before = sorted(Path.cwd().rglob("*"))
    result = cvae.detect.score(paths, model="run", score="bound")
    assert sorted(Path.cwd().rglob("*")) == before
    printed = detect("score", *paths, "-m", "run", "--score", "bound", "--out", "found", "--json").json
    assert {**result, "out": "found"} == printed
    assert cvae.detect.score(str(paths[0]), model="run")["images"][0]["image"] == "0.png"


def test_fit_reports_skipped_files(detect, run, digits):
    save_images(Path("normal"), digits.images[:30])
    Path("normal/notes.txt").write_text("not an image")
    result = detect("fit", "run", "--data", "folder:normal", "--size", 8, "--json")
    assert result.json["images"] == 30
    assert result.err == "ignored files that are not readable images: 1 .txt file\nnormal: 30 training images\n"


@pytest.mark.parametrize(("file", "output", "value"), [("encoder", "std", -1), ("encoder", "mean", 1e25)])
def test_fit_rejects_model_without_finite_scores(detect, run, file, output, value):
    edit_output(run / f"{file}.onnx", output, "Mul", value)
    result = detect("fit", "run", "--limit", 50)
    error = result.err.splitlines()[-1]
    assert result.code == 1 and error.startswith("cvae: error: ") and "arning" not in result.err, result.err
    assert not list(run.glob("detector*"))


def test_non_finite_score_is_rejected(scorers, digits):
    detector = Detector.fit(scorers["plain"], digits.images, data="digits", quantile=0.9)
    measured = measure(scorers["plain"], digits.images[:3])
    with pytest.raises(CvaeError, match=r"^the score 'kl' of '.*' is not finite: .*$"):
        detector.scores(measured._replace(kl=np.float32([1, np.inf, 2])))


def test_model_with_several_conditions_measures_images_with_unknown_values(conditional, digits):
    model = cvae.load(conditional)
    scorer, images = ExportedScorer(model), digits.images[:60]
    measured = measure(scorer, images, reconstructions=True)
    assert measured.label is None and measured.ratio is None
    codes = model.encode_rows(images.astype(np.float32) / 255, np.zeros((60, 7), np.float32))  # 4 values, 3 known flags
    np.testing.assert_allclose(measured.code, codes.mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(measured.reconstruction, model.decode(codes.mean), atol=1e-4)
