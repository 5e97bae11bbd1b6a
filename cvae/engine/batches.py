"""Batches cut from a split that is held whole, as uint8, on the device: no per-image work."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cvae.data import Split

Batch = tuple[Tensor, Tensor | None]
"""Images (B, C, H, W) float32 in [0, 1] and labels (B,) int64 or None."""


class Batches:
    """A split on the device.

    Args:
        batch_size: images per step over all processes; a smaller split is one batch.
        binarize: draw each pixel from Bernoulli(grey value) anew, every time it is seen.
        rank, world_size: this process takes every `world_size`-th image of each batch, from its `rank` on.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        device: torch.device,
        *,
        labelled: bool,
        binarize: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images = torch.from_numpy(np.ascontiguousarray(split.images)).to(device)
        labels = split.labels if labelled else None
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        self.batch_size = min(batch_size, len(split))
        self.binarize = binarize
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Steps in a shuffled epoch; the few images left over take part in other epochs."""
        return len(self.images) // self.batch_size

    def shuffled(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; the order is a function of seed and epoch alone."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.images), generator=generator).to(self.images.device)
        for step in range(start, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(batch[self.rank :: self.world_size])

    def in_order(self) -> Iterator[Batch]:
        """Every image once."""
        for start in range(0, len(self.images), self.batch_size):
            yield self._batch(slice(start, start + self.batch_size))

    def _batch(self, index: Tensor | slice) -> Batch:
        images = self.images[index].float() / 255  # uint8 (B, C, H, W) -> float32
        if self.binarize:
            images = torch.bernoulli(images)
        return images, None if self.labels is None else self.labels[index]
