"""Images that a model returns."""

import base64
import io
import pickle

import numpy as np
import pytest
from PIL import Image

import cvae
from cvae.errors import UsageError


def test_images_are_arrays_that_can_be_saved_and_displayed(tmp_path):
    images = cvae.load().generate(3, 7, seed=0)
    pixels = np.rint(np.asarray(images) * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(images[1].to_pil()), pixels[1, 0])
    assert images.to_pil().size == (2 * 28 + 1, 2 * 28 + 1)  # a grid of two by two
    images[0].save(tmp_path / "seven.png", scale=1)
    header, _, data = images[0].data_url(scale=1).partition(",")
    assert header == "data:image/png;base64"
    for file in (tmp_path / "seven.png", io.BytesIO(base64.b64decode(data)), io.BytesIO(images[0].to_png(1))):
        with Image.open(file) as image:
            assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels[0, 0])
    assert isinstance(images.mean(), np.floating) and type(np.asarray(images)) is np.ndarray
    assert type(images * 2) is type(images.mean(axis=0)) is np.ndarray and images[:, 0, 0]._repr_png_() is None
    with pytest.raises(UsageError, match="not an image"):
        images[0, 0].to_pil()


def test_saved_and_displayed_images_are_enlarged_as_on_the_command_line(tmp_path):
    images = cvae.load().generate(2, label=7, seed=0)
    for scale, size in ((None, (285, 140)), (1, (57, 28)), (3, (171, 84))):
        images.save(tmp_path / "x.png", scale=scale)
        with Image.open(tmp_path / "x.png") as image:
            assert image.size == size
        with Image.open(io.BytesIO(images.to_png(scale))) as image:
            assert image.size == size
    assert images._repr_png_() == images.to_png()
    for scale in (0, 1.5, True, 10**9):
        with pytest.raises(UsageError, match=f"scale is {scale}"):
            images.save(tmp_path / "y.png", scale=scale)
    assert not (tmp_path / "y.png").exists()


def test_rows_of_images_are_displayed_without_empty_cells():
    model = cvae.load()
    for images, columns, rows in (
        (model.interpolate(0, 1, steps=5, label=7), 5, 1),
        (model.interpolate(0, 1, steps=5, label=(7, 1)), 5, 1),
        (cvae.interpolate(model, steps=3), 3, 10),
        (cvae.generate(model, label=[3, 4], n=5), 5, 2),
        (cvae.restyle(model.generate(label=7, seed=0), model, label=7), 10, 1),
    ):
        assert images.to_pil().size == (29 * columns - 1, 29 * rows - 1)
        assert images[:1].to_pil().size == (28, 28)
        assert pickle.loads(pickle.dumps(images)).columns == columns


def test_slices_and_pickles_keep_labels_and_seed():
    images = cvae.load().generate(label=[3, 4, 5], seed=6)
    assert images[1:].labels == ["4", "5"] and images[-1].labels == ["5"] and images[1:].seed == 6
    assert images[[2, 0]].labels == ["5", "3"] and images[images.mean((1, 2, 3)) >= 0].labels == ["3", "4", "5"]
    assert images[::2, :, ::-1].labels == ["3", "5"] and images[0, 0].labels is None and (images / 2).ndim == 4
    assert [image.labels for image in images] == [["3"], ["4"], ["5"]]
    copy = pickle.loads(pickle.dumps(images))
    assert np.array_equal(copy, images) and (copy.labels, copy.seed) == (["3", "4", "5"], 6)
