"""Conditioning of a network on labels.

A conditioning method creates two types of layers, which are called with (features, label). `linear(in, out)` creates a
fully connected layer that may also depend on the label, and `modulation(channels)` creates a layer that may adapt the
features of a block to the label. An architecture therefore does not need to know how the label is used, or whether
the model has labels.
"""

from typing import Protocol

from torch import Tensor, nn


class Conditioning(Protocol):
    """Interface of a conditioning method, created with the number of classes."""

    classes: int

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        """Create a layer (features (B, in), label (B,)) -> (B, out)."""
        ...

    def modulation(self, channels: int) -> nn.Module:
        """Create a layer (features (B, channels, ...), label (B,)) -> features of the same shape."""
        ...


class PlainLinear(nn.Linear):
    """Linear layer that ignores the label."""

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        return super().forward(features)


class LabelLinear(nn.Module):
    """Linear layer over [features, one_hot(label)], computed as linear(features) + table[label]."""

    def __init__(self, in_features: int, out_features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.table = nn.Embedding(classes, out_features)
        # Initialize the table like the weights of an nn.Linear over the concatenated input.
        bound = (in_features + classes) ** -0.5
        nn.init.uniform_(self.table.weight, -bound, bound)

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        return self.linear(features) + self.table(label)  # (B, in) -> (B, out)


class NoModulation(nn.Identity):
    """Identity that ignores the label."""

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        return features


class FeatureModulation(nn.Module):
    """Label-dependent scale and shift of each channel, initialized to the identity."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, 2 * channels)
        nn.init.zeros_(self.table.weight)

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        table = self.table(label).to(features.dtype)  # (B, 2C)
        scale, shift = table.reshape(*table.shape, *[1] * (features.ndim - 2)).chunk(2, dim=1)  # (B, C, 1, 1) each
        return features * (1 + scale) + shift


class Unconditional:
    """Conditioning of a model without labels."""

    classes = 0

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        return PlainLinear(in_features, out_features)

    def modulation(self, channels: int) -> nn.Module:
        return NoModulation()


class Concat:
    """Concatenation of the one-hot label with the encoder's features and with the latent.

    Sohn, Lee & Yan 2015, https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        return LabelLinear(in_features, out_features, self.classes)

    def modulation(self, channels: int) -> nn.Module:
        return NoModulation()


class FiLM(Concat):
    """Feature-wise linear modulation (FiLM) of every block, in addition to the concatenation of the label.

    Perez et al. 2017, https://arxiv.org/abs/1709.07871
    """

    def modulation(self, channels: int) -> nn.Module:
        return FeatureModulation(channels, self.classes)
