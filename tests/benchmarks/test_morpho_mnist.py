"""Morpho-MNIST benchmark: the values of drawn bars are known, and so are the scores of perfect and of bad models."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import morpho_mnist
from _morpho_regressor import load_regressor, measure, save_regressor, train_regressor
from _morpho_scores import RealImages, compare, score_all, score_held_out
from _morphology import SCALE, change_thickness, compute_slant, deskew_and_rotate, measure_thickness

Y, X = np.indices((28, 28)) - 13.5
"""Coordinates of the pixels, from the centre of the image."""


def bar(width: float, angle: float = 0.0, length: float = 18.0, slant: float = 0.0) -> np.ndarray:
    """Draw an anti-aliased bar with round ends. At 0 degrees, it is vertical; positive angles turn it to the left."""
    radians = np.radians(angle)
    x = X - slant * Y
    across, along = x * np.cos(radians) - Y * np.sin(radians), x * np.sin(radians) + Y * np.cos(radians)
    beyond = np.maximum(np.abs(along) - (length - width) / 2, 0)  # distance to the straight part
    return np.rint(255 * np.clip(width / 2 - np.hypot(across, beyond) + 0.5, 0, 1)).astype(np.uint8)


def ring(radius: float, width: float) -> np.ndarray:
    return np.rint(255 * np.clip(width / 2 - np.abs(np.hypot(X, Y) - radius) + 0.5, 0, 1)).astype(np.uint8)


def axis_angle(image: np.ndarray) -> float:
    """Return the angle in degrees between the principal axis of an image and the vertical, counter-clockwise."""
    y, x = np.indices(image.shape)
    covariance = np.cov(np.stack([x.ravel(), y.ravel()]), aweights=image.ravel().astype(float))
    axis = np.linalg.eigh(covariance)[1][:, 1]
    return float(np.degrees(np.arctan(axis[0] / axis[1])))  # y points down


@pytest.mark.parametrize("angle", [0, 20, 45])
@pytest.mark.parametrize("width", [1.5, 2, 3, 4, 5])
def test_thickness_is_the_width_of_a_bar(width, angle):
    image = bar(width, angle)
    assert measure_thickness([image, image / 255]) == pytest.approx([width] * 2, abs=0.4)


def test_thickness_does_not_depend_on_the_length_of_the_stroke():
    assert measure_thickness([ring(8, 3)]) == pytest.approx(3, abs=0.3)
    assert measure_thickness([np.zeros((28, 28), np.uint8)]) == 0


@pytest.mark.parametrize("slant", [-0.5, 0, 0.4])
def test_slant_is_the_shear_of_a_bar(slant):
    assert compute_slant(bar(3, slant=slant)) == pytest.approx(slant, abs=0.02)


@pytest.mark.parametrize("angle", [-45, -10, 0, 30])
@pytest.mark.parametrize("slant", [-0.4, 0, 0.4])
def test_sheared_bar_is_upright_before_it_is_rotated(slant, angle):
    image = np.roll(bar(3, slant=slant), (2, -1), (0, 1))
    result = deskew_and_rotate(image, angle)
    assert axis_angle(result) == pytest.approx(angle, abs=1)
    rows, columns = np.nonzero(result > 127)
    centre = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    assert centre == pytest.approx([14 * SCALE] * 2, abs=SCALE / 2)


def test_positive_angle_is_counter_clockwise():
    upright = bar(3)
    assert np.abs(deskew_and_rotate(upright, 30)[::SCALE, ::SCALE].astype(int) - bar(3, 30)).mean() < 10
    assert np.abs(deskew_and_rotate(upright, 30)[::SCALE, ::SCALE].astype(int) - bar(3, -30)).mean() > 20


@pytest.mark.parametrize("thickness", [1.5, 2.5, 3.5, 4.5])
def test_strokes_are_dilated_and_eroded_to_the_requested_thickness(thickness):
    images = [change_thickness(deskew_and_rotate(image, 0), thickness) for image in (bar(3), ring(8, 3))]
    assert images[0].shape == (28, 28)
    assert measure_thickness(images) == pytest.approx([thickness] * 2, abs=0.4)


def test_dilation_keeps_a_loop_open_and_erosion_keeps_a_stroke_in_one_piece():
    small_loop = ring(3, 2)
    thick = change_thickness(deskew_and_rotate(small_loop, 0), 4.6)
    assert measure_thickness([thick]) > measure_thickness([small_loop])
    assert ndimage.label(thick < 230)[1] == 2  # the background and the hole
    uneven = np.maximum(bar(1.5), bar(6, length=8))
    thin = change_thickness(deskew_and_rotate(uneven, 0), 1.4)
    assert measure_thickness([thin]) < measure_thickness([uneven])
    assert ndimage.label(thin > 100)[1] == 1
    assert np.ptp(np.nonzero(thin > 100)[0]) > 14  # the thin ends are still there


def test_held_out_angles_are_missing_only_from_the_training_images():
    angles = np.array([-20.0, 9.9, 15, 25, 30.1])
    arrays = {"train": np.arange(5), "train_angle": angles, "test": np.arange(5), "test_angle": angles}
    result = morpho_mnist.hold_out(arrays, 10, 30)
    assert result["train"].tolist() == [0, 1, 4] and result["train_angle"].tolist() == [-20, 9.9, 30.1]
    assert result["test"].tolist() == [0, 1, 2, 3, 4]


def encode(values: dict[str, np.ndarray]) -> np.ndarray:
    """Return images of bars (N, 28, 28) float32 in [0, 1] whose first pixels contain the values in dark grey."""
    images = np.stack([bar(width, 20) for width in values["thickness"]]) / 255
    for column, (name, scale) in enumerate({"label": 10, "angle": 100, "thickness": 10}.items()):
        images[:, 0, column] = 0.2 + 0.1 * values[name] / scale
    return images.astype(np.float32)


def decode(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values that `encode` has stored, with an error of 2 degrees in the angle."""
    first = (images.reshape(-1, 28, 28)[:, 0, :3].astype(float) - 0.2) * 10 * [10, 100, 10]
    return {"label": np.rint(first[:, 0]).astype(int), "angle": first[:, 1] + 2, "thickness": first[:, 2]}


