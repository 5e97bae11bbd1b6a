"""Batches of uint8 images, taken from device memory if the data set fits there, else prefetched from its file."""

from collections.abc import Iterator, Sequence
from queue import Queue
from threading import Event, Thread

import numpy as np
import torch
from torch import Tensor

from cvae.condition_rows import read_category
from cvae.conditions import Condition
from cvae.data import Split, condition_rows
from cvae.engine.balance import balanced_order
from cvae.engine.randomness import FULL_BATCH, Shard, seed_of

Batch = tuple[Tensor, Tensor | None]
"""Images (B, C, H, W) uint8 on the device, and rows of their conditions, (B,) int64, (B, W) float32 or None."""

PREFETCH_BATCHES = 4
"""Number of batches to read ahead."""

MAX_COPY_BYTES = 2**26
"""Maximum number of bytes to copy to a GPU at a time."""


class Batches:
    """A split, divided into batches.

    On a CPU, a split in memory is used in place. On a GPU, a split that takes less than half of the free memory is
    copied to the GPU, so that no step has to copy images. Other splits are read batch by batch in a thread.

    Args:
        split: images and their conditions.
        batch_size: number of images per step over all processes; a smaller split forms a single batch.
        device: device of the batches.
        conditions: conditions of the model; () to leave out those of the split.
        balance: whether the values of the first category occur equally often in a shuffled epoch.
        shard: this process's shard of each batch.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        device: torch.device,
        conditions: Sequence[Condition],
        *,
        balance: bool = False,
        shard: Shard = FULL_BATCH,
    ) -> None:
        self.split, self.device, self.shard = split, device, shard
        self.rows = condition_rows(split) if conditions else None
        self.balanced = read_category(conditions, self.rows) if balance and self.rows is not None else None
        self.batch_size = min(batch_size, len(split))
        self.resident = split.in_memory
        if device.type == "cuda":
            self.resident = split.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        if self.resident and device.type == "cpu":
            self.images = torch.from_numpy(np.ascontiguousarray(split.images[:]))  # shares the memory
        elif self.resident:
            self.images = torch.empty((len(split), *split.images.shape[1:]), dtype=torch.uint8, device=device)
            step = max(1, MAX_COPY_BYTES * len(split) // split.nbytes)
            for start in range(0, len(split), step):
                self.images[start : start + step] = torch.from_numpy(split.images[start : start + step])

    def __len__(self) -> int:
        """Return the number of steps in a shuffled epoch, which drops an incomplete last batch."""
        return len(self.split) // self.batch_size

    def shuffled(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at step `start`. The order depends only on seed and epoch."""
        return self._batches(self.order(seed, epoch)[start:, self.shard.index :: self.shard.count])

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the indices (steps, B) of the images in each batch of an epoch."""
        generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
        if self.balanced is None:
            order = torch.randperm(len(self.split), generator=generator)
        else:
            values, count = self.balanced
            order = balanced_order(torch.from_numpy(values), count, generator)
        return order[: len(self) * self.batch_size].view(len(self), -1)  # (N,) -> (steps, B)

    def in_order(self) -> Iterator[Batch]:
        """Yield batches that contain every image once, in order; each of n processes gets every n-th batch."""
        batches = torch.arange(len(self.split)).split(self.batch_size)
        return self._batches(batches[self.shard.index :: self.shard.count])

    def _batches(self, indices: Sequence[Tensor] | Tensor) -> Iterator[Batch]:
        if not self.resident:
            yield from self._prefetch(indices)
            return
        rows = None if self.rows is None else torch.from_numpy(self.rows).to(self.device)
        for index in indices.to(self.device) if isinstance(indices, Tensor) else indices:
            index = index.to(self.device)
            yield self.images.index_select(0, index), None if rows is None else rows.index_select(0, index)

    def _prefetch(self, indices: Sequence[Tensor] | Tensor) -> Iterator[Batch]:
        cuda = self.device.type == "cuda"
        queue: Queue[Batch | BaseException] = Queue(PREFETCH_BATCHES)
        done = Event()

        def read() -> None:
            try:
                for index in indices:
                    images = torch.from_numpy(self.split.images[index.numpy()])
                    rows = None if self.rows is None else torch.from_numpy(self.rows[index.numpy()])
                    if cuda:  # pinned memory can be copied while the device computes
                        images, rows = images.pin_memory(), None if rows is None else rows.pin_memory()
                    queue.put((images, rows))
                    if done.is_set():
                        return
            except BaseException as error:  # the consumer raises it
                queue.put(error)

        reader = Thread(target=read, daemon=True)
        reader.start()
        try:
            for _ in indices:
                batch = queue.get()
                if isinstance(batch, BaseException):
                    raise batch
                images, rows = batch
                yield (
                    images.to(self.device, non_blocking=cuda),
                    None if rows is None else rows.to(self.device, non_blocking=cuda),
                )
        finally:
            done.set()
            while reader.is_alive():  # the reader may be waiting for space in the queue
                while not queue.empty():
                    queue.get_nowait()
                reader.join(0.01)
