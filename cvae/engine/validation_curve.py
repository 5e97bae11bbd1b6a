"""Validation bounds of a run over its epochs: the best bound, and signs that training should end."""

from collections.abc import Sequence

from cvae.engine.run_state import Record
from cvae.run import selection_bound

EXPLOSION_EPOCHS = 3
"""Number of consecutive epochs after which rising validation bounds far above the best count as an explosion."""

EXPLOSION_NATS = 0.1
"""Minimum distance of an exploded bound from the best bound, in nats per pixel value."""

EXPLOSION_RATIO = 0.5
"""Minimum distance of an exploded bound from the best bound, as a fraction of the best bound's absolute value."""


class ValidationCurve:
    """Validation bounds of a run.

    They come from its records, so a resumed run makes the same decisions as an uninterrupted run.

    Args:
        records: lines of metrics.jsonl.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        validated = [record for record in records if "validation" in record]
        self.epochs: list[int] = [record["epoch"] for record in validated]
        self.bounds = [selection_bound(record["validation"]) for record in validated]

    @property
    def best(self) -> float:
        """The lowest bound, in nats per image."""
        return min(self.bounds)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest bound. Its weights are saved."""
        return self.epochs[self.bounds.index(self.best)]

    @property
    def epochs_without_improvement(self) -> int:
        """Number of epochs since the best epoch."""
        return len(self.bounds) - 1 - self.bounds.index(self.best) if self.bounds else 0

    def has_exploded(self, values: int) -> bool:
        """Return whether the last bounds are far above the best and rising, as when a network overfits a few images.

        Args:
            values: number of values of an image, C * H * W.
        """
        if len(self.bounds) <= EXPLOSION_EPOCHS:
            return False
        last = self.bounds[-EXPLOSION_EPOCHS:]
        limit = self.best + max(EXPLOSION_NATS * values, EXPLOSION_RATIO * abs(self.best))
        return min(last) > limit and last[-1] > last[0]
