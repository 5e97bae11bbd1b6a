"""Functions that generate and change images, compared with the model's methods and with the commands."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cvae as package
from cvae.errors import UsageError


@pytest.fixture(scope="module")
def model() -> package.Model:
    return package.load()


def test_generate_returns_images_with_labels_and_seed(model, in_tmp):
    messages: list[str] = []
    images = package.generate(label="7,3", n=2, seed=5, note=messages.append)
    assert (images.labels, images.seed, images.shape) == (["7", "7", "3", "3"], 5, (4, 1, 28, 28))
    assert np.array_equal(images, model.generate(label=[7, 7, 3, 3], seed=5))
    assert messages == ["zoo model: mnist-resnet-conditional"] and not list(in_tmp.iterdir())
    assert package.generate(model, seed=1).labels == list("0123456789")  # a loaded model works, too
    assert package.generate(model, digit=7, label_index=7).labels == ["7"]
    assert package.generate("mnist-resnet-flow", n=3).labels is None
    with pytest.raises(UsageError, match=r"model '7'; to choose a class, pass label='7' \(--label 7\)$"):
        package.generate("7")


@pytest.mark.parametrize("out", ["x.png", "x.npy", "x"])
def test_functions_write_the_same_files_as_the_commands(model, in_tmp, cvae, out):
    paths = package.generate(model, digit=[3, 4], n=2, seed=5, out=out)
    assert cvae("generate", "--digit", "3,4", "-n", 2, "--seed", 5, "--out", f"command/{out}").code == 0
    assert paths == ([Path("x.npy"), Path("x-labels.npy")] if out == "x.npy" else [Path(out)])
    files = list(Path("command").rglob("*.[np][pn][gy]"))
    assert len(files) == {"x.png": 1, "x.npy": 2, "x": 4}[out]
    for path in files:
        assert path.read_bytes() == path.relative_to("command").read_bytes()


def test_reconstruct_and_restyle_accept_arrays_lists_and_files(model, in_tmp, cvae):
    images = model.generate(label=[7, 1], seed=2)
    messages: list[str] = []
    reconstructions = package.reconstruct(images, model, note=messages.append)
    expected = model.reconstruct(images)
    assert np.array_equal(reconstructions, expected) and reconstructions.labels == expected.labels
    assert len(messages) == 1 and messages[0].startswith("no label given; best fit: '") and "for 1 image" in messages[0]
    restyled = package.restyle(list(images), model, label=[7, 1], to="3,5")
    assert restyled.labels == ["3", "3", "5", "5"]
    assert np.array_equal(restyled[2:], model.restyle(images, [7, 1], to=5))
    images[0].save("seven.png", scale=1)
    assert package.reconstruct("seven.png", model, out="python.png") == [Path("python.png")]
    assert cvae("reconstruct", "seven.png", "--out", "command.png").code == 0
    with Image.open("python.png") as image, Image.open("command.png") as other:
        assert np.array_equal(image, other)
    with Image.open("seven.png") as image:
        assert np.array_equal(package.reconstruct(image, model), package.reconstruct("seven.png", model))


def test_interpolate_returns_images_row_by_row_and_writes_animations(model, in_tmp):
    rows = package.interpolate(model, steps=3)
    assert rows.shape == (30, 1, 28, 28) and rows.labels == [name for name in "0123456789" for _ in range(3)]
    assert np.array_equal(rows[21:24], model.interpolate(0, 1, 3, label=7))
    images = model.generate(label=[7, 1], seed=2)
    path = package.interpolate(model, start=images[0], via=[5], end=images[1], label=7, to_label="1", steps=2)
    assert len(path) == 3 and path.labels is None
    assert np.array_equal(path[:2], model.interpolate(images[0], 5, 2, label=7))
    assert package.interpolate(model, label=7, steps=3, scale=2, out="x.gif") == [Path("x.gif")]
    with Image.open("x.gif") as gif:
        assert gif.n_frames == 4 and gif.size == (56, 56)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: package.interpolate(label="3,4"), "--label '3,4': 2 classes, but only one is allowed"),
        (lambda: package.interpolate(to_label=["3", "4"]), "--to-label '3,4': 2 classes"),
        (lambda: package.reconstruct(np.zeros((3, 28, 28)), label="3,4"), "2 classes for 3 images"),
        (lambda: package.reconstruct(np.zeros((3, 27, 28))), r"shape is \(3, 27, 28\), but .*\(N, 1, 28, 28\)"),
        (lambda: package.generate(label=7, grid=True), "--grid"),
        (lambda: package.generate(digit=7, model="mnist-resnet-flow"), r"--digit 7; .*-m mnist-resnet-conditional"),
        (lambda: package.restyle(np.zeros((28, 28)), "mnist-resnet-flow"), "without labels"),
    ],
)
def test_invalid_arguments_are_rejected(in_tmp, call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_generate_rejects_default_that_takes_too_much_memory(model, monkeypatch):
    monkeypatch.setattr("cvae.api.image_results.MAX_DEFAULT_BYTES", 4 * 10 * 28 * 28 - 1)
    with pytest.raises(UsageError, match=r"^10 images of shape \(1, 28, 28\) take 0 MB; choose classes with --label "):
        package.generate(model)
    assert len(package.generate(model, n=1)) == 10 and len(package.generate(model, label=7)) == 1


def test_time_limit_is_that_of_the_open_model(model):
    with pytest.raises(UsageError, match=r"cvae\.load\(\.\.\., time_limit=\.\.\.\)"):
        package.generate(model, time_limit=1)
