"""MLP-Mixer (Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601) as a plug-in architecture for cvae.

An architecture is a function with four positional arguments: the image shape (C, H, W), the latent dimension Z, the
number P of parameter channels of the likelihood, and the conditioning. Its keyword-only arguments are its options. The
function returns an encoder, which maps (image (B, C, H, W), condition) to mean and log-variance, (B, Z) each, and a
decoder, which maps (latent (B, Z), condition) to parameters (B, P, H, W).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cvae.models.conditioning import Conditioning


class Mixer(nn.Module):
    """Block that mixes the tokens of each channel, then the channels of each token."""

    def __init__(self, tokens: int, width: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.token_mixing = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channel_mixing = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.modulation = conditioning.modulation(width)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = x + self.token_mixing(self.norms[0](x).transpose(1, 2)).transpose(1, 2)  # (B, T, W)
        y = self.modulation(self.norms[1](x).transpose(1, 2), condition).transpose(1, 2)  # modulated as (B, W, T)
        return x + self.channel_mixing(y)


class Encoder(nn.Module):
    """Encoder that divides the image into patches, turns each into a token, and applies Mixer blocks."""

    def __init__(
        self,
        channels: int,
        patch: int,
        rows: int,
        columns: int,
        width: int,
        depth: int,
        latent_dim: int,
        conditioning: Conditioning,
    ):
        super().__init__()
        self.padded_size = (rows * patch, columns * patch)
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Mixer(rows * columns, width, conditioning) for _ in range(depth))
        self.head = conditioning.linear(rows * columns * width, 2 * latent_dim)

    def forward(self, image: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        height, width = self.padded_size  # multiples of the patch size
        image = F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]))
        x = self.embed(image).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, T, W)
        for block in self.blocks:
            x = block(x, condition)
        return self.head(x.flatten(1), condition).chunk(2, dim=1)  # (B, Z), (B, Z)


class Decoder(nn.Module):
    """Decoder that mirrors the encoder: after the blocks, a transposed convolution turns the tokens into patches."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int,
        rows: int,
        columns: int,
        width: int,
        depth: int,
        latent_dim: int,
        conditioning: Conditioning,
    ):
        super().__init__()
        self.shape, self.grid = shape, (rows, columns)
        self.stem = conditioning.linear(latent_dim, rows * columns * width)
        self.blocks = nn.ModuleList(Mixer(rows * columns, width, conditioning) for _ in range(depth))
        self.head = nn.ConvTranspose2d(width, shape[0], patch, stride=patch)

    def forward(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        x = self.stem(latent, condition).unflatten(1, (self.grid[0] * self.grid[1], -1))  # (B, Z) -> (B, T, W)
        for block in self.blocks:
            x = block(x, condition)
        image = self.head(x.transpose(1, 2).unflatten(2, self.grid))  # (B, W, rows, columns) -> (B, P, H', W')
        return image[:, :, : self.shape[1], : self.shape[2]]  # (B, P, H, W)


def mixer(
    image_shape: tuple[int, int, int],
    latent_dim: int,
    param_channels: int,
    conditioning: Conditioning,
    *,
    patch: int = 4,
    width: int = 64,
    depth: int = 2,
) -> tuple[nn.Module, nn.Module]:
    """Build the encoder and the decoder.

    Args:
        image_shape: (C, H, W).
        latent_dim: latent dimension Z.
        param_channels: number P of parameter channels of the likelihood.
        conditioning: factory of the layers that use the embedding of the conditions.
        patch: side of a patch, in pixels.
        width: number of channels of each token.
        depth: number of blocks in the encoder, and also in the decoder.
    """
    channels, height, image_width = image_shape
    rows, columns = -(-height // patch), -(-image_width // patch)  # rounded up; the last patches can contain padding
    common = (patch, rows, columns, width, depth, latent_dim, conditioning)
    return Encoder(channels, *common), Decoder((param_channels, height, image_width), *common)
