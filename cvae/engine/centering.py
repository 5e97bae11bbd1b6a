"""Centred gradients: layers are trained as functions of their inputs minus the mean input.

A layer y = W x + b is the same function as y = W (x - c) + b' with b' = b + W c. Gradient steps on (W, b') converge
faster than steps on (W, b) if the inputs are far from zero on average, as pixels and activations are (Schraudolph 1998,
"Centering neural network gradient factors"). The network keeps the parameters (W, b), and only gradients and updates
are converted, so nothing has to be undone after training. The conversion is exact for every c.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Types of the layers whose inputs are centred, if they have a bias and are not grouped convolutions."""

DECAY = 0.9
"""Decay of the moving average of the mean inputs."""


class Centering(nn.Module):
    """Moving averages of the mean inputs of a network's layers, and the conversion of gradients and updates.

    Args:
        network: network to train. Hooks on its layers measure their inputs while it is in training mode.
    """

    means: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        layers: list[Any] = [
            module
            for module in network.modules()
            if isinstance(module, LAYERS) and module.bias is not None and getattr(module, "groups", 1) == 1
        ]
        self.layers = tuple(layers)  # a tuple, because the layers belong to the network
        self.sizes = [_by_output(layer, layer.weight).shape[1] for layer in layers]
        device = next(network.parameters()).device
        self.register_buffer("means", torch.zeros(sum(self.sizes), device=device))
        self.sums = torch.zeros(sum(self.sizes), device=device)  # of the mean inputs of each pass since `reset`
        self.products: list[Tensor] = []  # W c of each layer before the update
        for layer, total in zip(layers, self.sums.split(self.sizes), strict=True):
            layer.register_forward_pre_hook(_make_hook(total))

    def reset(self) -> None:
        """Forget the inputs of the last step."""
        self.sums.zero_()

    @torch.no_grad()
    def convert_gradients(self, means: Tensor, step: float | Tensor, good: Tensor) -> None:
        """Convert the gradients of (W, b) to those of (W, b'), in place.

        Args:
            means: mean inputs of the layers in this step.
            step: number of steps before this one.
            good: whether the gradients are finite; otherwise the moving averages stay unchanged.
        """
        decay = torch.as_tensor((1 + step) / (10 + step), device=means.device).clamp(max=DECAY)
        self.means.copy_(torch.where(good, means.lerp(self.means, decay), self.means))
        for layer, mean in self._layers():
            if layer.weight.grad is not None and layer.bias.grad is not None:
                gradient = _by_output(layer, layer.weight.grad)
                if gradient.ndim == 2:
                    gradient.addr_(layer.bias.grad, mean, alpha=-1)
                else:
                    gradient.sub_((layer.bias.grad[:, None] * mean)[(...,) + (None,) * (gradient.ndim - 2)])
        self.products = [_product(layer, mean) for layer, mean in self._layers()]

    @torch.no_grad()
    def convert_updates(self) -> None:
        """Convert the updates of (W, b') to those of (W, b), in place."""
        for (layer, mean), product in zip(self._layers(), self.products, strict=True):
            if layer.weight.requires_grad and layer.bias.requires_grad:
                layer.bias.add_(product - _product(layer, mean))

    def _layers(self) -> list[tuple[Any, Tensor]]:
        return list(zip(self.layers, self.means.split(self.sizes), strict=True))


def _make_hook(total: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that adds the mean input of a layer, per feature or channel, to `total`."""

    def add_mean(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer.training:
            features = inputs[0].detach()
            channels = features.ndim - 1 if isinstance(layer, nn.Linear) else 1
            total.add_(features.mean([d for d in range(features.ndim) if d != channels], dtype=torch.float32))

    return add_mean


def _by_output(layer: nn.Module, weight: Tensor) -> Tensor:
    """Return a view (outputs, inputs, ...) of a layer's weights or their gradient."""
    return weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight


def _product(layer: Any, mean: Tensor) -> Tensor:
    """Return W c (outputs,), the output of a layer for the mean input without its bias."""
    weight = _by_output(layer, layer.weight)
    return weight.sum([*range(2, weight.ndim)]) @ mean if weight.ndim > 2 else weight @ mean
