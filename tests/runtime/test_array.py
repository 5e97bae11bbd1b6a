"""Images that a model returns."""

import base64
import io

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
    images[0].save(tmp_path / "seven.png")
    header, _, data = images[0].data_url().partition(",")
    assert header == "data:image/png;base64"
    for file in (tmp_path / "seven.png", io.BytesIO(base64.b64decode(data)), io.BytesIO(images[0]._repr_png_())):
        with Image.open(file) as image:
            assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels[0, 0])
    assert isinstance(images.mean(), np.floating) and type(np.asarray(images)) is np.ndarray
    assert type(images * 2) is type(images.mean(axis=0)) is np.ndarray and images[:, 0, 0]._repr_png_() is None
    with pytest.raises(UsageError, match="not an image"):
        images[0, 0].to_pil()
