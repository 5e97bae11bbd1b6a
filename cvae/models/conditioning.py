"""How a label enters a network. An architecture asks for layers here and stays unaware of how, or whether, it does.

A conditioning gives two kinds of layer, both called with (features, label):
`linear(in, out)`, a fully connected layer that sees the label, and `modulation(channels)`, which may adapt the
features of any block to it.
"""

from typing import Protocol

from torch import Tensor, nn


class Conditioning(Protocol):
    """What an architecture may ask of a conditioning."""

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        """A layer (features (B, in), label (B,)) -> (B, out)."""
        ...

    def modulation(self, channels: int) -> nn.Module:
        """A layer (features (B, channels, ...), label (B,)) -> the same shape."""
        ...


class PlainLinear(nn.Linear):
    """A linear layer that ignores the label."""

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        return super().forward(features)


class LabelLinear(nn.Module):
    """The linear layer over [features, one_hot(label)], as linear(features) + table[label]: the same function."""

    def __init__(self, in_features: int, out_features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.table = nn.Embedding(classes, out_features)
        bound = (in_features + classes) ** -0.5  # as nn.Linear would for the joined input
        nn.init.uniform_(self.table.weight, -bound, bound)

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        return self.linear(features) + self.table(label)  # (B, in) -> (B, out)


class NoModulation(nn.Identity):
    """Leaves the features as they are."""

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        return features


class FeatureModulation(nn.Module):
    """Scales and shifts each channel by the label; starts as the identity."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, 2 * channels)
        nn.init.zeros_(self.table.weight)

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        table = self.table(label).to(features.dtype)  # (B, 2C)
        scale, shift = table.reshape(*table.shape, *[1] * (features.ndim - 2)).chunk(2, dim=1)  # (B, C, 1, 1) each
        return features * (1 + scale) + shift


class Unconditional:
    """No label."""

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        return PlainLinear(in_features, out_features)

    def modulation(self, channels: int) -> nn.Module:
        return NoModulation()


class Concat:
    """The label, one-hot, is concatenated to the features and to the code.

    Sohn, Lee & Yan 2015, https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        return LabelLinear(in_features, out_features, self.classes)

    def modulation(self, channels: int) -> nn.Module:
        return NoModulation()


class FiLM(Concat):
    """Feature-wise linear modulation of every block, besides the concatenation.

    Perez et al. 2017, https://arxiv.org/abs/1709.07871
    """

    def modulation(self, channels: int) -> nn.Module:
        return FeatureModulation(channels, self.classes)
