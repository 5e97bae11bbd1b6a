"""Augmentation of training images."""

from dataclasses import replace

import pytest
import torch

from cvae.config import TrainConfig
from cvae.engine.augment import augment
from cvae.engine.randomness import WHOLE, Shard, reseed

PLAIN = TrainConfig()
IMAGES = torch.randint(0, 256, (400, 3, 6, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
CPU = torch.device("cpu")


def seed_and_augment(
    config: TrainConfig, images: torch.Tensor = IMAGES, shard: Shard = WHOLE, seed: int = 0
) -> torch.Tensor:
    reseed(CPU, seed)
    return augment(images, config, shard)


def test_without_augmentation_images_are_scaled_to_0_to_1():
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


def test_dynamic_binarization_uses_grey_levels_as_probabilities():
    grey = torch.full((1, 1, 200, 200), 64, dtype=torch.uint8)
    dynamic = replace(PLAIN, binarize="dynamic")
    first, second = seed_and_augment(dynamic, grey), seed_and_augment(dynamic, grey, seed=1)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean().item() == pytest.approx(64 / 255, abs=0.01)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("count", [2, 4])
def test_parts_of_a_batch_are_augmented_like_the_full_batch(count):
    config = replace(PLAIN, flip=True, shift=1, crop=0.7, binarize="dynamic")
    full = seed_and_augment(config)
    for index in range(count):
        part = seed_and_augment(config, IMAGES[index::count], Shard(index, count))
        assert torch.equal(part, full[index::count])
