"""Random numbers without a state to save: each step begins anew from the run's seed and the step's number.

So a resumed run draws what the unbroken one would have drawn, and one batch gets the same draws whether it is
computed at once, in parts, or by several processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def seed_of(*key: int | str) -> int:
    """63 bits that depend on every part of `key`."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def reseed(device: torch.device, *key: int | str) -> None:
    """Begin torch's random numbers anew, on the CPU and on `device`, as a function of `key` alone."""
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would visit every kind of device, at each step
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of each batch: its rows index, index + count, index + 2 count, ..."""

    index: int = 0
    count: int = 1

    def draw(self, random: Callable[..., Tensor], rows: int, *shape: int, device: torch.device) -> Tensor:
        """(rows, *shape) of `random`, such as `torch.randn`: this part's rows of what is drawn for the whole batch."""
        whole = random(rows, self.count, *shape, device=device)
        return whole[:, self.index]  # (rows, count, ...) -> (rows, ...)

    def part(self, index: int, count: int) -> "Shard":
        """Part `index` of `count` of this part."""
        return Shard(self.index + self.count * index, self.count * count)


WHOLE = Shard()
"""All of a batch: one process, at once."""
