"""Label loss: a frozen classifier makes random images show the label that they were decoded for."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import cross_entropy

from cvae.data import Dataset
from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.models.feature_networks import FeatureClassifier
from cvae.models.losses import ImageBatch, ImageLoss


class LabelLoss(ImageLoss):
    """Cross-entropy, under a classifier, of the labels that random images were decoded for.

    The likelihood alone hardly makes a decoder use the label, because the latents of an image already contain most of
    it. Where noise leads to latents that could belong to two labels, the decoder then shows the wrong one. This loss
    makes it decide by the label (Odena, Olah & Shlens 2016, "AC-GAN", https://arxiv.org/abs/1610.09585). The classifier
    is trained on the images and labels of the data before the first step, and then frozen.

    Args:
        image_shape: shape (C, H, W) of the images.
        classes: number of classes, or None if the data have no labels.
        weight: norm of the gradient at the decoder's output, relative to that of the distortion.
        steps: number of training steps of the classifier, of 64 images each.

    Raises:
        UsageError: If not all images have a label, or they have other conditions too.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int | None,
        *,
        weight: Annotated[float, Interval(minimum=0)] = 0.2,
        steps: Annotated[int, Interval(minimum=1)] = 600,
    ) -> None:
        super().__init__()
        if classes is None or classes < 2:
            raise UsageError(
                "--loss label needs a label of two or more classes that every image has, and no other condition, which "
                "these data don't have; leave it out, or leave out other conditions with --ignore"
            )
        self.weight = weight
        self.classifier = FeatureClassifier(image_shape, classes, steps)
        self.requires_grad_(False)

    @property
    def needs_random_images(self) -> bool:
        return True

    @property
    def needs_labels(self) -> bool:
        return True

    def prepare(self, dataset: Dataset, seed: int) -> str:
        note = self.classifier.prepare(dataset, seed)
        self.eval().requires_grad_(False)
        return f"label loss: {note}"

    def forward(self, batch: ImageBatch) -> Tensor:
        assert batch.random_image is not None and batch.random_label is not None
        logits = self.classifier.logits(batch.random_image).float()
        is_known = batch.random_label < logits.shape[1]
        losses = cross_entropy(logits, batch.random_label.clamp(max=logits.shape[1] - 1), reduction="none")
        return (losses * is_known).mean()
