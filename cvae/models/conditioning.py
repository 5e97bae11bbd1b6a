"""Conditioning of a network on the embedding of its conditions.

A conditioning method creates three types of layers, which are called with (features, condition). `linear(in, out)`
creates a fully connected layer, and `convolution(in, out, size)` creates a convolution that maps features to a grid of
latents, or back. Both may also depend on the condition. `modulation(channels)` creates a layer that may adapt the
features of a block to the condition. An architecture therefore does not need to know how the condition is used, or
whether the model has any. The condition is an embedding (B, E) float32 (see `cvae.models.conditions`), or (B,) int64,
indices that stand for one-hot vectors of E features.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Conditioning(Protocol):
    """Interface of a conditioning method, created with the number of features E of the embedding."""

    features: int

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        """Create a layer (features (B, in), condition) -> (B, out)."""
        ...

    def convolution(self, in_channels: int, out_channels: int, size: int) -> nn.Module:
        """Create a layer (features (B, in, h, w), condition) -> (B, out, h, w), with a kernel of odd size."""
        ...

    def modulation(self, channels: int) -> nn.Module:
        """Create a layer (features (B, channels, ...), condition) -> features of the same shape."""
        ...


class PlainLinear(nn.Linear):
    """Linear layer that ignores the condition."""

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(features)


class PlainConvolution(nn.Conv2d):
    """Convolution that ignores the condition and keeps the size of its input."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__(in_channels, out_channels, size, padding=size // 2)

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(features)


class Table(nn.Embedding):
    """Matrix (E, out) without a bias: the product with an embedding (B, E), or the rows with given indices (B,)."""

    def forward(self, condition: Tensor) -> Tensor:
        return condition @ self.weight if condition.is_floating_point() else super().forward(condition)


class ConditionLinear(nn.Module):
    """Linear layer over [features, condition], computed as linear(features) + condition @ table."""

    def __init__(self, in_features: int, out_features: int, condition_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.table = Table(condition_features, out_features)
        # Initialize the table like the weights of an nn.Linear over the concatenated input.
        bound = (in_features + condition_features) ** -0.5
        nn.init.uniform_(self.table.weight, -bound, bound)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        return self.linear(features) + self.table(condition)  # (B, in) -> (B, out)


class ConditionConvolution(PlainConvolution):
    """Convolution over the channels of [features, condition], computed as convolution(features) + condition @ table.

    The condition is the same at every position, so one weight for each pair of channels is enough.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, condition_features: int) -> None:
        super().__init__(in_channels, out_channels, size)
        self.table = Table(condition_features, out_channels)
        bound = (in_channels * size**2 + condition_features) ** -0.5
        nn.init.uniform_(self.table.weight, -bound, bound)

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(features) + self.table(condition)[..., None, None]  # (B, out, h, w) + (B, out, 1, 1)


class NoModulation(nn.Identity):
    """Identity that ignores the condition."""

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        return features


class FeatureModulation(nn.Module):
    """Condition-dependent scale and shift of each channel, initialized to the identity."""

    def __init__(self, channels: int, condition_features: int) -> None:
        super().__init__()
        self.table = Table(condition_features, 2 * channels)
        nn.init.zeros_(self.table.weight)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        table = self.table(condition).to(features.dtype)  # (B, 2C)
        scale, shift = table.reshape(*table.shape, *[1] * (features.ndim - 2)).chunk(2, dim=1)  # (B, C, 1, 1) each
        return features * (1 + scale) + shift


class Unconditional:
    """Conditioning of a model without conditions."""

    features = 0

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        return PlainLinear(in_features, out_features)

    def convolution(self, in_channels: int, out_channels: int, size: int) -> nn.Module:
        return PlainConvolution(in_channels, out_channels, size)

    def modulation(self, channels: int) -> nn.Module:
        return NoModulation()


class Concat:
    """Concatenation of the condition with the encoder's features and with the latent.

    Sohn, Lee & Yan 2015, https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models
    """

    def __init__(self, features: int) -> None:
        self.features = features

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        return ConditionLinear(in_features, out_features, self.features)

    def convolution(self, in_channels: int, out_channels: int, size: int) -> nn.Module:
        return ConditionConvolution(in_channels, out_channels, size, self.features)

    def modulation(self, channels: int) -> nn.Module:
        return NoModulation()


class FiLM(Concat):
    """Feature-wise linear modulation (FiLM) of every block, in addition to the concatenation in linear layers.

    Perez et al. 2017, https://arxiv.org/abs/1709.07871
    """

    def convolution(self, in_channels: int, out_channels: int, size: int) -> nn.Module:
        return PlainConvolution(in_channels, out_channels, size)  # modulation is enough

    def modulation(self, channels: int) -> nn.Module:
        return FeatureModulation(channels, self.features)


def add_conditions(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Convert the weights of a network without conditions to those of the same network with conditions.

    The conditions have no effect at first, because all weights that belong to them are zero.

    Args:
        weights: state of the network without conditions.
        network: network with conditions.
    """
    weights = dict(weights)
    for name, module in network.named_modules():
        if isinstance(module, ConditionLinear):
            for key in {f"{name}.weight", f"{name}.bias"} & weights.keys():
                weights[f"{name}.linear.{key.rpartition('.')[2]}"] = weights.pop(key)
        elif isinstance(module, Table):
            weights[f"{name}.weight"] = torch.zeros_like(module.weight)
    # The embedding of the conditions has no weights, but constant buffers.
    return {**{name: buffer for name, buffer in network.named_buffers() if name not in weights}, **weights}
