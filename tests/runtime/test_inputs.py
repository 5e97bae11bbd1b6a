"""Images of every type that the methods of a model accept."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cvae.errors import CvaeError, UsageError
from cvae.runtime.inputs import to_batch

GREY, COLOUR = (1, 4, 6), (3, 4, 6)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6), dtype=np.uint8)
FLOATS = PIXELS.astype(np.float32) / 255


def check(images: object, shape: tuple[int, int, int], expected: np.ndarray) -> None:
    batch = to_batch(images, shape)
    assert batch.dtype == np.float32 and batch.flags.c_contiguous
    assert batch.shape == expected.shape and np.allclose(batch, expected, atol=1e-7)


@pytest.mark.parametrize("values", [PIXELS, FLOATS, FLOATS.astype(np.float64)], ids=lambda values: str(values.dtype))
def test_arrays_of_any_layout_are_converted(values):
    last = values.transpose(0, 2, 3, 1)  # (N, H, W, C)
    for images, expected in ((values, FLOATS), (last, FLOATS), (values[1], FLOATS[1:]), (last[1], FLOATS[1:])):
        check(images, COLOUR, expected)
        check(torch.from_numpy(np.ascontiguousarray(images)), COLOUR, expected)
    grey, expected = values[:, :1], FLOATS[:, :1]
    for images in (grey, grey[:, 0], grey[:, 0, :, :, None], [grey[0], grey[1, 0]], list(grey)):
        check(images, GREY, expected)
    for image in (
        grey[0],
        grey[0, 0],
        grey[0, 0, :, :, None],
        grey[0].tolist() if values.dtype != np.uint8 else grey[0],
    ):
        check(image, GREY, expected[:1])


def test_channels_are_assumed_to_come_first_if_both_layouts_fit():
    cube = np.random.default_rng(1).random((3, 3, 3), dtype=np.float32)
    check(cube, (3, 3, 3), cube[None])


def test_paths_and_pillow_images_are_scaled_and_cropped_the_same_way(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path := tmp_path / "x.png")
    for shape in (GREY, COLOUR):
        messages: list[str] = []
        expected = to_batch(path, shape, note=messages.append)
        assert expected.shape == (1, *shape) and "16x9 pixels" in messages[0]
        assert np.array_equal(to_batch(str(path), shape), expected)
        with Image.open(path) as image:
            assert np.array_equal(to_batch(image, shape), expected)
        two = np.concatenate([expected, expected])
        assert np.array_equal(to_batch([path, str(path)], shape), two)
        assert np.array_equal(to_batch([path, Image.fromarray(pixels)], shape), two)
        assert np.array_equal(to_batch((expected[0], path), shape), two)


def test_large_pillow_image_of_the_caller_is_not_changed(tmp_path):
    Image.new("L", (3000, 2000), 200).save(tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as image:
        assert to_batch(image, GREY).mean() == pytest.approx(200 / 255, abs=0.01)
        assert image.size == (3000, 2000)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((5, 6)), r"shape is \(5, 6\), but should be \(N, 1, 4, 6\)"),
        (np.zeros((2, 3, 4, 6)), r"shape is \(2, 3, 4, 6\), but should be \(N, 1, 4, 6\)"),
        (np.zeros((0, 4, 6)), r"\(0, 4, 6\)"),
        ([], r"\(0,\)"),
        (3.5, r"\(\)"),
        (np.full(GREY, 255.0), "values in 0..255|values in 255..255; scale them to 0..1, or use uint8"),
        (np.full(GREY, -0.1), "values in -0.1..-0.1"),
        (np.full(GREY, np.nan), "not finite"),
        (np.full(GREY, "a"), "type <U1"),
        ([[1, 2], [3]], "can't be converted to an array"),
        (torch.zeros(GREY, requires_grad=True), "can't be converted to an array"),
    ],
    ids=str,
)
def test_unsuitable_array_is_rejected_with_a_one_line_error(images, words):
    with pytest.raises(UsageError, match=f"^images.*{words}") as caught:
        to_batch(images, GREY)
    assert "\n" not in str(caught.value)


def test_unreadable_image_is_reported(tmp_path):
    for image in (tmp_path / "none.png", Image.new("F", (6, 4))):
        with pytest.raises(CvaeError, match=re.escape(str(image) if isinstance(image, Path) else "Pillow image")):
            to_batch(image, GREY)
