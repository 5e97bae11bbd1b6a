"""Semi-supervised training: unknown values of a category are drawn from a classifier q(y | x).

The bound of an image whose label y is unknown is the mean of ELBO(x, y) under q(y | x), plus the entropy of q(y | x):
the model M2 of Kingma et al. 2014, eq. 7, https://arxiv.org/abs/1406.5298. A label that is drawn from q(y | x) in each
step gives an unbiased gradient for the weights of the model, with any objective.

Kingma et al. train q(y | x) with the model. If few labels are known, such a model can ignore them: its latents explain
the images without labels too. The classifier is therefore trained before the model, on the known labels and on its own
confident predictions (FixMatch; Sohn et al. 2020, https://arxiv.org/abs/2001.07685).
"""

import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cvae.condition_rows import label_category, read_category
from cvae.config import Config
from cvae.data import Dataset, Split, condition_rows
from cvae.engine.processes import copy_from_main
from cvae.engine.randomness import reseed
from cvae.engine.strong_augmentation import augment
from cvae.errors import count_of
from cvae.models.conditions import ConditionEmbedding
from cvae.models.feature_networks import MAX_HELD_OUT, FeatureClassifier, measure_accuracy

MIN_STEPS, MAX_STEPS = 600, 3000
"""Range of the number of training steps of the classifier. In between, it has as many steps as the model.

After fewer steps, the probabilities of even the right labels are small, so the labels that are drawn are mostly wrong.
"""

KNOWN_BATCH, UNKNOWN_BATCH = 32, 64
"""Number of images with a known and with an unknown label in each of these steps."""

CONFIDENCE = 0.95
"""Minimum probability with which a predicted label is learned, as in the paper."""

LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.02
"""Largest learning rate, and the weight decay, of the classifier."""

EMA = 0.99
"""Decay of the moving average of the classifier's weights, which predicts the labels."""

MAX_POSITIONS = 2048
"""Maximum number of pixels that the classifier sees. Larger images are scaled down by an integer."""


class LabelClassifier(nn.Module):
    """Classifier that draws unknown values of the first category.

    Args:
        config: config of the run.
        accelerator: processes that train together.
        model_steps: number of training steps of the model.
    """

    def __init__(self, config: Config, accelerator: Accelerator, model_steps: int) -> None:
        super().__init__()
        self.steps = min(MAX_STEPS, max(MIN_STEPS, model_steps))
        self.config, self.accelerator = config, accelerator
        self.conditions = config.model.conditions
        self.index, self.category = label_category(self.conditions)
        channels, height, width = config.model.image_shape
        self.factor = math.ceil(math.sqrt(height * width / MAX_POSITIONS))
        self.network = FeatureClassifier((channels, height, width), len(self.category.values))
        self.to(accelerator.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, embedding: ConditionEmbedding, image: Tensor, rows: Tensor, random: Tensor) -> Tensor:
        """Return rows in which the category is known: unknown values are drawn from q(y | x).

        Args:
            embedding: the conditions of the model.
            image: images (B, C, H, W) in [0, 1].
            rows: rows of their conditions.
            random: uniform random numbers in 0..1, (B,), which choose the values.
        """
        posterior = self._logits(self.network, image).softmax(1)  # (B, K)
        values = (posterior.cumsum(1) < random[:, None]).sum(1).clamp(max=len(self.category.values) - 1)
        unknown = embedding.is_unknown(rows, self.index)
        unknown = unknown if rows.ndim == 1 else unknown[:, None]
        return torch.where(unknown, embedding.with_category(rows, self.index, values), rows)

    def prepare(self, dataset: Dataset) -> list[str]:
        """Train the classifier in the main process, copy it to the others, and return notes for the log."""
        labels = self._labels(dataset.train)
        unknown = int((labels == len(self.category.values)).sum())
        if not unknown:
            return [f"{self.category.name} is known for all images, so no label is imputed"]
        notes = []
        if self.accelerator.is_main_process:
            reseed(self.accelerator.device, self.config.training.seed, "label classifier")
            self._fit(dataset.train, labels)
            notes = [
                f"{self.category.name} is unknown for {unknown:,} of {count_of(len(labels), 'image')}, and drawn from "
                f"a classifier{self._describe_accuracy(dataset)}"
            ]
        copy_from_main(self.state_dict().values(), self.accelerator)
        return notes

    def _fit(self, split: Split, labels: np.ndarray) -> None:
        """Train the network on images and labels, K where unknown. Its weights become their moving average."""
        device, flip = self.accelerator.device, self.config.training.flip
        known = np.flatnonzero(labels < len(self.category.values))
        unknown = np.flatnonzero(labels == len(self.category.values))
        targets = torch.from_numpy(labels)
        average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(EMA), use_buffers=True)
        teacher = average.module.eval()
        assert isinstance(teacher, FeatureClassifier)
        self.network.train().requires_grad_(True)
        optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=WEIGHT_DECAY)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, self.steps)
        # fp16 would need a scaler of its own
        autocast = self.accelerator.autocast if self.accelerator.scaler is None else nullcontext
        for _ in range(self.steps):
            known_batch = known[torch.randint(len(known), (KNOWN_BATCH,)).numpy()]
            unknown_batch = unknown[torch.randint(len(unknown), (UNKNOWN_BATCH,)).numpy()]
            images = torch.from_numpy(split.images[np.concatenate([known_batch, unknown_batch])]).to(device)
            images = images.float().div_(255)
            with autocast():
                logits = self._logits(self.network, augment(images, flip=flip))
                with torch.no_grad():
                    prediction = self._logits(teacher, images[KNOWN_BATCH:]).softmax(1)
            confidence, predicted = prediction.max(1)
            loss = cross_entropy(logits[:KNOWN_BATCH], targets[known_batch].to(device))
            losses = cross_entropy(logits[KNOWN_BATCH:], predicted, reduction="none")
            loss = loss + (losses * (confidence > CONFIDENCE)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            average.update_parameters(self.network)
        self.network.load_state_dict(teacher.state_dict())
        self.network.eval().requires_grad_(False).zero_grad()

    def _logits(self, network: FeatureClassifier, image: Tensor) -> Tensor:
        """Return the logits (B, K) of the values."""
        if self.factor > 1:
            image = avg_pool2d(image, self.factor, ceil_mode=True)
        return network.logits(image.contiguous(memory_format=torch.channels_last)).float()

    def _labels(self, split: Split) -> np.ndarray:
        """Return the index of each image's value, K if it is unknown, (N,) int64."""
        rows = condition_rows(split)
        assert rows is not None
        return read_category(self.conditions, rows)[0]

    def _describe_accuracy(self, dataset: Dataset) -> str:
        """Say how many held-out images are classified correctly, or return "" if no label of such images is known."""
        for split in (dataset.validation, dataset.test):
            labels = np.empty(0) if split is None or condition_rows(split) is None else self._labels(split)
            known = np.flatnonzero(labels < len(self.category.values))
            if split is not None and len(known):
                logits, device = partial(self._logits, self.network), self.accelerator.device
                accuracy = measure_accuracy(logits, split, labels, known, device)
                count = count_of(min(len(known), MAX_HELD_OUT), "held-out image")
                return f" that is right for {accuracy:.1%} of {count}"
        return ""
