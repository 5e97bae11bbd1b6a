"""`cvae plot reconstructions`, `traverse` and `grid`, which draw images that a model decodes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plot_helpers import cells, equal_rounded, names, read_pixels
from sklearn.neighbors import NearestNeighbors

import cvae as package
from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.evaluation.generation import subsample
from cvae.plots import grid, traverse
from cvae.plots.codes import encode
from cvae.run import read_config

# -- reconstructions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_reconstructions_are_below_their_images(plot, trained, saved_figures, kind):
    report = plot("reconstructions", trained[kind], "-n", 5, "--columns", 3, "--json").json
    assert (report["images"], report["data"], report["split"]) == (5, "digits", "test")
    actual = cells(saved_figures[0], 4, 3)
    test = subsample(load_dataset(TrainConfig()).test, 5)
    images = test.images / np.float32(255)
    reconstructions = package.load(trained[kind]).reconstruct(images, test.labels if kind == "labels" else None)
    assert equal_rounded(actual[0], images[:3]) and equal_rounded(actual[1], reconstructions[:3])
    assert equal_rounded(actual[2, :2], images[3:]) and equal_rounded(actual[3, :2], reconstructions[3:])
    assert (actual[2:, 2] == 255).all() and names(saved_figures[0])[0] == ["image", "reconstruction"] * 2
    read_pixels("reconstructions.png")


# -- nearest -----------------------------------------------------------------------------------------------------------


def test_nearest_training_images_are_below_generated_images(plot, trained, saved_figures):
    report = plot("nearest", trained["labels"], "-n", 4, "--neighbours", 2, "--seed", 3, "--json").json
    assert (report["images"], report["data"], report["features"]) == (4, "digits", "pixels")
    actual = cells(saved_figures[0], 3, 4)
    generated = np.asarray(package.load(trained["labels"]).generate(4, seed=3))
    train = load_dataset(read_config(trained["labels"]).training).train.images
    indices = (
        NearestNeighbors(n_neighbors=2)
        .fit(train.reshape(len(train), -1) / 255)
        .kneighbors(generated.reshape(4, -1), return_distance=False)
    )
    assert equal_rounded(actual[0], generated)
    for row, index in zip(actual[1:], indices.T, strict=True):
        assert equal_rounded(row, train[index] / np.float32(255))
    assert names(saved_figures[0])[0] == ["generated", "nearest 1", "nearest 2"]
    read_pixels("nearest.png")


def test_nearest_rejects_more_neighbours_than_training_images(assert_fails, trained):
    np.savez("few.npz", train=np.zeros((2, 8, 8), np.uint8))
    command = ["nearest", trained["plain"], "--data", "npz:few.npz", "--neighbours", 3]
    assert_fails(2, ["--neighbours is 3", "1 training images"], *command)


# -- traverse ----------------------------------------------------------------------------------------------------------


def test_traversal_varies_one_dimension_at_a_time():
    code = np.arange(4, dtype=np.float32)
    codes = traverse.traversal_codes(code, np.array([2, 0]), np.array([-1, 0, 5], np.float32)).reshape(2, 3, 4)
    assert codes[0].tolist() == [[0, 1, -1, 3], [0, 1, 0, 3], [0, 1, 5, 3]]
    assert codes[1].tolist() == [[-1, 1, 2, 3], [0, 1, 2, 3], [5, 1, 2, 3]]
    assert traverse.top_dimensions(np.array([0.5, 2, 0.1, 3]), 3).tolist() == [3, 1, 0]


def save_image() -> np.ndarray:
    """Write image.png, and return its pixels (1, 1, 8, 8) in [0, 1]."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")
    return pixels[None, None] / np.float32(255)


