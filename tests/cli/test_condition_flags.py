"""`--condition` of the commands that make images, compared with a model that can be computed by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from affine_model import AGE, BREED, SMILING, AffineModel
from cli_helpers import read_grid
from matplotlib.figure import Figure
from PIL import Image

import cvae as package
from cvae.errors import UsageError

ALL = ["breed=fox", "age=4", "smiling=yes", "traits=hat"]


def flags(*values: str) -> list[str]:
    return [part for value in values for part in ("--condition", value)]


@pytest.fixture
def noise(faces):
    return package.load(faces.folder).noise


def equal_rounded(pixels: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether grey levels (N, 8, 8) are those of images (N, 1, 8, 8), up to the rounding of a half."""
    return pixels.shape == expected[:, 0].shape and bool(np.abs(pixels - expected[:, 0] * 255).max() < 0.51)


def test_generate_makes_all_combinations_of_values(cvae, faces, noise):
    command = ["generate", faces.folder, *flags("age=2,any,8", "smiling=no,yes"), "--seed", 1, "--json"]
    report = cvae(*command).json
    values = [(age, smiling) for age in (2, None, 8) for smiling in (0, 1)]
    assert report == {
        "out": "generated.png", "model": "faces", "images": 6, "labels": None, "seed": 1,
        "conditions": [{"breed": None, "age": a, "smiling": s == 1, "traits": None} for a, s in values],
    }  # fmt: skip
    codes = noise(6, 1)
    expected = [faces.decode(codes[i : i + 1], age=a, smiling=s) for i, (a, s) in enumerate(values)]
    assert equal_rounded(read_grid("generated.png", 2, 3), np.concatenate(expected))  # a row for each age


def test_generate_makes_a_row_of_several_images_for_each_value(cvae, faces, noise):
    sets = flags("traits=hat", "traits=hat,beard", "traits=none")  # several values need several flags
    cvae("generate", faces.folder, *sets, *flags("breed=dog"), "-n", 4, "--seed", 2)
    codes = noise(12, 2)
    expected = [faces.decode(codes[4 * i :][:4], breed=1, traits=t) for i, t in enumerate([(1, 0), (1, 1), (0, 0)])]
    assert equal_rounded(read_grid("generated.png", 4, 3), np.concatenate(expected))


@pytest.mark.parametrize("label", [["--label", "dog"], ["--label-index", 1], flags("breed=dog"), flags("breed=1")])
def test_label_flags_choose_the_only_category(cvae, faces, noise, label):
    assert cvae("generate", faces.folder, *label, "--seed", 3, "--json").json["conditions"][0]["breed"] == "dog"
    assert equal_rounded(read_grid("generated.png", 1, 1), faces.decode(noise(1, 3), breed=1))


def test_condition_of_a_model_of_digits_equals_its_label(cvae):
    for name, flag in {
        "a": ["--label", "7,3"],
        "b": flags("label=7,3"),
        "c": ["--digit", 7, *flags("label=7")],
    }.items():
        assert cvae("generate", *flag, "--seed", 1, "--out", f"{name}.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() != Path("c.png").read_bytes()


def test_generate_without_conditions_says_that_they_are_unknown(cvae, faces, noise):
    result = cvae("generate", faces.folder, "--seed", 1, "-n", 4)
    assert "no condition given" in result.err
    assert equal_rounded(read_grid("generated.png", 2, 2), faces.decode(noise(4, 1)))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ""])
