"""The classifier that judges generated images, and that the classification accuracy score trains on them. With torch.

`model_zoo/scripts/train_classifier.py` trains the one for MNIST that comes with cvae.
"""

from collections.abc import Callable
from dataclasses import replace
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
from cvae.evaluation.evaluate import Progress, black_and_white, generate_batches

FEATURES = 128
"""Numbers of the last hidden layer, on which distances between sets of images are taken."""

BATCH, EPOCHS, STEPS = 128, 8, 1500
"""Passes over the images, and at least so many steps."""


class Classifier(nn.Module):
    """Convolutions and pooling until no side is longer than 4, then one hidden layer: image -> logits, features."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        while max(height, width) > 4:
            out = 64 if layers else 32
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            channels, height, width = out, -(-height // 2), -(-width // 2)
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, FEATURES), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(FEATURES, classes))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
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
    """Train one on images (N, C, H, W), uint8 or float32 in [0, 1], and labels (N,), moved by a 14th of a side."""
    torch.manual_seed(seed)
    model = Classifier(images.shape[1:], classes).to(device)
    pixels, truth = torch.from_numpy(images), torch.from_numpy(labels)
    steps = -(-len(pixels) // BATCH)
    epochs = max(EPOCHS, -(-STEPS // steps))
    height, width = images.shape[2:]
    shift = min(height, width) // 14
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * steps)
    for epoch in range(epochs):
        for step, index in enumerate(torch.randperm(len(pixels)).split(BATCH)):
            image = pixels[index].to(device)
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            top, left = torch.randint(2 * shift + 1, (2,)).tolist()
            wider = pad(image, (shift,) * 4, mode="replicate")
            logits, _ = model(wider[:, :, top : top + height, left : left + width])
            loss = cross_entropy(logits, truth[index].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(epoch * steps + step + 1, epochs * steps)
    return model.eval()


@torch.inference_mode()
def predict(model: Classifier, images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W), uint8 or float32 in [0, 1] -> the most probable class of each (N,)."""
    device = next(model.parameters()).device
    classes = []
    for part in torch.from_numpy(images).split(500):
        part = part.to(device)
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        classes.append(model(part)[0].argmax(1).cpu())
    return torch.cat(classes).numpy()


def accuracy_score(
    scorer: Scorer, data: DataConfig, *, seed: int = 0, device: str = "cpu", progress: Progress
) -> dict[str, Any]:
    """The classification accuracy score: train on generated images, as many as there are real ones; test on real ones.

    Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887. Beside it that of the same classifier on the real images.

    Raises:
        UsageError: the model has no labels, or the data no test images with labels.
    """
    if scorer.classes is None:
        raise UsageError(f"{scorer.name!r} has no labels, so a classifier can't learn from its images; leave out --cas")
    dataset = load_dataset(replace(data, conditional=True, binarize="none", validation=0.0, limit=None))
    if dataset.test is None or dataset.test.labels is None or dataset.train.labels is None:
        raise UsageError(f"{data.data!r} has no test images to try a classifier on; leave out --cas")
    real, labels = dataset.train.images[:], dataset.train.labels
    binary = black_and_white(real)
    parts = []
    for image in generate_batches(scorer, labels, len(real), seed, binary):
        parts.append(np.round(255 * image).astype(np.uint8))
        progress("images to learn from", sum(map(len, parts)), len(real))
    accuracy = {}
    for name, images in (("generated", np.concatenate(parts)), ("real", real)):
        model = fit(
            images,
            labels,
            len(scorer.classes),
            seed=seed,
            device=choose_device(device),
            progress=lambda *at, name=name: progress(f"learning from {name}", *at),
        )
        accuracy[name] = float((predict(model, dataset.test.images[:]) == dataset.test.labels).mean())
    return {
        "classification_accuracy_score": accuracy["generated"],
        "classification_accuracy_of_real_data": accuracy["real"],
        "images_learnt_from": len(real),
    }
