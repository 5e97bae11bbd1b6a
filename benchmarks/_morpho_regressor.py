"""Network that recognizes the digit, the angle and the thickness of an image of Morpho-MNIST."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from cvae.atomic import write_file

BATCH_SIZE = 128
LEARNING_RATE = 4e-3
MAX_SHIFT = 1
"""Largest random shift of a training image in pixels, in each direction."""


class Regressor(nn.Module):
    """Convolutional network: image (B, 1, 28, 28) -> logits of the digits (B, 10), standardized numbers (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 24, 1), (24, 32, 2), (32, 64, 1), (64, 64, 2), (64, 96, 1)):
            convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 7 * 7, 128), nn.ReLU())
        self.head = nn.Linear(128, 12)
        self.register_buffer("mean", torch.zeros(2))  # of the angle in degrees and the thickness in pixels
        self.register_buffer("std", torch.ones(2))
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits, numbers = self.head(self.body(image)).split([10, 2], dim=1)
        return logits, numbers


def train_regressor(
    images: np.ndarray, label: np.ndarray, angle: np.ndarray, thickness: np.ndarray, *, epochs: int, seed: int = 0
) -> Regressor:
    """Train a regressor with the cross-entropy of the digit plus the absolute errors of the standardized numbers.

    Args:
        images: (N, 28, 28) uint8.
        label: digits (N,).
        angle: degrees (N,).
        thickness: pixels (N,).
        epochs: number of epochs.
        seed: seed of the initial weights, the batches and the shifts.
    """
    torch.manual_seed(seed)
    model = Regressor()
    digits, numbers = torch.from_numpy(label).long(), torch.from_numpy(np.column_stack([angle, thickness])).float()
    model.mean, model.std = numbers.mean(0), numbers.std(0)
    numbers = (numbers - model.mean) / model.std
    steps = len(images) // BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * steps, pct_start=0.2)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for index in torch.randperm(len(images))[: steps * BATCH_SIZE].split(BATCH_SIZE):
            logits, predictions = model(_shift(_as_tensor(images[index.numpy()])))
            loss = F.cross_entropy(logits, digits[index]) + (predictions - numbers[index]).abs().mean(0).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch}/{epochs}: training loss {total / steps:.4f}", file=sys.stderr)
    return model.eval()


def measure(regressor: Regressor, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the digit, the angle in degrees and the thickness in pixels of each image (N,).

    Args:
        regressor: a trained regressor.
        images: (N, 28, 28) or (N, 1, 28, 28), uint8 or float in [0, 1].
    """
    digits, numbers = [], []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH_SIZE):
            logits, standardized = regressor(_as_tensor(images[start : start + BATCH_SIZE]))
            digits.append(logits.argmax(1))
            numbers.append(standardized * regressor.std + regressor.mean)
    angle, thickness = torch.cat(numbers).T.numpy()
    return {"label": torch.cat(digits).numpy(), "angle": angle, "thickness": thickness}


def save_regressor(path: Path, regressor: Regressor, errors: dict[str, float]) -> None:
    """Write the weights, and the errors on real test images as metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in regressor.state_dict().items()}  # not channels-last
    write_file(path, save(tensors, {"errors": json.dumps(errors)}))


def load_regressor(path: Path) -> tuple[Regressor, dict[str, Any]]:
    """Return a saved regressor and its errors on real test images."""
    regressor = Regressor()
    with safe_open(path, "pt") as file:
        regressor.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        errors = json.loads(file.metadata()["errors"])
    return regressor.eval(), errors


def _as_tensor(images: np.ndarray) -> Tensor:
    """Convert images to float32 (N, 1, 28, 28) in [0, 1]."""
    scale = 255 if images.dtype == np.uint8 else 1
    return torch.from_numpy(images.reshape(-1, 1, 28, 28)).float() / scale


def _shift(images: Tensor) -> Tensor:
    """Shift all images of a batch by the same random number of pixels."""
    down, right = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2,)).tolist()
    return images.roll((down, right), (2, 3))  # the border of the images is black
