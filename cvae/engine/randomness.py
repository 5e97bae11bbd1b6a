"""Random numbers without a state to save: each step is seeded from the run's seed and the step's number.

A resumed run therefore draws the same numbers as an uninterrupted one, and a batch gets the same numbers whether it is
computed at once, in parts, or by several processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def seed_of(*key: int | str) -> int:
    """Hash `key` to a seed of 63 bits."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def reseed(device: torch.device, *key: int | str) -> None:
    """Seed torch's random numbers on the CPU and on `device` from `key`."""
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would visit every type of device
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` parts of each batch: its images index, index + count, index + 2 count, ..."""

    index: int = 0
    count: int = 1

    def draw(self, random: Callable[..., Tensor], batch_size: int, *shape: int, device: torch.device) -> Tensor:
        """Draw numbers (batch_size, *shape) with `random`, such as `torch.randn`.

        Numbers are drawn for the whole batch, and those of this part are returned.
        """
        numbers = random(batch_size, self.count, *shape, device=device)
        return numbers[:, self.index]  # (batch_size, count, ...) -> (batch_size, ...)

    def part(self, index: int, count: int) -> "Shard":
        """Return part `index` of `count` parts of this part."""
        return Shard(self.index + self.count * index, self.count * count)


WHOLE = Shard()
"""The whole batch, in one process and at once."""
