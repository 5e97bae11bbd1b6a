"""An image classifier, and the classification accuracy score: its accuracy after training on generated images.

`model_zoo/scripts/train_classifier.py` trains the bundled MNIST classifier with this module.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from cvae.config import DataConfig
from cvae.data import load_dataset
from cvae.engine.resolve import choose_device
from cvae.errors import UsageError
from cvae.evaluation.bounds import Scorer
from cvae.evaluation.evaluate import Progress, generate_batches, is_binary

NUM_FEATURES = 128
"""Width of the last hidden layer. Its activations are the features that distances between image sets compare."""

BATCH_SIZE = 128
"""Number of images in a training batch."""

MIN_EPOCHS = 8
"""Minimum number of training epochs."""

MIN_STEPS = 1500
"""Minimum number of training steps; on small data sets, reaching it takes more than `MIN_EPOCHS` epochs."""


class Classifier(nn.Module):
    """A convolutional classifier: convolutions and pooling down to sides of at most 4, then one hidden layer."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        while max(height, width) > 4:
            out = 64 if layers else 32
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            channels, height, width = out, -(-height // 2), -(-width // 2)
        self.features = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * height * width, NUM_FEATURES), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(NUM_FEATURES, classes))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and features (B, 128)."""
        features = self.features(image)  # (B, C, H, W) -> (B, 128)
        return self.head(features), features  # (B, K), (B, 128)


def fit(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Train a classifier on images that are shifted at random by at most a 14th of the shorter side.

    Args:
        images: (N, C, H, W), uint8 or float32 in [0, 1].
        labels: (N,) int64.
        classes: number of classes.
        seed: seed of the weights, the order of the images and the shifts.
        device: torch device.
        progress: function called with the number of finished steps and the total.
    """
    torch.manual_seed(seed)
    model = Classifier(images.shape[1:], classes).to(device)
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels)
    epoch_steps = -(-len(pixels) // BATCH_SIZE)
    epochs = max(MIN_EPOCHS, -(-MIN_STEPS // epoch_steps))
    height, width = images.shape[2:]
    shift = min(height, width) // 14
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * epoch_steps)
    for epoch in range(epochs):
        for step, index in enumerate(torch.randperm(len(pixels)).split(BATCH_SIZE)):
            image = pixels[index].to(device)
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            top, left = torch.randint(2 * shift + 1, (2,)).tolist()
            padded = pad(image, (shift,) * 4, mode="replicate")
            logits, _ = model(padded[:, :, top : top + height, left : left + width])
            loss = cross_entropy(logits, targets[index].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if progress is not None:
                progress(epoch * epoch_steps + step + 1, epochs * epoch_steps)
    return model.eval()


@torch.inference_mode()
def predict(model: Classifier, images: np.ndarray) -> np.ndarray:
    """Return the most probable class (N,) of each image (N, C, H, W), uint8 or float32 in [0, 1]."""
    device = next(model.parameters()).device
    classes = []
    for batch in torch.from_numpy(images).split(500):
        batch = batch.to(device)
        batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        classes.append(model(batch)[0].argmax(1).cpu())
    return torch.cat(classes).numpy()


def accuracy_score(
    scorer: Scorer, data: DataConfig, *, seed: int = 0, device: str = "cpu", progress: Progress
) -> dict[str, Any]:
    """Return the classification accuracy score of a conditional model.

    A classifier is trained on as many generated images as there are real training images, and tested on real images
    (Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887): test images or, if there are none, validation images.
    For comparison, the accuracy of a classifier that is trained on the real images is returned too.

    Raises:
        UsageError: If the model has no labels, or the data have no labelled images to test with.
    """
    if scorer.classes is None:
        raise UsageError(f"{scorer.name!r} has no labels, so a classifier can't learn from its images; remove --cas")
    config = replace(data, conditional=True, binarize="none", limit=None)
    dataset = load_dataset(replace(config, validation=0.0))
    if dataset.test is None:
        dataset = load_dataset(config)
    test = dataset.validation if dataset.test is None else dataset.test
    if test is None or test.labels is None or dataset.train.labels is None:
        raise UsageError(f"{data.data!r} has no labelled images to test a classifier with; remove --cas")
    real, labels = dataset.train.images[:], dataset.train.labels
    binary = is_binary(real)
    generated = []
    for image in generate_batches(scorer, labels, len(real), seed, binary):
        generated.append(np.round(255 * image).astype(np.uint8))
        progress("images to learn from", sum(map(len, generated)), len(real))
    accuracy = {}
    for name, images in (("generated", np.concatenate(generated)), ("real", real)):
        model = fit(
            images,
            labels,
            len(scorer.classes),
            seed=seed,
            device=choose_device(device),
            progress=partial(progress, f"learning from {name}"),
        )
        accuracy[name] = float((predict(model, test.images[:]) == test.labels).mean())
    return {
        "classification_accuracy_score": accuracy["generated"],
        "classification_accuracy_of_real_data": accuracy["real"],
        "images_learnt_from": len(real),
    }
