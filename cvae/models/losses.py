"""Losses on the decoder's images, added to the objective for sharper images, or for images that obey their labels.

A loss is created as `loss(image_shape, classes, **options)`, where `classes` is the number of classes of the data set,
or None if it has no labels. The engine calls it with a batch of images, their reconstructions and, if
`needs_random_images` is true, images that are decoded from random noise, with their labels. It multiplies the gradient
of the loss by a factor that makes its norm at the decoder's output `weight` times that of the gradient of the
distortion, so that the scale of a loss does not matter, and the same weight suits every likelihood and image size.

A loss may have networks of its own. Those that are frozen are prepared by `prepare`; those that are trained together
with the model, such as a discriminator, minimize `training_loss`. Both are saved in checkpoints, but not in the model.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from cvae.data import Dataset


class ImageBatch(NamedTuple):
    """Images and the decoder's images, with pixels in [0, 1].

    Attributes:
        image: images (B, C, H, W), before they are binarized.
        reconstruction: mean of p(x | z) for a sample from the posterior of each image, (B, C, H, W).
        random_image: images (N, C, H, W) that are decoded from random noise, if a loss of the run needs them, else
            None.
        random_label: labels (N,) int64 for which `random_image` was decoded, if a label is the model's only condition,
            else None. The number of classes stands for an unknown label.
    """

    image: Tensor
    reconstruction: Tensor
    random_image: Tensor | None = None
    random_label: Tensor | None = None


class ImageLoss(nn.Module, ABC):
    """Base class of the losses.

    Attributes:
        weight: norm of the gradient of this loss at the decoder's output, relative to that of the distortion of the
            images before they are binarized.
        start: number of steps before the loss affects the model. Its own networks are trained from the first step on.
        lr: learning rate of the parameters of the loss.
        betas: decay rates of Adam's moving averages for these parameters.
    """

    weight: float
    start: int = 0
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.9)

    @property
    def needs_random_images(self) -> bool:
        """Whether the loss also takes images that are decoded from random noise."""
        return False

    @property
    def needs_labels(self) -> bool:
        """Whether the loss takes labels, so that the only condition of the model must be a label."""
        return False

    def prepare(self, dataset: Dataset, seed: int) -> str | None:
        """Train or download frozen networks before the first step of a run, and return a note for the log, or None.

        Only the main process calls this. A resumed run loads the networks from its checkpoint instead.

        Raises:
            UsageError: If the loss does not support the data.
            CvaeError: If a download fails.
        """
        return None

    @abstractmethod
    def forward(self, batch: ImageBatch) -> Tensor:
        """Return the loss of the decoder, a scalar in any unit."""

    def training_loss(self, batch: ImageBatch) -> Tensor | None:
        """Return the loss of this loss's own parameters, a scalar, or None if they are not trained."""
        return None