def test_many_images_are_written_with_their_conditions(cvae, faces, noise, suffix):
    command = ["generate", faces.folder, "-n", 3, *flags("age=2,any", "traits=beard"), "--seed", 4]
    report = cvae(*command, "--out", f"x{suffix}", "--json").json
    assert report["images"] == 6 and [row["age"] for row in report["conditions"]] == [2, None]
    codes = noise(6, 4)
    expected = np.concatenate([faces.decode(codes[i : i + 1], age=[2, None][i % 2], traits=(0, 1)) for i in range(6)])
    ages, beards = [2, np.nan] * 3, [[0, 1]] * 6
    if suffix == ".npy":
        images = np.load("x.npy")
        assert np.array_equal(np.load("x-age.npy"), ages, equal_nan=True)
        assert np.array_equal(np.load("x-traits.npy"), beards) and np.load("x-breed.npy").tolist() == [""] * 6
    elif suffix == ".npz":
        with np.load("x.npz") as arrays:
            images = arrays["images"]
            assert np.array_equal(arrays["age"], ages, equal_nan=True) and np.array_equal(arrays["traits"], beards)
    else:
        rows = list(csv.DictReader(Path("x/metadata.csv").read_text().splitlines()))
        assert [(row["age"], row["hat"], row["beard"], row["breed"]) for row in rows[:2]] == [
            ("2", "0", "1", ""),
            ("", "0", "1", ""),
        ]
        images = np.stack([np.asarray(Image.open(f"x/{row['file_name']}")) for row in rows])[:, None]
    assert equal_rounded(images[:, 0].astype(int), expected)
    state = json.loads(Path(f".x{suffix}.json").read_text())
    assert state["request"]["conditions"] == report["conditions"]


def test_more_images_continue_those_under_the_same_conditions(cvae, faces):
    def generate(*arguments: object) -> int:
        return cvae("generate", faces.folder, "--seed", 5, *arguments).code

    assert generate("-n", 2, *flags("age=2,8"), "--out", "x.npy") == 0
    assert generate("-n", 5, *flags("age=2,8"), "--out", "x.npy") == 0
    assert generate("-n", 5, *flags("age=2,8"), "--out", "y.npy") == 0
    for name in ("", "-age"):
        assert Path(f"x{name}.npy").read_bytes() == Path(f"y{name}.npy").read_bytes()
    state = json.loads(Path(".x.npy.json").read_text())
    Path(".x.npy.json").write_text(json.dumps({**state, "done": 4}))  # as after an interruption
    error = cvae("generate", faces.folder, "--seed", 5, "-n", 5, *flags("age=2,9"), "--out", "x.npy").err
    assert "partly written by a call for 10 images, conditions" in error and error.count("\n") == 1


def test_interpolate_sweeps_a_number_with_the_same_noise(cvae, faces, noise):
    report = cvae("interpolate", faces.folder, *flags("age=2"), "--to", "age=8", "--steps", 4, "--json").json
    assert report["stops"] == ["0", "0"] and [row["age"] for row in report["conditions"]] == [2, 8]
    expected = [faces.decode(noise(1, 0), age=age) for age in (2, 4, 6, 8)]
    assert equal_rounded(read_grid("interpolation.png", 4, 1), np.concatenate(expected))


def test_numbers_change_evenly_from_stop_to_stop(cvae, faces, noise):
    stops = ["--from", 3, "--via", 5, "--to", 7, "--to", "age=8", "--to", "breed=dog"]
    assert cvae("interpolate", faces.folder, *flags("age=2", "breed=cat"), *stops, "--steps", 2).code == 0
    values = [(3, 2, 0), (5, 5, 0), (7, 8, 1)]
    expected = [faces.decode(noise(1, seed), age=age, breed=breed) for seed, age, breed in values]
    assert equal_rounded(read_grid("interpolation.png", 3, 1), np.concatenate(expected))


def save_face(faces: AffineModel) -> np.ndarray:
    """Write face.png, and return its noise. Rounding to grey levels moves the code a little."""
    code = np.array([[1, -1, 0.5, 0]])
    image = faces.decode(code, breed=2, age=4, smiling=1, traits=(1, 0))
    Image.fromarray(np.rint(image[0, 0] * 255).astype(np.uint8)).save("face.png")
    return code


def test_restyle_changes_one_condition_and_reports_those_that_it_infers(cvae, faces):
    code = save_face(faces)
    result = cvae(
        "restyle", "face.png", "-m", faces.folder, *flags("smiling=no", "traits=none", "traits=beard"), "--json"
    )
    assert result.json["to"] == [{"smiling": False, "traits": traits} for traits in ([], ["beard"])]
    (inferred,) = result.json["conditions"]
    assert (inferred["breed"], inferred["smiling"], inferred["traits"]) == ("fox", True, ["hat"])
    assert inferred["age"] == pytest.approx(4, abs=0.5)
    assert result.err.startswith("face.png: best fit: breed fox, age ") and "smiling yes, traits hat" in result.err
    pixels = read_grid("restyled.png", 3, 1)
    for actual, traits in zip(pixels[1:], [(0, 0), (0, 1)], strict=True):
        expected = faces.decode(code, breed=2, age=4, smiling=0, traits=traits)[0, 0] * 255
        assert np.abs(actual - expected).max() < 2.5 and np.abs(actual - pixels[0]).max() > 5


