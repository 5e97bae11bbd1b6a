"""Fully connected encoder and decoder, as in Kingma & Welling 2013, https://arxiv.org/abs/1312.6114."""

from functools import partial
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from cvae.models.architectures.layers import require_positive
from cvae.models.conditioning import Conditioning


class Hidden(nn.Module):
    """Hidden layers with ReLU. The condition is an input of the first layer, and can modulate all layers."""

    def __init__(self, widths: tuple[int, ...], conditioning: Conditioning) -> None:
        super().__init__()
        self.first = conditioning.linear(widths[0], widths[1])
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths[1:]))
        self.modulations = nn.ModuleList(conditioning.modulation(width) for width in widths[1:])

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        features = self.modulations[0](self.first(features, condition), condition).relu()  # (B, in) -> (B, hidden)
        for linear, modulation in zip(self.rest, self.modulations[1:], strict=True):
            features = modulation(linear(features), condition).relu()
        return features


class Encoder(nn.Module):
    """Encoder (image (B, C, H, W), condition) -> mean, log-variance (B, Z)."""

    def __init__(self, pixels: int, hidden: tuple[int, ...], latent_dim: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.hidden = Hidden((pixels, *hidden), conditioning)
        self.head = nn.Linear(hidden[-1], 2 * latent_dim)

    def forward(self, image: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        features = self.hidden(image.flatten(1), condition)  # (B, C, H, W) -> (B, hidden)
        return self.head(features).chunk(2, dim=1)  # (B, Z), (B, Z)


class Decoder(nn.Module):
    """Decoder (latent (B, Z), condition) -> likelihood parameters (B, P, H, W)."""

    def __init__(
        self, latent_dim: int, hidden: tuple[int, ...], shape: tuple[int, int, int], conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.shape = shape
        self.hidden = Hidden((latent_dim, *hidden), conditioning)
        self.head = nn.Linear(hidden[-1], prod(shape))

    def forward(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        return self.head(self.hidden(latent, condition)).unflatten(1, self.shape)  # (B, Z) -> (B, P, H, W)


def mlp(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    param_channels: int,
    conditioning: Conditioning,
    *,
    hidden: tuple[int, ...] = (400,),
) -> tuple[nn.Module, nn.Module]:
    """Create a fully connected encoder and decoder.

    With the default option and a latent dimension of 20, this is the network of PyTorch's VAE example,
    https://github.com/pytorch/examples/tree/main/vae.

    Args:
        image_shape: shape (C, H, W) of the images.
        latent_dim: number of latent dimensions Z.
        param_channels: number of channels P of the likelihood parameters.
        conditioning: conditioning on the embedding of the conditions.
        hidden: widths of the encoder's hidden layers; the decoder uses the same widths in reverse order.

    Returns:
        The encoder and the decoder.

    Raises:
        UsageError: If an option is out of range.
    """
    require_positive(hidden=hidden)
    return (
        Encoder(prod(image_shape), hidden, latent_dim, conditioning),
        Decoder(latent_dim, hidden[::-1], (param_channels, *image_shape[1:]), conditioning),
    )


mlp_large = partial(mlp, hidden=(512, 512))
