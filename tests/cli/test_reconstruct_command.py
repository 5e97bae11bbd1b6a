"""`cvae reconstruct` and `cvae restyle`: the images that they write, compared with torch."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import DIGITS, read_grid, read_images, run_torch, same_images
from PIL import Image

import cvae as package


def test_restyle_keeps_the_latent_code_and_changes_the_label(cvae, trained, image_files):
    run, (a, b) = trained["labels"], image_files
    report = cvae("restyle", a, b, "--model", run, "--digit", 4, "--to", 7, "--to", 9, "--json").json
    assert (report["labels"], report["to"]) == (["4", "4"], ["7", "9"])
    means = run_torch(run, "encode", read_images(image_files), [4, 4])
    restyled = [run_torch(run, "decode", means, [label, label]) for label in (7, 9)]
    assert same_images(read_grid("restyled.png", 2, 3), np.concatenate([read_images(image_files), *restyled]))


def test_restyle_infers_a_missing_label_and_writes_every_class(cvae, trained, image_files):
    run, (a, _) = trained["labels"], image_files
    result = cvae("restyle", a, "--model", run)
    assert result.code == 0 and f"{a}: no label given" in result.err
    actual = read_grid("restyled.png", 11, 1)  # a single image and its restyled copies share a row
    best = cvae("reconstruct", a, "--model", run, "--json").json["labels"]
    means = run_torch(run, "encode", read_images(image_files)[:1], [int(best[0])])
    assert same_images(actual[1:], run_torch(run, "decode", np.repeat(means, 10, axis=0), DIGITS))


@pytest.mark.parametrize(("model", "flags", "labels"), [("plain", [], None), ("labels", ["--digit", "4"], [4, 4])])
def test_reconstruct_writes_originals_above_reconstructions_that_match_torch(
    cvae, trained, image_files, model, flags, labels
):
    report = cvae("reconstruct", *image_files, "--model", trained[model], *flags, "--json").json
    images = read_images(image_files)
    reconstructions = run_torch(trained[model], "decode", run_torch(trained[model], "encode", images, labels), labels)
    assert same_images(read_grid("reconstruction.png", 2, 2), np.concatenate([images, reconstructions]))
    assert report["labels"] == (labels and ["4", "4"])
    assert report["mean_squared_error"] == pytest.approx(
        ((reconstructions - images) ** 2).mean(axis=(1, 2, 3)), abs=2e-6
    )


def test_reconstruct_without_label_uses_and_reports_the_best_label(cvae, trained, image_files):
    result = cvae("reconstruct", *image_files, "-m", trained["labels"], "--json")
    images, model = read_images(image_files), package.load(trained["labels"])
    nats = []
    for k in DIGITS:
        latent = run_torch(trained["labels"], "encode", images, [k, k])
        reconstructions = run_torch(trained["labels"], "decode", latent, [k, k])
        mean, std = model.encode(images, k)
        rate = 0.5 * (mean**2 + std**2 - 1) - np.log(std)
        nats.append(((reconstructions - images) ** 2).sum(axis=(1, 2, 3)) / (2 * model.spec.sigma**2) + rate.sum(1))
    best = [str(k) for k in np.argmin(nats, axis=0)]
    assert result.json["labels"] == best
    (line,) = [line for line in result.err.splitlines() if "no label given" in line]
    assert all(f"'{label}'" in line for label in best)


@pytest.mark.parametrize(
    "command",
    ["reconstruct none.png", "restyle none.png", "interpolate --from none.png", "plot traverse --image none.png"],
)
def test_missing_image_is_reported_before_any_problem_with_the_model(cvae, command):
    run = Path("runs/unfinished")
    run.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (run / name).touch()
    assert cvae(*command.split()).err == "cvae: error: can't read 'none.png' as an image: No such file or directory\n"


@pytest.mark.parametrize(
    "command",
    [
        "reconstruct {image} -m {model}",
        "restyle {image} --digit 4 -m {model}",
        "interpolate {model} --from {image} --digit 4",
        "plot traverse {model} --image {image} --label 4",
    ],
)
def test_command_reports_image_that_it_converts(cvae, trained, image_files, command):
    Image.new("L", (20, 30), 100).save("large.png")
    Image.new("RGB", (8, 8), "red").save("red.png")
    for name, words in {
        "large.png": "20x30 pixels",
        "red.png": "8x8 pixels in colour",
        str(image_files[0]): None,
    }.items():
        result = cvae(*command.format(image=name, model=trained["labels"]).split())
        assert result.code == 0
        message = f"'{name}' has {words}, but the model takes 8x8 in grey; the image is converted to fit"
        assert (message in result.err) if words else "converted to fit" not in result.err


def test_many_images_are_arranged_in_blocks_with_one_message_about_their_labels(cvae, trained, in_tmp):
    paths = [f"{i}.png" for i in range(25)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(path)
    result = cvae("reconstruct", *paths, "-m", trained["labels"], "--json")
    assert result.err.count("\n") == 1 and result.err.startswith("no label given; best fit: ")
    images = read_images([Path(path) for path in paths])
    reconstructions = package.load(trained["labels"]).reconstruct(images, result.json["labels"])
    with Image.open("reconstruction.png") as file:
        pixels = np.asarray(file.convert("L"))[:: file.width // 80, :: file.width // 80].astype(int)
    assert pixels.shape == (3 * 17 + 2 * 4, 9 * 9 - 1)  # three blocks of originals above reconstructions
    for block in range(3):
        for row, expected in enumerate((images, reconstructions)):
            top = 21 * block + 9 * row
            cells = np.pad(pixels[top : top + 8], ((0, 0), (0, 1))).reshape(8, 9, 9).transpose(1, 0, 2)[:, :, :8]
            in_block = expected[9 * block : 9 * block + 9]
            assert same_images(cells[: len(in_block)], np.asarray(in_block)) and (cells[len(in_block) :] == 128).all()


def test_images_can_have_different_labels(cvae, trained, image_files):
    run = trained["labels"]
    for flags in (["--label", "4,7"], ["--label", 4, "--label", 7], ["--digit", "4,7"], ["--label-index", "4,7"]):
        assert cvae("reconstruct", *image_files, "-m", run, *flags, "--json").json["labels"] == ["4", "7"]
    report = cvae("restyle", *image_files, "-m", run, "--label", "4,7", "--to", "0-2", "--json").json
    assert report["labels"] == ["4", "7"] and report["to"] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["runs/mine", "mine", "mnist-ladder", "runs/mine/decoder.onnx"])
@pytest.mark.parametrize("command", ["reconstruct", "restyle"])
def test_error_for_model_in_place_of_an_image_suggests_the_model_option(
    assert_fails, trained, image_files, name, command
):
    shutil.copytree(trained["labels"], "runs/mine")
    assert_fails(2, [f"'{name}' is a model, not an image", f"-m {name}"], command, name, *image_files)