def test_restyle_takes_known_conditions_of_the_original(cvae, faces):
    code = save_face(faces)
    known = [part for value in ALL for part in ("--known", value)]
    result = cvae("restyle", "face.png", "-m", faces.folder, *known, *flags("age=2,8"), "--json")
    assert result.err == "" and result.json["to"] == [{"age": 2}, {"age": 8}]
    assert result.json["conditions"] == [{"breed": "fox", "age": 4, "smiling": True, "traits": ["hat"]}]
    expected = [faces.decode(code, breed=2, age=age, smiling=1, traits=(1, 0))[0, 0] * 255 for age in (2, 8)]
    assert np.abs(read_grid("restyled.png", 3, 1)[1:] - np.stack(expected)).max() < 2
    result = cvae("restyle", "face.png", "-m", faces.folder, *known[:2], "--known", "age=any", *flags("smiling=no"))
    assert result.err.startswith("face.png: best fit: smiling ") and "age" not in result.err  # it is unknown


def test_reconstruct_infers_only_unset_conditions(cvae, faces):
    save_face(faces)
    result = cvae("reconstruct", "face.png", "-m", faces.folder, *flags(*ALL), "--json")
    expected = [{"breed": "fox", "age": 4, "smiling": True, "traits": ["hat"]}]
    assert result.json["conditions"] == expected and result.err == ""
    assert result.json["mean_squared_error"][0] < 1e-5
    result = cvae("reconstruct", "face.png", "-m", faces.folder, *flags(*ALL[1:]), "--json")
    assert result.json["conditions"] == expected and result.err == "face.png: best fit: breed fox\n"


def test_interpolate_from_an_image_keeps_its_code_while_a_number_changes(cvae, faces):
    code = save_face(faces)
    start = ["--from", "face.png", *flags("age=4")]
    assert cvae("interpolate", faces.folder, *start, "--to", "age=9", "--steps", 2).code == 0
    expected = [faces.decode(code, breed=2, age=age, smiling=1, traits=(1, 0))[0, 0] * 255 for age in (4, 9)]
    assert np.abs(read_grid("interpolation.png", 2, 1) - np.stack(expected)).max() < 2.5
    assert np.abs(expected[0] - expected[1]).max() > 5


ERRORS = {
    "unknown name": ("generate {m} --condition agee=1", ["no condition 'agee'", "did you mean 'age'"]),
    "no value": ("generate {m} --condition age", ["'age'", "NAME=VALUE", "breed=VALUE"]),
    "out of range": ("generate {m} --condition age=11", ["'11'", "0..10", "--extrapolate"]),
    "not a number": ("generate {m} --condition age=old", ["'old'"]),
    "unknown value": ("generate {m} --condition breed=foxx", ["'foxx'", "did you mean 'fox'"]),
    "unknown attribute": ("generate {m} --condition traits=hut", ["'hut'", "did you mean 'hat'"]),
    "not yes or no": ("generate {m} --condition smiling=perhaps", ["'perhaps'", "yes or no"]),
    "contradiction": ("generate {m} --label cat --condition breed=dog", ["--label", "contradict"]),
    "model without conditions": ("generate mnist-resnet-flow --condition age=1", ["'age'", "without conditions"]),
    "bulk": ("generate {m} --condition age=11 --out x.npy", ["0..10"]),
    "bulk to folder": ("generate {m} --condition agee=1 --out x", ["did you mean 'age'"]),
    "several values": ("interpolate {m} --condition age=1,2", ["2 values of age"]),
    "value at the start is missing": ("interpolate {m} --to age=8", ["age", "at the start", "--condition age=VALUE"]),
    "two ends": ("interpolate {m} --to 1 --to 2", ["--to '1'", "--to '2'", "--via"]),
    "end out of range": ("interpolate {m} --condition age=1 --to age=80", ["0..10"]),
    "nothing to change": ("restyle a.png -m {m}", ["breed, age, smiling, traits"]),
    "known value of no form": ("restyle a.png -m {m} --known age --condition age=2", ["--known 'age'", "NAME=VALUE"]),
    "known value contradicts": (
        "restyle a.png -m {m} --label cat --known breed=dog --condition age=2", ["--label and --known breed"],
    ),
    "known values for other images": ("restyle a.png -m {m} --known age=1,2 --condition age=2", ["2 values of age"]),
    "values for other images": ("reconstruct a.png -m {m} --condition age=1,2", ["2 values of age for 1 image"]),
    "grid": ("plot grid {m}", ["4 latent dimensions", "--condition breed=A,B"]),
}  # fmt: skip


