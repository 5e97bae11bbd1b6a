"""Perceptual loss: the distance between images in the features of a frozen network."""

from typing import Annotated

import torch
from torch import Tensor

from cvae.data import Dataset
from cvae.errors import CvaeError, UsageError, one_line, suggest
from cvae.flags import Interval
from cvae.models.feature_networks import LPIPS, VGG16, FeatureClassifier, FeatureNetwork
from cvae.models.losses import ImageBatch, ImageLoss

NETWORKS = ("auto", "classifier", "vgg16", "lpips")


class Perceptual(ImageLoss):
    """Distance between the features of images and of their reconstructions, at several layers of a frozen network.

    The loss is the mean over the images of the LPIPS or, for the other networks, of the squared distance relative to
    the mean square of the features (Johnson, Alahi & Fei-Fei 2016, eq. 2, https://arxiv.org/abs/1603.08155). With these
    networks, features that are scaled to unit length at each position, as in LPIPS, lead to stripes in images where the
    features of a small classifier are weak.

    Args:
        image_shape: shape (C, H, W) of the images.
        classes: number of classes, or None if the data have no labels.
        weight: norm of the gradient at the decoder's output, relative to that of the distortion.
        network: network that computes the features: a `classifier`, which is trained on the labels of the data before
            the first step; `vgg16`, which was trained on ImageNet and is downloaded; `lpips`, the same with the
            distance LPIPS; or `auto`, a classifier if the data have labels, else VGG16.

    Raises:
        UsageError: If there is no such network, or the data do not suit it.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int | None,
        *,
        weight: Annotated[float, Interval(minimum=0)] = 0.2,
        network: str = "auto",
    ) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise UsageError(f"option network={network!r}: no such network; {suggest(network, NETWORKS)}")
        self.weight = weight
        self.is_required = network in ("vgg16", "lpips")
        has_labels = classes is not None and classes > 1
        if network == "classifier" and not has_labels:
            raise UsageError(
                "option network='classifier' needs labels of two or more classes, which these data don't have; use "
                "--set perceptual.network=vgg16, which is downloaded, or data with a subfolder per class"
            )
        self.features: FeatureNetwork
        if network == "lpips":
            self.features = LPIPS(image_shape)
        elif network == "vgg16" or not has_labels:
            self.features = VGG16(image_shape)
        else:
            assert classes is not None
            self.features = FeatureClassifier(image_shape, classes)
        self.requires_grad_(False)

    def prepare(self, dataset: Dataset, seed: int) -> str:
        try:
            note = self.features.prepare(dataset, seed)
        except CvaeError as error:
            if self.is_required or isinstance(error, UsageError):
                raise
            raise CvaeError(
                f"--loss perceptual needs labels, to train a classifier, or else VGG16: {one_line(error, 400)}"
            ) from error
        self.eval().requires_grad_(False)
        return f"perceptual loss: {note}"

    def forward(self, batch: ImageBatch) -> Tensor:
        with torch.no_grad():
            expected = self.features(batch.image)
        return self.features.distance(self.features(batch.reconstruction), expected).mean()