def sample_values(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "label": rng.integers(0, 10, count),
        "angle": rng.uniform(-45, 45, count),
        "thickness": rng.uniform(1.5, 4.5, count),
    }


class Perfect:
    """Model that obeys, and draws unknown values from the distribution of the data; `error` is added to the angle."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def generate(self, n, *, seed, **conditions):
        values = {**sample_values(n, seed + 100), **conditions}
        return encode({**values, "angle": values["angle"] + self.error})[:, None]


def test_perfect_model_meets_every_target():
    values = sample_values(300, 0)
    scores = score_all(Perfect(), encode(values), values, decode)
    assert all(score.met for score in scores), scores
    by_name = {score.name: score for score in scores}
    assert by_name["label: as requested"].value == by_name["label: as requested"].real == 1
    assert by_name["angle: mean absolute error in degrees"].real == pytest.approx(2, abs=1e-3)
    assert by_name["angle: relative to real images"].value == pytest.approx(1, abs=1e-3)
    assert sum(score.name.startswith("distribution") for score in scores) == 6


def test_error_of_the_angle_counts_relative_to_the_error_of_the_regressor():
    values = sample_values(300, 0)
    model = Perfect(error=1.0)
    ratio = {score.name: score for score in score_all(model, encode(values), values, decode)}[
        "angle: relative to real images"
    ]
    assert ratio.value == pytest.approx(1.5, abs=1e-3) and not ratio.met
    held_out = score_held_out(model, encode(values), values, decode, 10, 30)
    ratio = next(score for score in held_out if "relative" in score.name)
    assert ratio.value == pytest.approx(1.5, abs=1e-3) and ratio.met  # the target is 2 here


def test_model_that_ignores_its_conditions_misses_the_targets():
    class Deaf(Perfect):
        def generate(self, n, *, seed, **conditions):
            return super().generate(n, seed=seed)

    values = sample_values(300, 0)
    missed = [score.name for score in score_all(Deaf(), encode(values), values, decode) if not score.met]
    assert {"label: as requested", "angle: relative to real images", "thickness: correlation"} <= set(missed)
    assert not any("distribution" in name for name in missed)


def test_model_whose_unknown_values_are_constant_misses_the_distributions():
    class Constant(Perfect):
        def generate(self, n, *, seed, **conditions):
            typical = {"label": np.full(n, 3), "angle": np.zeros(n), "thickness": np.full(n, 3.0)}
            return super().generate(n, seed=seed, **{**typical, **conditions})

    values = sample_values(300, 0)
    missed = [score.name for score in score_all(Constant(), encode(values), values, decode) if not score.met]
    assert len(missed) == 6 and all("distribution" in name for name in missed)


def test_control_returns_the_nearest_image_with_the_requested_label():
    values = {
        "label": np.array([1, 1, 2, 2]),
        "angle": np.array([0.0, 40.0, 0.0, 40.0]),
        "thickness": np.array([2.0, 2.0, 3.0, 3.0]),
    }
    control = RealImages(np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8), values)

    def request(n: int, **conditions: list[float]) -> list[int]:
        images = control.generate(n, seed=0, **{name: np.array(array) for name, array in conditions.items()})
        assert images.shape == (n, 1, 28, 28) and images.dtype == np.float32
        return np.rint(255 * images[:, 0, 0, 0]).astype(int).tolist()

    assert request(3, label=[2, 1, 2], angle=[5, 30, 39], thickness=[2, 3, 2]) == [2, 1, 3]
    assert request(2, angle=[50, -10], thickness=[2.1, 2.9]) == [1, 2]
    assert set(request(100, label=[2] * 100)) == {2, 3}  # any image with this label


def test_p_value_of_labels_is_that_of_the_chi_squared_formula():
    sample, real = np.repeat([0, 1], [30, 70]), np.repeat([0, 1], [55, 45])
    assert compare(sample, sample) == pytest.approx(1)
    assert 1e-4 < compare(sample, real) < 1e-3
    assert compare(np.arange(100) / 100, np.arange(100) / 100 + 0.4) < 1e-6


@pytest.mark.integration
def test_saved_regressor_measures_the_same(tmp_path):
    values = sample_values(256, 0)
    images = np.stack([bar(width, angle) for width, angle in zip(values["thickness"], values["angle"], strict=True)])
    regressor = train_regressor(images, **values, epochs=1)
    assert regressor.mean.tolist() == pytest.approx([values[name].mean() for name in ("angle", "thickness")], rel=1e-5)
    save_regressor(tmp_path / "regressor.safetensors", regressor, {"angle": 2.5})
    loaded, errors = load_regressor(tmp_path / "regressor.safetensors")
    assert errors == {"angle": 2.5}
    expected = measure(regressor, images)
    for name, array in measure(loaded, images[:, None].astype(np.float32) / 255).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-3)


@pytest.mark.integration
def test_commands_make_data_train_a_regressor_and_evaluate(tmp_path, monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["morpho_mnist.py", *arguments])
        morpho_mnist.main()
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    output = run("make", "morpho.npz", "--data", "mnist-small", "--limit", "200", "--hold-out", "10", "30")
    assert "morpho-held-out.npz: " in output
    with np.load("morpho.npz") as arrays, np.load("morpho-held-out.npz") as held_out:
        assert arrays["train"].shape == (200, 28, 28) and arrays["train"].dtype == np.uint8
        assert arrays["train_angle"].dtype == arrays["test_thickness"].dtype == np.float32
        outside = (arrays["train_angle"] < 10) | (arrays["train_angle"] > 30)
        np.testing.assert_array_equal(held_out["train"], arrays["train"][outside])
        np.testing.assert_array_equal(held_out["train_labels"], arrays["train_labels"][outside])
        assert len(held_out["test"]) == 200
    assert "angle: mean absolute error" in run("regressor", "morpho.npz", "regressor.safetensors", "--epochs", "1")
    scores = json.loads(run("evaluate", "real", "morpho.npz", "regressor.safetensors", "--json"))["scores"]
    assert len(scores) == 15
    table = run("evaluate", "real", "morpho-held-out.npz", "regressor.safetensors", "--hold-out", "10", "30")
    assert "angle: relative to real images, 10 to 30 degrees" in table
