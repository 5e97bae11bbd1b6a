"""A scorer for runs, which evaluates the trained posterior in torch."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvae.config import TrainConfig
from cvae.engine import load_model
from cvae.engine.resolve import choose_device, choose_precision
from cvae.evaluation.bounds import Samples
from cvae.flags import check_values
from cvae.models import VAE, Hierarchical


class Encoded(NamedTuple):
    """A batch of images, the embedding of their conditions, and the encoder's output."""

    image: Tensor
    condition: Tensor | None
    features: tuple[Tensor, ...]


class RunScorer:
    """A scorer that evaluates a run in torch, with its trained weights and posterior.

    Args:
        run: the run folder.
        device: torch device, or "auto".
        precision: precision of the bounds: "fp32", "bf16", "fp16" or "auto".

    Raises:
        UsageError: If the device or precision is unknown or not available.
        CvaeError: If the run is damaged.
    """

    def __init__(self, run: Path, device: str = "auto", precision: str = "fp32") -> None:
        check_values(TrainConfig, {"device": device, "precision": precision})
        self.device = choose_device(device)
        precision = choose_precision(precision, self.device)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        model, config = load_model(run)
        self.model: VAE = model.to(self.device).eval()
        self.name, self.backend = run.resolve().name, f"torch, bounds in {precision}"
        self.image_shape, self.latent_dim = config.model.image_shape, config.model.latent_dim
        self.conditions, self.classes = config.model.conditions, config.model.classes
        self.likelihood, self.discrete = config.model.likelihood.name, model.likelihood.discrete
        decoder = model.decoder
        self.groups: tuple[int, ...] = decoder.groups if isinstance(decoder, Hierarchical) else (self.latent_dim,)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not None)

    def _tensor(self, array: np.ndarray | None) -> Any:
        return None if array is None else torch.from_numpy(array).to(self.device)

    def decode(self, noise: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            return self.model.decode(self._tensor(noise), self._tensor(rows)).cpu().numpy()

    def reconstruct(self, images: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        row = self._tensor(rows)
        with torch.inference_mode():
            return self.model.decode(self.model.encode(self._tensor(images), row)[0], row).cpu().numpy()

    def encode(self, images: np.ndarray, rows: np.ndarray | None) -> Encoded:
        image, condition = self._tensor(images), self.model.embed(self._tensor(rows))
        with torch.inference_mode(), self._autocast():
            return Encoded(image, condition, self.model.encoder(image, condition))

    def sample(self, encoded: Encoded, noise: np.ndarray) -> Samples:
        batch, count, _ = noise.shape
        flat_noise = self._tensor(noise).flatten(0, 1)  # (B, K, Z) -> (B K, Z)
        with torch.inference_mode(), self._autocast():
            terms = self.model.terms(encoded.image, encoded.condition, encoded.features, flat_noise)
        rate = sum_by_group(terms.rate, self.groups)  # (B K, D) -> (B K, G)
        distortion, log_ratio, rate, mean, var = (
            tensor.unflatten(0, (batch, count)).cpu().numpy()
            for tensor in (terms.distortion, terms.log_ratio, rate, terms.mean, terms.log_var.exp())
        )
        return Samples(distortion, log_ratio, rate, mean, var)


def sum_by_group(rate: Tensor, groups: Sequence[int]) -> Tensor:
    """Sum the rate (B, D) over the dimensions of each group of latents: (B, G).

    Groups that share the first column, because the prior transforms them together, count as one.
    """
    shared = sum(groups) - rate.shape[1] + 1  # number of latent dimensions in the first column
    ends = [end - shared + 1 for end in accumulate(groups) if end >= shared]
    return torch.stack([rate[:, start:end].sum(1) for start, end in pairwise([0, *ends])], dim=1)
