"""Bounds on held-out images during training."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from cvae.config import Config
from cvae.data import Split
from cvae.engine.batches import Batches
from cvae.engine.randomness import Shard, reseed
from cvae.models import VAE, Terms
from cvae.models.objectives import iwae

EVALUATION_SEED = 20_131_220
"""Seed of the noise for bounds and sample images. It is fixed, so that they are comparable between epochs."""

MAX_BATCH_SIZE = 64


class Validator:
    """Evaluation of a model on held-out images, which are divided among the processes.

    Args:
        config: Config of the run.
        accelerator: Accelerator that connects the processes of the run.
        shard: This process's part of the batches.
    """

    def __init__(self, config: Config, accelerator: Accelerator, shard: Shard) -> None:
        self.config, self.accelerator, self.shard = config, accelerator, shard

    def batches(self, split: Split) -> Batches:
        """Return batches of a split, small enough that evaluating one needs no more memory than a training step.

        The batch size does not depend on the number of processes, so the bounds do not depend on it either.
        """
        training = self.config.training
        assert training.batch_size is not None  # filled in by configure()
        size = min(MAX_BATCH_SIZE, -(-training.batch_size // training.accumulate))
        return Batches(split, size, self.accelerator.device, self.config.model.conditions, shard=self.shard)

    @torch.no_grad()
    def evaluate(self, model: VAE, batches: Batches) -> dict[str, float]:
        """Return a model's distortion, rate and bound (with beta = 1), in nats per image.

        The number of samples per image is that of the objective, or 1 if the objective has no such option. If it is
        greater than 1, the importance-weighted bound is returned too.
        """
        samples = self.config.training.options["objective"].get("samples", 1)
        device = self.accelerator.device

        def sample(image: Tensor, rows: Tensor | None, samples: int = 1, **_: Any) -> Terms:
            return model(image, rows, torch.randn(len(image) * samples, model.latent_dim, device=device))

        model.eval()
        sums = torch.zeros(3, device=device)
        for i, (images, rows) in enumerate(batches.in_order()):
            reseed(device, EVALUATION_SEED, self.shard.index + i * self.shard.count)
            sums += len(images) * torch.stack(iwae(sample, images.float() / 255, rows, 1.0, samples=samples))
        model.train()
        means = self.accelerator.reduce(sums, "sum").cpu().double() / len(batches.split)
        importance_weighted, distortion, rate = means.tolist()
        metrics = {"distortion": distortion, "rate": rate, "bound": distortion + rate}
        return metrics if samples == 1 else {**metrics, "importance_weighted": importance_weighted}
