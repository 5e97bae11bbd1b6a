"""Batches of uint8 images: cut from the device's memory where the set fits, else read ahead from its file."""

from collections.abc import Iterator
from queue import Queue
from threading import Event, Thread

import numpy as np
import torch
from torch import Tensor

from cvae.data import Split
from cvae.engine.randomness import WHOLE, Shard, seed_of

Batch = tuple[Tensor, Tensor | None]
"""Images (B, C, H, W) uint8 on the device, and labels (B,) int64 or None."""

AHEAD = 4
"""Batches that are read before they are wanted."""


class Batches:
    """A split, cut into batches.

    A set in memory is held on the device whole, unless it would take more than half of a GPU's free memory: no work
    per image, no copy per step. Any other is read batch by batch, in a thread of its own.

    Args:
        batch_size: images per step over all processes; a smaller split is one batch.
        shard: the part of each batch that is this process's.
    """

    def __init__(
        self, split: Split, batch_size: int, device: torch.device, *, labelled: bool, shard: Shard = WHOLE
    ) -> None:
        self.split, self.device, self.shard = split, device, shard
        self.batch_size = min(batch_size, len(split))
        self.resident = split.in_memory
        if device.type == "cuda":
            self.resident = split.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        if self.resident and device.type == "cpu":
            self.images = torch.from_numpy(np.ascontiguousarray(split.images[:]))  # shares the memory
        elif self.resident:
            self.images = torch.empty((len(split), *split.images.shape[1:]), dtype=torch.uint8, device=device)
            for index in torch.arange(len(split)).split(4096):
                self.images[index[0] : index[-1] + 1] = torch.from_numpy(split.images[index.numpy()])
        labels = split.labels if labelled else None
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)

    def __len__(self) -> int:
        """Steps in a shuffled epoch; the few images left over take part in other epochs."""
        return len(self.split) // self.batch_size

    def shuffled(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; the order is a function of seed and epoch alone."""
        generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        order = order[: len(self) * self.batch_size].view(len(self), -1)[start:]  # (N,) -> (steps, B)
        return self._cut(order[:, self.shard.index :: self.shard.count])

    def in_order(self) -> Iterator[Batch]:
        """Every image once; of several processes, each gets every so-manieth batch."""
        batches = torch.arange(len(self.split)).split(self.batch_size)
        return self._cut(batches[self.shard.index :: self.shard.count])

    def _cut(self, indices: Tensor | tuple[Tensor, ...]) -> Iterator[Batch]:
        if not self.resident:
            yield from self._read_ahead(indices)
            return
        if isinstance(indices, Tensor):
            indices = indices.to(self.device)
        for index in indices:
            index = index.to(self.device)
            yield self.images.index_select(0, index), self._labels(index)

    def _labels(self, index: Tensor) -> Tensor | None:
        return None if self.labels is None else self.labels.index_select(0, index)

    def _read_ahead(self, indices: Tensor | tuple[Tensor, ...]) -> Iterator[Batch]:
        ready: Queue[Tensor | BaseException] = Queue(AHEAD)
        enough = Event()

        def read() -> None:
            try:
                for index in indices:
                    images = torch.from_numpy(self.split.images[index.numpy()])
                    ready.put(images.pin_memory() if self.device.type == "cuda" else images)
                    if enough.is_set():
                        return
            except BaseException as error:  # to be raised where the batch is wanted
                ready.put(error)

        reader = Thread(target=read, daemon=True)
        reader.start()
        try:
            for index in indices:
                images = ready.get()
                if isinstance(images, BaseException):
                    raise images
                yield images.to(self.device, non_blocking=True), self._labels(index.to(self.device))
        finally:
            enough.set()
            while reader.is_alive():  # it may wait for a place in the queue
                while not ready.empty():
                    ready.get_nowait()
                reader.join(0.01)