@pytest.mark.parametrize(("command", "words"), ERRORS.values(), ids=ERRORS)
def test_invalid_conditions_are_reported_in_one_line(cvae, faces, command, words):
    Image.new("L", (8, 8), 100).save("a.png")
    result = cvae(*command.format(m=faces.folder).split())
    assert result.code == 2 and result.err.startswith("cvae: error: ") and result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_extrapolate_accepts_numbers_beyond_the_range(cvae, faces, noise):
    assert cvae("generate", faces.folder, *flags("age=12"), "--extrapolate", "--seed", 1).code == 0
    assert equal_rounded(read_grid("generated.png", 1, 1), faces.decode(noise(1, 1), age=12))


def test_functions_take_conditions_as_values_or_text(faces, noise, in_tmp):
    model = package.load(faces.folder)
    values = {"age": [2, None], "smiling": True, "traits": (False, True)}
    images = package.generate(model, conditions=values, seed=1)
    texts = package.generate(model, conditions=["age=2,any", "smiling=yes", "traits=beard"], seed=1)
    codes = noise(2, 1)
    expected = [faces.decode(codes[i : i + 1], age=age, smiling=1, traits=(0, 1)) for i, age in enumerate((2, None))]
    assert np.array_equal(images, texts) and np.abs(images - np.concatenate(expected)).max() < 1e-6
    path = package.interpolate(model, conditions={"age": 2}, to_conditions={"age": 8}, steps=3)
    assert np.abs(path[1:2] - faces.decode(noise(1, 0), age=5)).max() < 1e-6
    with pytest.raises(UsageError, match=r"0\.\.10"):
        package.restyle(images, model, conditions={"age": 20})


def test_single_category_with_another_name_is_the_label(tmp_path, in_tmp, cvae):
    affine = AffineModel(tmp_path / "pets", (BREED,))
    codes = package.load(affine.folder).noise(2, 1)
    report = cvae("generate", affine.folder, "--label", "dog,any", "--seed", 1, "--json").json
    assert (report["images"], report["labels"]) == (2, None)
    expected = [affine.decode(codes[:1], breed=1), affine.decode(codes[1:])]
    assert equal_rounded(read_grid("generated.png", 2, 1), np.concatenate(expected))
    assert cvae("generate", affine.folder, "--label", "any", "--out", "x").code == 0
    assert [path.parent.name for path in Path("x").rglob("*.png")] == ["unknown"]


def test_info_lists_conditions_with_kinds_ranges_and_units(cvae, faces):
    report = cvae("info", faces.folder / "decoder.onnx", "--json").json
    assert report["conditions"][1] == AGE.to_json() and report["conditions"][2] == SMILING.to_json()
    text = cvae("info", faces.folder).out
    assert (
        "breed: category of 3 (cat, dog, fox), or unknown; age: number 0..10 years, or unknown; smiling: attr" in text
    )


def test_plot_grid_shows_two_conditions_in_one_style(faces, in_tmp, monkeypatch):
    calls = []
    monkeypatch.setattr("cvae.plots.grid.image_grid", lambda *arguments: calls.append(arguments) or Figure())
    figure = package.plot.grid(faces.folder, conditions={"age": [2, 8], "smiling": [False, True]}, seed=3)
    images, rows, columns, _ = calls[0]
    code = package.load(faces.folder).noise(1, 3)
    expected = [faces.decode(code, age=age, smiling=smiling) for age in (2, 8) for smiling in (0, 1)]
    assert np.abs(images - np.concatenate(expected)).max() < 1e-6
    assert (rows, columns) == (["age 2 years", "age 8 years"], ["smiling no", "smiling yes"])
    assert package.plot.describe(figure)["rows"] == rows
