"""Conversion of arrays to images: bytes, grids and enlargement."""

import re

import numpy as np
import pytest
from PIL import Image

from cvae import imaging
from cvae.errors import UsageError


def test_to_uint8_rounds_and_clips():
    exact = np.arange(256) / 255
    assert imaging.to_uint8(exact).tolist() == list(range(256))
    assert imaging.to_uint8(exact[1:] - 0.4 / 255).tolist() == list(range(1, 256))
    assert imaging.to_uint8(np.float32([-1, 2])).tolist() == [0, 255]


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (4, 8, 8), (8, 8, 3), (1, 1, 8, 8)], ids=str)
def test_to_pil_rejects_unsupported_shapes(shape):
    with pytest.raises(UsageError, match=re.escape(str(shape))):
        imaging.to_pil(np.zeros(shape))


@pytest.mark.parametrize("side", [8, 28, 56])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("count", "columns", "grid_columns", "grid_rows"), [(6, 3, 3, 2), (10, None, 4, 3), (1, 5, 1, 1)]
)
def test_grid_shows_each_image_in_its_cell(count, columns, grid_columns, grid_rows, channels, side):
    images = np.random.default_rng(0).random((count, channels, side, side))
    grid = imaging.grid(images, columns)
    width, height = grid.size
    gap = (width - grid_columns * side) // max(1, grid_columns - 1)
    assert (width, height) == (grid_columns * (side + gap) - gap, grid_rows * (side + gap) - gap)
    assert grid_columns == 1 or 1 <= gap <= side / 8
    for i, image in enumerate(images):
        left, top = i % grid_columns * (side + gap), i // grid_columns * (side + gap)
        panel = np.asarray(grid.crop((left, top, left + side, top + side)))
        assert np.abs(panel.reshape(side, side, channels) - image.transpose(1, 2, 0) * 255).max() <= 0.5001


@pytest.mark.parametrize(
    ("size", "factor"),
    [((8, 8), 35), ((26, 8), 12), ((279, 3), 4), ((280, 280), 1), ((300, 20), 4), ((318, 28), 4), ((2000, 20), 1)],
)
def test_small_images_and_thin_strips_are_enlarged_by_an_integer_factor(size, factor, monkeypatch):
    monkeypatch.setattr("cvae.imaging.grids.RESAMPLING", Image.Resampling.NEAREST)
    pixels = np.random.default_rng(0).integers(0, 255, size[::-1], dtype=np.uint8)
    large = np.asarray(imaging.enlarge(Image.fromarray(pixels)))
    assert np.array_equal(large, np.kron(pixels, np.ones((factor, factor), np.uint8)))