@pytest.mark.parametrize("start", [[], ["--seed", "3"], ["--image", "image.png"]], ids=str)
@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_traversal_rows_vary_the_dimensions_with_the_highest_kl(plot, trained, saved_figures, kind, start):
    model, image = package.load(trained[kind]), save_image()
    label = 4 if kind == "labels" else None
    flags = ["--digit", 4] if kind == "labels" else []
    report = plot("traverse", trained[kind], *start, *flags, "--dimensions", 3, "--steps", 5, "--json").json
    code = {"--seed": model.noise(1, 3), "--image": model.encode(image, label)[0]}.get(
        start[0] if start else "", np.zeros((1, 8), np.float32)
    )
    kl = encode(model, TrainConfig(data="digits")).kl()
    order = sorted(range(8), key=lambda d: -kl[d])[:3]
    assert report["dimensions"] == order and np.allclose(report["kl"], kl[order])
    assert report["values"] == [-3, -1.5, 0, 1.5, 3] and report["images"] == 359
    assert report["label"] == (None if label is None else "4")
    codes = np.repeat(code, 15, axis=0)
    for row, dimension in enumerate(order):
        codes[5 * row : 5 * row + 5, dimension] = report["values"]
    assert equal_rounded(cells(saved_figures[0], 3, 5), model.decode(codes, label))
    rows, columns = names(saved_figures[0])
    assert rows == [f"z{d}  {kl[d]:.2f} nats" for d in order] and columns == ["-3", "-1.5", "0", "+1.5", "+3"]
    pixels = read_pixels("traverse.png")
    assert pixels.shape[1] > pixels.shape[0] > 250


def test_traverse_without_label_reports_the_class_it_uses(plot, trained):
    result = plot("traverse", trained["labels"], "--json")
    assert result.json["label"] == "0" and "'0', the first class" in result.err and len(result.json["dimensions"]) == 8
    save_image()
    result = plot("traverse", trained["labels"], "--image", "image.png", "--json")
    assert f"'{result.json['label']}' fits it best" in result.err


# -- grid --------------------------------------------------------------------------------------------------------------


def test_images_in_a_grid_column_are_decoded_from_the_same_noise(plot, trained, saved_figures):
    report = plot("grid", trained["labels"], "--seed", 4, "--columns", 3, "--json").json
    assert report["seed"] == 4 and report["classes"] == list("0123456789")
    model = package.load(trained["labels"])
    noise = model.noise(3, 4)
    images = np.concatenate([model.decode(noise, label) for label in range(10)])
    assert equal_rounded(cells(saved_figures[0], 10, 3), images) and names(saved_figures[0])[0] == list("0123456789")
    read_pixels("grid.png")


def test_grid_without_seed_reports_a_random_seed(plot, trained):
    first, second = (plot("grid", trained["labels"], "--json").json["seed"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(("kind", "flags"), [("plain", []), ("labels", ["--digit", "7"])])
def test_latent_grid_is_decoded_at_normal_quantiles(plot, latent_2d, saved_figures, kind, flags):
    from scipy.stats import norm

    plot("grid", latent_2d[kind], *flags, "--columns", 4, "--json")
    values = norm.ppf([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    codes = np.array([[x, y] for y in values for x in values], np.float32)
    images = package.load(latent_2d[kind]).decode(codes, 7 if flags else None)
    assert equal_rounded(cells(saved_figures[0], 4, 4), images)
    assert names(saved_figures[0]) == (["-1.2", "-0.3", "+0.3", "+1.2"],) * 2


def test_conditional_grid_shows_classes_instead_of_the_latent_grid(plot, latent_2d, saved_figures):
    assert plot("grid", latent_2d["labels"], "--json").json["columns"] == 10
    assert cells(saved_figures[0], 10, 10).shape == (10, 10, 8, 8)
    assert plot("grid", latent_2d["plain"], "--json").json["columns"] == 20


def test_only_some_of_many_columns_are_labelled(latent_2d):
    labels = names(grid.manifold(package.load(latent_2d["plain"]), None, 60, ""))[1]
    assert len(labels) == 60 and [bool(label) for label in labels] == [True, False, False] * 20


def test_latent_grid_rejects_seed(assert_fails, latent_2d):
    assert_fails(2, ["--seed 3"], "grid", latent_2d["plain"], "--seed", 3)


def test_plot_reports_files_that_are_not_images(plot, trained):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    Path("set").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(f"set/{i}.png")
    Path("set/notes.txt").write_text("this is not an image")
    flags = ["--data", "folder:set", "--size", 8, "--split", "train", "--json"]
    result = plot("reconstructions", trained["plain"], *flags)
    assert json.loads(result.out)["images"] > 0
    assert result.err.splitlines()[:2] == [
        "ignored files that are not readable images: 1 .txt file",
        "set: 6 training images",
    ]
