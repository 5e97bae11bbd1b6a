"""MLP-Mixer (Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601) as an architecture of cvae: one file.

An architecture is a function of the image shape (C, H, W), the latent dimension Z, the number of channels P that
the likelihood wants, and the conditioning; its keyword-only arguments are its options. It returns an encoder,
(image (B, C, H, W), label) -> mean, log-variance (B, Z), and a decoder, (latent (B, Z), label) -> (B, P, H, W).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cvae.models.conditioning import Conditioning


class Mixer(nn.Module):
    """One block: mix the tokens of each channel, then the channels of each token."""

    def __init__(self, tokens: int, width: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.across_tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.across_channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.modulation = conditioning.modulation(width)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = x + self.across_tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)  # (B, T, W)
        y = self.modulation(self.norms[1](x).transpose(1, 2), label).transpose(1, 2)  # by channel: (B, W, T)
        return x + self.across_channels(y)


class Encoder(nn.Module):
    def __init__(
        self, channels: int, patch: int, rows: int, columns: int, width: int, depth: int, z: int, c: Conditioning
    ):
        super().__init__()
        self.pad = (rows * patch, columns * patch)
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Mixer(rows * columns, width, c) for _ in range(depth))
        self.head = c.linear(rows * columns * width, 2 * z)

    def forward(self, image: Tensor, label: Tensor | None) -> tuple[Tensor, ...]:
        image = F.pad(image, (0, self.pad[1] - image.shape[3], 0, self.pad[0] - image.shape[2]))  # to whole patches
        x = self.embed(image).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, T, W)
        for block in self.blocks:
            x = block(x, label)
        return self.head(x.flatten(1), label).chunk(2, dim=1)  # (B, Z), (B, Z)


class Decoder(nn.Module):
    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int,
        rows: int,
        columns: int,
        width: int,
        depth: int,
        z: int,
        c: Conditioning,
    ):
        super().__init__()
        self.shape, self.grid = shape, (rows, columns)
        self.spread = c.linear(z, rows * columns * width)
        self.blocks = nn.ModuleList(Mixer(rows * columns, width, c) for _ in range(depth))
        self.paint = nn.ConvTranspose2d(width, shape[0], patch, stride=patch)

    def forward(self, latent: Tensor, label: Tensor | None) -> Tensor:
        x = self.spread(latent, label).unflatten(1, (self.grid[0] * self.grid[1], -1))  # (B, Z) -> (B, T, W)
        for block in self.blocks:
            x = block(x, label)
        image = self.paint(x.transpose(1, 2).unflatten(2, self.grid))  # (B, W, rows, columns) -> (B, P, H', W')
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
    """Patches of `patch` pixels a side, `width` channels, `depth` blocks in the encoder and in the decoder."""
    channels, height, width_px = image_shape
    rows, columns = -(-height // patch), -(-width_px // patch)  # rounded up: the last patches may be padding
    common = (patch, rows, columns, width, depth, latent_dim, conditioning)
    return Encoder(channels, *common), Decoder((param_channels, height, width_px), *common)
