"""Random numbers without saved state: each step is seeded from the run's seed and the step's number.

A resumed run therefore draws the same numbers as an uninterrupted run, and a batch gets the same numbers whether it is
processed as a whole, in shards, or by several processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def seed_of(*key: int | str) -> int:
    """Hash `key` to a 63-bit seed."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def reseed(device: torch.device, *key: int | str) -> None:
    """Seed torch's random number generators on the CPU and on `device` from `key`."""
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every type of device
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count` shards of each batch. Its images are index, index + count, index + 2 count, ..."""

    index: int = 0
    count: int = 1

    def draw(self, random: Callable[..., Tensor], batch_size: int, *shape: int, device: torch.device) -> Tensor:
        """Draw random numbers (batch_size, *shape) for this shard.

        Numbers are drawn for the full batch, and those of this shard are returned, so they don't depend on the number
        of shards.

        Args:
            random: function such as `torch.randn`.
            batch_size: number of images in this shard.
            *shape: shape of the numbers for one image.
            device: device of the numbers.
        """
        numbers = random(batch_size, self.count, *shape, device=device)
        return numbers[:, self.index]  # (batch_size, count, ...) -> (batch_size, ...)

    def subshard(self, index: int, count: int) -> "Shard":
        """Divide this shard into `count` shards, and return shard `index` of them."""
        return Shard(self.index + self.count * index, self.count * count)


FULL_BATCH = Shard()
"""Shard that contains the full batch, for a single process without gradient accumulation."""
