"""Batches of a data set, in memory and on disk."""

import os
import threading

import numpy as np
import pytest
import torch

from cvae.conditions import label_condition
from cvae.data import DiskImages, Split
from cvae.engine.batches import Batches
from cvae.engine.randomness import FULL_BATCH, Shard
from cvae.errors import CvaeError

CONDITIONS = label_condition(tuple(map(str, range(100))))


def test_epoch_is_a_permutation_divided_among_processes_without_overlap():
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    options = {"batch_size": 20, "device": torch.device("cpu"), "conditions": CONDITIONS}
    split = Split(images=images, labels=np.arange(100))
    full = [label.tolist() for _, label in Batches(split, **options).shuffled(3, epoch=0)]
    order = [label for batch in full for label in batch]
    assert sorted(order) == list(range(100)) != order
    ranks = [
        [label.tolist() for _, label in Batches(split, **options, shard=Shard(r, 2)).shuffled(3, epoch=0)]
        for r in (0, 1)
    ]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in full]
    remaining = [label.tolist() for _, label in Batches(split, **options).shuffled(3, epoch=0, start=2)]
    assert remaining == full[2:]
    assert full != [label.tolist() for _, label in Batches(split, **options).shuffled(3, epoch=1)]


@pytest.mark.parametrize("shard", [FULL_BATCH, Shard(1, 2)], ids=str)
def test_images_on_disk_give_the_same_batches_as_images_in_memory(tmp_path, shard):
    images, labels = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), np.uint8), np.arange(50)
    np.save(tmp_path / "images.npy", images)
    options = {"batch_size": 12, "device": torch.device("cpu"), "conditions": CONDITIONS, "shard": shard}
    memory = Batches(Split(images=images, labels=labels), **options)
    file = Batches(Split(images=DiskImages.open(tmp_path / "images.npy"), labels=labels), **options)
    assert memory.resident and not file.resident
    for batches, expected in ((file.shuffled(1, 2, 1), memory.shuffled(1, 2, 1)), (file.in_order(), memory.in_order())):
        pairs = list(zip(batches, expected, strict=True))
        assert len(pairs) > 1
        for (image, label), (expected_image, expected_label) in pairs:
            assert torch.equal(image, expected_image) and torch.equal(label, expected_label)
    num_threads = threading.active_count()
    first = file.shuffled(1, 2)
    next(first)
    first.close()  # Ctrl-C also closes the iterator; this must end the reading thread
    assert threading.active_count() == num_threads


def test_truncated_data_file_is_reported(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    split = Split(images=DiskImages.open(tmp_path / "images.npy"))
    os.truncate(tmp_path / "images.npy", 1000)
    with pytest.raises(CvaeError, match="was truncated"):
        list(Batches(split, 100, torch.device("cpu"), ()).shuffled(0, 0))
