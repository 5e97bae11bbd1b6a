"""An image classifier for evaluation: a small residual network that predicts labels or other conditions.

Its predictions measure whether generated images obey their conditions. The features of its last layer are compared by
the distances between sets of images. `model_zoo/scripts/train_classifier.py` trains the bundled MNIST classifier.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from cvae.condition_rows import read_rows
from cvae.conditions import CATEGORY, NUMBER, Condition, single_category
from cvae.data import DiskImages
from cvae.engine.resolve import choose_precision
from cvae.engine.strong_augmentation import augment
from cvae.evaluation.condition_metrics import count_outputs

WIDTHS = (32, 64, 96, 128)
"""Channels of the first convolution and of the residual blocks. The last of them are the features."""

MAX_POSITIONS = 2048
"""Maximum number of positions after the first convolution, so that a step takes about equally long for all images."""

BATCH_SIZE = 32
"""Number of images in a training batch."""

MIN_STEPS = 4000
"""Minimum number of training steps."""

MIN_EPOCHS = 4
"""Minimum number of training epochs; on large data sets, they take more than `MIN_STEPS` steps."""

LEARNING_RATE, WARMUP, WEIGHT_DECAY, LABEL_SMOOTHING = 1.5e-3, 200, 0.05, 0.1
"""Largest learning rate, the number of steps until it is reached, and the other settings of the training."""

LARGE_ERROR = 0.1
"""Errors of a number above this multiple of its standard deviation cost their absolute value, smaller ones less."""

EMA = 0.998
"""Decay of the exponential moving average of the weights."""


class Block(nn.Module):
    """Residual block of two convolutions, which halves the sides (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(channels, out_channels, 3, stride=2), nn.ReLU(), _convolution(out_channels, out_channels, 3)
        )
        self.skip = _convolution(channels, out_channels, 1, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(self.skip(image) + self.residual(image))


class Classifier(nn.Module):
    """Residual network: image (B, C, H, W) in [0, 1] -> outputs (B, O) and features (B, 128)."""

    def __init__(self, image_shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        stride = 1
        while math.ceil(height / stride) * math.ceil(width / stride) > MAX_POSITIONS:
            stride *= 2
        first = [_convolution(channels, WIDTHS[0], 2 * stride + 1, stride), nn.ReLU()]
        blocks = [Block(*widths) for widths in pairwise(WIDTHS)]
        self.body = nn.Sequential(*first, *blocks)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(WIDTHS[-1], outputs))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (B, O) and features (B, 128)."""
        maps = self.body(4 * image - 2)  # (B, C, H, W) -> (B, 128, h, w)
        features = maps.sum((2, 3)) / math.prod(maps.shape[2:])
        return self.head(features), features


def _convolution(channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Module:
    """Return a convolution with batch normalization."""
    convolution = nn.Conv2d(channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def fit(
    images: np.ndarray | DiskImages,
    rows: np.ndarray,
    conditions: Sequence[Condition],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Train a classifier in the faster of bf16 and fp32. This takes minutes on a CPU.

    If the only condition is a category, the images are augmented. Otherwise they are not, because an augmentation could
    change a condition, such as an angle.

    Args:
        images: (N, C, H, W), uint8 or float32 in [0, 1].
        rows: rows of the conditions of the images. Unknown values are not learned.
        conditions: conditions to predict.
        seed: seed of the weights, the order of the images and the augmentation.
        device: torch device.
        progress: function called with the number of finished steps and the total.
    """
    torch.manual_seed(seed)
    targets = Targets(conditions, rows)
    augmented = single_category(conditions) is not None
    outputs = sum(map(count_outputs, conditions))
    model = Classifier(images.shape[1:], outputs).to(device).to(memory_format=torch.channels_last)  # faster on a CPU
    average = deepcopy(model).eval()
    steps = max(MIN_STEPS, MIN_EPOCHS * len(images) // BATCH_SIZE)
    precision = {"bf16": torch.bfloat16, "fp32": torch.float32}[choose_precision("auto", device)]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < BATCH_SIZE:
            order = torch.cat([order, torch.randperm(len(images))])
        index, order = order[:BATCH_SIZE].numpy(), order[BATCH_SIZE:]
        image = _to_float(torch.from_numpy(images[index]).to(device))
        if augmented:  # grey images may be digits or letters, which are not the same in a mirror
            image = augment(image, flip=image.shape[1] == 3)
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            output, _ = model(image.contiguous(memory_format=torch.channels_last))
        loss = targets.loss(output.float(), index)
        optimizer.param_groups[0]["lr"] = _learning_rate(step, steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _update_average(average, model, min(EMA, (step + 1) / (step + 10)))
        if progress is not None:
            progress(step + 1, steps)
    targets.restore_units(average)
    return average


class Targets:
    """Values of conditions that a classifier learns, with numbers in standardized units.

    Args:
        conditions: the conditions.
        rows: rows of N images.
    """

    def __init__(self, conditions: Sequence[Condition], rows: np.ndarray) -> None:
        self.conditions = conditions
        values, self.known = read_rows(conditions, rows)
        self.values, self.mean, self.scale = {}, [], []
        for i, condition in enumerate(conditions):
            mean, scale = np.zeros(count_outputs(condition)), np.ones(count_outputs(condition))
            value, known = values[condition.name], self.known[:, i]
            if condition.kind == NUMBER and known.any():
                numbers = value[known].astype(np.float64)
                mean[:], scale[:] = numbers.mean(), numbers.std() or 1.0
                value = ((value - mean) / scale).astype(np.float32)
            self.values[condition.name] = value
            self.mean.append(mean)
            self.scale.append(scale)

    def loss(self, outputs: Tensor, index: np.ndarray) -> Tensor:
        """Return the loss of outputs (B, O) for the images with the given indices, summed over the conditions."""
        total = 0 * outputs.sum()  # has a gradient even if no value is known
        parts = outputs.split([count_outputs(condition) for condition in self.conditions], dim=1)
        for i, (condition, output) in enumerate(zip(self.conditions, parts, strict=True)):
            known = np.flatnonzero(self.known[index, i])
            if not len(known):
                continue
            target = torch.from_numpy(self.values[condition.name][index[known]]).to(outputs.device)
            output = output if len(known) == len(index) else output[torch.from_numpy(known).to(outputs.device)]
            if condition.kind == CATEGORY:
                total = total + cross_entropy(output, target.long(), label_smoothing=LABEL_SMOOTHING)
            elif condition.kind == NUMBER:
                total = total + smooth_l1_loss(output[:, 0], target, beta=LARGE_ERROR)
            else:
                total = total + binary_cross_entropy_with_logits(output, target)
        return total

    @torch.no_grad()
    def restore_units(self, model: Classifier) -> None:
        """Change the last layer of a trained classifier so that it predicts numbers in their own units."""
        layer = model.head[-1]
        assert isinstance(layer, nn.Linear)
        mean, scale = (torch.from_numpy(np.concatenate(values)).to(layer.weight) for values in (self.mean, self.scale))
        layer.weight *= scale[:, None]
        layer.bias.mul_(scale).add_(mean)


def _learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine."""
    return LEARNING_RATE * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update the moving average of the weights and of the batch statistics."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)


def _to_float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


@torch.inference_mode()
def predict(model: Classifier, images: np.ndarray) -> np.ndarray:
    """Return the outputs (N, O) for images (N, C, H, W), uint8 or float32 in [0, 1]."""
    device = next(model.parameters()).device
    batches = torch.from_numpy(images).split(500)
    return torch.cat([model(_to_float(batch.to(device)))[0].cpu() for batch in batches]).numpy()
