"""Batches of uint8 images: cut from the device's memory where the set fits, else read ahead from its file."""

from collections.abc import Iterator, Sequence
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

CHUNK = 2**26
"""Bytes that are copied to a GPU in one go, when a set is put there."""


class Batches:
    """A split, cut into batches.

    A set in memory is held on the device whole, unless it would take more than half of a GPU's free memory: no work
    per image, no copy per step. Any other is read batch by batch, in a thread of its own.

    Args:
        batch_size: images per step over all processes; a smaller split is one batch.
        labelled: give out the labels too.
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
            step = max(1, CHUNK * len(split) // split.nbytes)
            for start in range(0, len(split), step):
                self.images[start : start + step] = torch.from_numpy(split.images[start : start + step])
        self.labels = split.labels if labelled else None

    def __len__(self) -> int:
        """Steps in a shuffled epoch; the few images left over take part in other epochs."""
        return len(self.split) // self.batch_size

    def shuffled(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; the order is a function of seed and epoch alone."""
        return self._cut(self.order(seed, epoch)[start:, self.shard.index :: self.shard.count])

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the numbers of the images (steps, B) in each batch of an epoch."""
        generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        return order[: len(self) * self.batch_size].view(len(self), -1)  # (N,) -> (steps, B)

    def in_order(self) -> Iterator[Batch]:
        """Every image once; of `count` processes, each gets every `count`-th batch."""
        batches = torch.arange(len(self.split)).split(self.batch_size)
        return self._cut(batches[self.shard.index :: self.shard.count])

    def _cut(self, indices: Sequence[Tensor] | Tensor) -> Iterator[Batch]:
        if not self.resident:
            yield from self._read_ahead(indices)
            return
        labels = None if self.labels is None else torch.from_numpy(self.labels).to(self.device)
        for index in indices.to(self.device) if isinstance(indices, Tensor) else indices:
            index = index.to(self.device)
            yield self.images.index_select(0, index), None if labels is None else labels.index_select(0, index)

    def _read_ahead(self, indices: Sequence[Tensor] | Tensor) -> Iterator[Batch]:
        cuda = self.device.type == "cuda"
        ready: Queue[Batch | BaseException] = Queue(AHEAD)
        enough = Event()

        def read() -> None:
            try:
                for index in indices:
                    images = torch.from_numpy(self.split.images[index.numpy()])
                    label = None if self.labels is None else torch.from_numpy(self.labels[index.numpy()])
                    if cuda:  # from where it can be copied while the device computes
                        images, label = images.pin_memory(), None if label is None else label.pin_memory()
                    ready.put((images, label))
                    if enough.is_set():
                        return
            except BaseException as error:  # to be raised where the batch is wanted
                ready.put(error)

        reader = Thread(target=read, daemon=True)
        reader.start()
        try:
            for _ in indices:
                batch = ready.get()
                if isinstance(batch, BaseException):
                    raise batch
                images, label = batch
                yield (
                    images.to(self.device, non_blocking=cuda),
                    None if label is None else label.to(self.device, non_blocking=cuda),
                )
        finally:
            enough.set()
            while reader.is_alive():  # it may wait for a place in the queue
                while not ready.empty():
                    ready.get_nowait()
                reader.join(0.01)
