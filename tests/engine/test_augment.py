"""Augmentation of training images."""

import math
from dataclasses import replace

import pytest
import torch

from cvae.config import TrainConfig
from cvae.engine.augment import augment, binarize
from cvae.engine.randomness import FULL_BATCH, Shard, reseed

PLAIN = TrainConfig()
IMAGES = torch.randint(0, 256, (400, 3, 6, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
CPU = torch.device("cpu")


def seed_and_augment(
    config: TrainConfig, images: torch.Tensor = IMAGES, shard: Shard = FULL_BATCH, seed: int = 0
) -> torch.Tensor:
    reseed(CPU, seed)
    augmented = augment(images, config, shard)
    return binarize(augmented, len(augmented) // len(images), shard) if config.binarize == "dynamic" else augmented


def test_images_without_augmentation_are_only_scaled_to_unit_range():
    assert torch.equal(seed_and_augment(PLAIN), IMAGES.float() / 255)


def test_flip_mirrors_half_of_the_images():
    plain = IMAGES.float() / 255
    images = seed_and_augment(replace(PLAIN, flip=True))
    mirrored = (images == plain.flip(3)).flatten(1).all(1)
    assert ((images == plain).flatten(1).all(1) ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_shift_moves_the_image_and_repeats_its_edge():
    images = seed_and_augment(replace(PLAIN, shift=2))
    padded = torch.nn.functional.pad(IMAGES.float() / 255, (2, 2, 2, 2), mode="replicate")
    windows = torch.stack([padded[:, :, y : y + 6, x : x + 9] for y in range(5) for x in range(5)])  # (25, N, ...)
    matches = (windows == images).flatten(2).all(2)  # (25, N)
    assert matches.any(0).all()
    assert matches.float().mean(1).min() > 0.01  # each of the 25 shifts occurs


def test_crop_enlarges_a_part_of_the_image():
    height, width = 12, 10
    ramp = torch.arange(width, dtype=torch.uint8).mul(25).expand(300, 1, height, width).contiguous()
    images = seed_and_augment(replace(PLAIN, crop=0.5), ramp)
    slope = (images[:, 0, 0, -2] - images[:, 0, 0, 1]) / (width - 3) * 255 / 25  # original pixels per output pixel
    inner = images[:, 0, 0, 1:-1] * 255
    assert torch.allclose(inner.diff(dim=1), slope[:, None] * 25, atol=1e-2)  # the crop is a ramp too
    assert 0.49 < slope.min() < 0.55 and 0.95 < slope.max() < 1.01
    assert images.min() >= 0 and images.max() <= 1


def blob_positions(config: TrainConfig) -> torch.Tensor:
    """Return the positions (x, y) to which augmentation moves a blob at (6, 0), in pixels from the image centre."""
    height, width = 25, 31
    y, x = (torch.arange(side) - (side - 1) / 2 for side in (height, width))
    blob = torch.exp(-((x - 6).square() + y[:, None].square()) / 8).mul(255).round().to(torch.uint8)
    images = seed_and_augment(config, blob.expand(400, 1, height, width))[:, 0]
    return torch.stack([(images * x).sum((1, 2)), (images * y[:, None]).sum((1, 2))], 1) / images.sum((1, 2))[:, None]


def test_rotation_turns_the_image_about_its_centre():
    x, y = blob_positions(replace(PLAIN, rotate=60)).unbind(1)
    assert torch.allclose(torch.hypot(x, y), torch.tensor(6.0), atol=0.05)
    angle = torch.atan2(y, x).mul(180 / math.pi)
    assert -60 <= angle.min() < -55 and 55 < angle.max() <= 60
    assert angle.std().item() == pytest.approx(60 / 3**0.5, abs=3)


def test_zoom_scales_the_image_about_its_centre():
    x, y = blob_positions(replace(PLAIN, zoom=0.2)).unbind(1)
    assert 4.75 < x.min() < 4.9 and 7.1 < x.max() < 7.25
    assert y.abs().max() < 0.01


@pytest.mark.parametrize(
    ("random", "expected"),
    [
        ([1, 0.5, 0.5, 0.5, 0.5], [[96, 100, 120], [48, 50, 60]]),  # brightness of red
        ([0.5, 0.5, 0.5, 1, 0.5], [[81, 105, 129], [33, 45, 57]]),  # contrast: the mean of all values, 75, stays
        ([0.5, 0.5, 0.5, 0.5, 1], [[76, 100, 124], [38, 50, 62]]),  # saturation: the mean of each pixel stays
        ([0.5, 1, 0.5], [[54], [126]]),  # contrast of a grey image
        ([1, 0.5, 0.5], [[72], [144]]),  # brightness of a grey image
        ([0.5, 0.5, 1], [[60], [120]]),  # a grey image has no saturation
    ],
)
def test_jitter_multiplies_by_factors_up_to_its_size(monkeypatch, random, expected):
    monkeypatch.setattr(Shard, "draw", lambda *_, device: torch.tensor(random).view(1, -1, 1, 1))
    pixels = [[80, 100, 120], [40, 50, 60]] if len(expected[0]) == 3 else [[60], [120]]
    image = torch.tensor(pixels, dtype=torch.uint8).T[None, :, None]  # (1, C, 1, 2)
    changed = augment(image, replace(PLAIN, jitter=0.2), FULL_BATCH)[0, :, 0].T * 255
    torch.testing.assert_close(changed, torch.tensor(expected).float(), atol=1e-3, rtol=0)


def test_jitter_draws_brightness_and_contrast_uniformly():
    """A pixel of a uniform image keeps its hue up to the factors of the channels; contrast does not change it."""
    colour = torch.tensor([80, 100, 120], dtype=torch.uint8).view(1, 3, 1, 1)
    images = seed_and_augment(replace(PLAIN, jitter=0.2), colour.expand(2000, 3, 4, 4))
    mean = images.mean((1, 2, 3)) * 255
    assert mean.mean().item() == pytest.approx(100, abs=1)
    assert mean.std().item() == pytest.approx(0.2 / 3**0.5 * (80**2 + 100**2 + 120**2) ** 0.5 / 3, rel=0.1)
    halves = torch.tensor([60, 120], dtype=torch.uint8).repeat_interleave(2).view(1, 1, 1, 4)
    images = seed_and_augment(replace(PLAIN, jitter=0.2), halves.expand(2000, 3, 4, 4))
    grey = images.mean(1)  # (N, H, W): saturation does not change it
    ratio = (grey[:, 0, 3] - grey[:, 0, 0]) / grey.mean((1, 2)) / (60 / 90)  # brightness does not change it
    assert 0.8 <= ratio.min() < 0.81 and 1.19 < ratio.max() <= 1.2 + 1e-4
    assert torch.allclose(grey.mean((1, 2)), grey[:, 0, [0, 3]].mean(1))


def test_consistency_pairs_each_image_with_its_augmented_copy():
    config = replace(PLAIN, flip=True, shift=1, crop=0.9, rotate=10, zoom=0.1, jitter=0.2)
    pairs = seed_and_augment(replace(config, consistency=0.0))
    assert torch.equal(pairs[0::2], seed_and_augment(PLAIN))
    assert torch.equal(pairs[1::2], seed_and_augment(config))


def test_images_of_a_pair_are_binarized_independently():
    pairs = seed_and_augment(replace(PLAIN, binarize="dynamic", consistency=0.1))
    first, second = pairs[0::2], pairs[1::2]
    probability = IMAGES.float() / 255
    agreement = (first == second).float().mean().item()
    assert agreement == pytest.approx((probability**2 + (1 - probability) ** 2).mean().item(), abs=0.01)


def test_dynamic_binarization_uses_grey_levels_as_probabilities():
    grey = torch.full((1, 1, 200, 200), 64, dtype=torch.uint8)
    dynamic = replace(PLAIN, binarize="dynamic")
    first, second = seed_and_augment(dynamic, grey), seed_and_augment(dynamic, grey, seed=1)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean().item() == pytest.approx(64 / 255, abs=0.01)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("count", [2, 4])
def test_shards_are_augmented_like_the_full_batch(count):
    config = replace(PLAIN, flip=True, shift=1, crop=0.7, rotate=10, zoom=0.1, jitter=0.2)
    config = replace(config, consistency=0.1, binarize="dynamic")
    full = seed_and_augment(config).unflatten(0, (-1, 2))
    for index in range(count):
        images = seed_and_augment(config, IMAGES[index::count], Shard(index, count))
        assert torch.equal(images, full[index::count].flatten(0, 1))
