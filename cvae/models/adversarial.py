"""Adversarial loss: a discriminator learns to tell images from the decoder's images, which makes these sharper."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from cvae.flags import Interval
from cvae.models.losses import ImageBatch, ImageLoss

MAX_WIDTH = 8
"""Maximum width of a layer, as a multiple of the width of the first layer."""

GROUPS = 4
"""Number of groups of channels that are normalized together."""


class Discriminator(nn.Module):
    """PatchGAN: image (B, C, H, W) -> logits (B, 1, h, w), one for each overlapping patch.

    Isola et al. 2017, section 3.2.2, https://arxiv.org/abs/1611.07004. Features are normalized within each image (Wu &
    He 2018, https://arxiv.org/abs/1803.08494), so that the logits of an image do not depend on its batch.

    Args:
        channels: number of image channels C.
        layers: maximum number of convolutions of stride 2. There are fewer if the side of the images is less than
            2 ** (layers + 2) pixels.
        width: number of channels of the first layer; each layer doubles it.
        side: length of the shorter side of the images, in pixels.
    """

    def __init__(self, channels: int, layers: int, width: int, side: int) -> None:
        super().__init__()
        strides = [2] * min(layers, max(1, side.bit_length() - 3)) + [1]  # the last feature maps are at least 4 x 4
        widths = [channels, *(width * min(2**i, MAX_WIDTH) for i in range(len(strides)))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 4 if stride == 2 else 3, stride=stride, padding=1)
            for i, stride in enumerate(strides)
        )
        # As in PatchGAN, the first layer has no norm.
        self.norms = nn.ModuleList(
            nn.GroupNorm(GROUPS, features) if i else nn.Identity() for i, features in enumerate(widths[1:])
        )
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features = 2 * image - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = leaky_relu(norm(convolution(features)), 0.2)
        return self.head(features)


class Adversarial(ImageLoss):
    """Hinge loss of a patch discriminator.

    The discriminator minimizes (E[max(0, 1 - D(x))] + E[max(0, 1 + D(G))]) / 2, and the decoder minimizes -E[D(G)],
    where x are images and G are decoded images (Lim & Ye 2017, https://arxiv.org/abs/1705.02894). The weight is
    relative to the gradient of the distortion, as in Esser et al. 2021, eq. 7, https://arxiv.org/abs/2012.09841, and in
    the autoencoder of Rombach et al. 2021, https://arxiv.org/abs/2112.10752. There, the gradients are taken at the
    weights of the decoder's last layer; here, at its output, which every architecture has.

    Args:
        image_shape: shape (C, H, W) of the images.
        classes: number of classes; not used.
        weight: norm of the gradient at the decoder's output, relative to that of the distortion.
        start: number of steps before the loss affects the model, while the discriminator is already trained.
        random_weight: weight of images that are decoded from random noise, relative to reconstructions.
        layers: maximum number of convolutions of stride 2 in the discriminator. Its patches have a side of 26 pixels
            with two, which take images of at least 16 pixels, and 54 pixels with three, which take 32.
        width: number of channels of its first layer, rounded down to a multiple of 4; each layer doubles it.
        lr: learning rate of the discriminator.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int | None,
        *,
        weight: Annotated[float, Interval(minimum=0)] = 0.5,
        start: Annotated[int, Interval(minimum=0)] = 100,
        random_weight: Annotated[float, Interval(minimum=0)] = 0.0,
        layers: Annotated[int, Interval(minimum=1, maximum=8)] = 2,
        width: Annotated[int, Interval(minimum=GROUPS, maximum=1024)] = 32,
        lr: Annotated[float, Interval(above=0)] = 1e-3,
    ) -> None:
        super().__init__()
        self.weight, self.start, self.random_weight, self.lr = weight, start, random_weight, lr
        channels, *sides = image_shape
        self.discriminator = Discriminator(channels, layers, width // GROUPS * GROUPS, min(sides))

    @property
    def needs_random_images(self) -> bool:
        return self.random_weight > 0

    def forward(self, batch: ImageBatch) -> Tensor:
        return self._mean_over_fakes(lambda logits: -logits, batch)

    def training_loss(self, batch: ImageBatch) -> Tensor:
        real = relu(1 - self.discriminator(batch.image).float()).mean()
        return (real + self._mean_over_fakes(lambda logits: relu(1 + logits), batch)) / 2

    def _mean_over_fakes(self, loss: Callable[[Tensor], Tensor], batch: ImageBatch) -> Tensor:
        """Return the weighted mean of a loss of the logits over reconstructions and random images."""
        mean = loss(self.discriminator(batch.reconstruction).float()).mean()
        if batch.random_image is None or not self.needs_random_images:
            return mean
        random_mean = loss(self.discriminator(batch.random_image).float()).mean()
        return torch.lerp(mean, random_mean, self.random_weight / (1 + self.random_weight))
