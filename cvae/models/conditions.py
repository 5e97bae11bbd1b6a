"""Embedding of the conditions of a batch: categories, numbers and attributes, each known or unknown.

The embedding is the same fixed map for every model, so that the weights of the conditioning layers are all that is
learned. Unknown values are zeros: what a layer returns without them, by its bias, is what it learns for them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cvae.conditions import ATTRIBUTES, CATEGORY, KNOWN, Condition, single_category

KNOTS = 5
"""Number of radial basis functions of a number, evenly spaced over its range."""


class ConditionEmbedding(nn.Module):
    """Embedding of the conditions of a batch as features (B, E) float32.

    A category is a one-hot vector, a number is a set of smooth functions, and an attribute is one-hot too (yes or no).
    The features end with a flag for each condition that says whether it is known, except for a single category.
    If the only condition is a category that is always known, the indices (B,) int64 themselves are returned: they stand
    for the one-hot vectors, and a layer looks them up in its table.

    Args:
        conditions: conditions of the model.
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        super().__init__()
        self.conditions = tuple(conditions)
        category = single_category(conditions)
        self.is_index = category is not None and not category.optional
        self.features = sum(map(_count_features, conditions)) + (0 if category else len(conditions))
        if not self.is_index:
            for i, condition in enumerate(conditions):
                if condition.kind == CATEGORY:
                    self.register_buffer(f"grid_{i}", torch.arange(len(condition.values), dtype=torch.float32))
                elif condition.kind != ATTRIBUTES:
                    self.register_buffer(f"grid_{i}", torch.linspace(-1, 1, KNOTS))

    def forward(self, rows: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the embedding (B, E), or indices (B,).

        Args:
            rows: rows of the conditions (see `cvae.condition_rows`), or the inputs of an exported graph by name.
        """
        if isinstance(rows, Mapping):
            values = [rows[condition.name] for condition in self.conditions]
            if KNOWN not in rows:  # a single category
                return values[0] if self.is_index else self._embed(values[0].float()[:, None], 0)
            known = rows[KNOWN].float()  # (B, number of conditions)
            columns = [value.float() if value.ndim > 1 else value.float()[:, None] for value in values]
        elif rows.ndim == 1:
            return rows if self.is_index else self._embed(rows.float()[:, None], 0)
        else:
            sizes = [condition.columns for condition in self.conditions]
            *columns, known = rows.split([*sizes, len(sizes)], dim=1)
        embedded = [self._embed(column, i) * known[:, i : i + 1] for i, column in enumerate(columns)]
        return torch.cat([*embedded, known], dim=1)

    def _embed(self, columns: Tensor, i: int) -> Tensor:
        """Return the features of a condition from the columns of its values."""
        condition = self.conditions[i]
        if condition.kind == ATTRIBUTES:
            return torch.cat([columns, 1 - columns], dim=1)  # (B, K) -> (B, 2 K)
        grid: Tensor = getattr(self, f"grid_{i}")
        if condition.kind == CATEGORY:
            distance = columns - grid  # (B, 1), (K,) -> (B, K)
            return torch.relu(1 - distance * distance)  # one-hot, or zeros for the index K of an unknown value
        low, high = condition.range
        x = (columns - (low + high) / 2) * (2 / (high - low))  # in -1..1
        distance = (x - grid) * ((KNOTS - 1) / 2)  # in units of the spacing
        return torch.cat([x, torch.exp(-0.5 * distance * distance)], dim=1)  # (B, 1 + KNOTS)

    def drop(self, rows: Tensor, random: Tensor, probability: float) -> Tensor:
        """Return rows in which each value is unknown with a probability.

        Args:
            rows: rows of the conditions.
            random: uniform random numbers in 0..1, (B, number of conditions).
            probability: probability with which a value is dropped.
        """
        if rows.ndim == 1:
            return rows.masked_fill(random[:, 0] < probability, len(self.conditions[0].values))
        values, known = rows.tensor_split((rows.shape[1] - len(self.conditions),), dim=1)
        return torch.cat([values, known * (random >= probability)], dim=1)

    def is_unknown(self, rows: Tensor, i: int) -> Tensor:
        """Return whether the value of condition `i` is unknown in each row, (B,) bool."""
        if rows.ndim == 1:
            return rows == len(self.conditions[0].values)
        return rows[:, rows.shape[1] - len(self.conditions) + i] == 0

    def with_category(self, rows: Tensor, i: int, values: Tensor) -> Tensor:
        """Return rows in which the category with index `i` has the given values, (B,) int64."""
        if rows.ndim == 1:
            return values
        rows = rows.clone()
        rows[:, sum(condition.columns for condition in self.conditions[:i])] = values.to(rows.dtype)
        rows[:, rows.shape[1] - len(self.conditions) + i] = 1
        return rows


def _count_features(condition: Condition) -> int:
    """Return the number of features of a condition."""
    if condition.kind == CATEGORY:
        return len(condition.values)
    return 2 * len(condition.values) if condition.kind == ATTRIBUTES else 1 + KNOTS
