"""The classifier that judges generated images, and that the classification accuracy score trains on them. With torch.

    python -m cvae.evaluation.classifier

trains the one for MNIST that comes with cvae and writes it beside this file, with its accuracy and its hash.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

FEATURES = 128
"""Numbers of the last hidden layer, on which distances between sets of images are taken."""

EPOCHS, BATCH, SHIFT = 8, 128, 2


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
    epochs: int = EPOCHS,
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Train one on images (N, C, H, W), uint8 or float32 in [0, 1], and labels (N,), moved by up to 2 pixels."""
    torch.manual_seed(seed)
    model = Classifier(images.shape[1:], classes)
    pixels, truth = torch.from_numpy(images), torch.from_numpy(labels)
    steps = -(-len(pixels) // BATCH)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * steps)
    for epoch in range(epochs):
        for step, index in enumerate(torch.randperm(len(pixels)).split(BATCH)):
            image = pixels[index]
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            dy, dx = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            logits, _ = model(torch.roll(image, (dy, dx), (2, 3)))
            loss = cross_entropy(logits, truth[index])
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
    classes = []
    for part in torch.from_numpy(images).split(500):
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        classes.append(model(part)[0].argmax(1))
    return torch.cat(classes).numpy()


def main() -> None:
    from cvae.config import TrainConfig
    from cvae.data import load_dataset
    from cvae.evaluation.judge import KEY, SHIPPED
    from cvae.exporters.onnx import trace

    dataset = load_dataset(TrainConfig(data="mnist", validation=0.0))
    assert dataset.train.labels is not None and dataset.test is not None and dataset.classes is not None
    model = fit(dataset.train.images[:], dataset.train.labels, len(dataset.classes))
    accuracy = float((predict(model, dataset.test.images[:]) == dataset.test.labels).mean())
    example = torch.rand(2, *dataset.train.images.shape[1:])
    graph = trace(model, {"image": example}, ("logits", "features"))
    facts = {"name": "mnist", "data": "mnist", "classes": dataset.classes, "accuracy": accuracy}
    graph.metadata_props.add(key=KEY, value=json.dumps(facts))
    data = graph.SerializeToString(deterministic=True)
    (Path(__file__).parent / SHIPPED["mnist"][0]).write_bytes(data)
    print(f"accuracy {accuracy:.2%}, {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
