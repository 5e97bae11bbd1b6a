"""Bounds on held-out images during training."""

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
"""Seed of the noise of bounds and sample images, so that those of a run can be compared."""

MAX_BATCH_SIZE = 64


class Validator:
    """Computes the bounds of a model on held-out images, which the processes share.

    Args:
        shard: the part of the batches that belongs to this process.
    """

    def __init__(self, config: Config, accelerator: Accelerator, shard: Shard) -> None:
        self.config, self.accelerator, self.shard = config, accelerator, shard

    def batches(self, split: Split) -> Batches:
        """Return batches that fit into memory where a training step does, the same for any number of processes."""
        training = self.config.training
        size = min(MAX_BATCH_SIZE, -(-training.batch_size // training.accumulate))
        labelled = self.config.model.classes is not None
        return Batches(split, size, self.accelerator.device, labelled=labelled, shard=self.shard)

    @torch.no_grad()
    def evaluate(self, model: VAE, batches: Batches) -> dict[str, float]:
        """Return distortion, rate and the beta = 1 bound in nats per image, from one sample of noise per image.

        If the objective takes several samples, so does this, and adds their importance-weighted bound.
        """
        samples = self.config.training.options["objective"].get("samples", 1)
        device = self.accelerator.device

        def sample(image: Tensor, label: Tensor | None, samples: int = 1) -> Terms:
            return model(image, label, torch.randn(len(image) * samples, model.latent_dim, device=device))

        model.eval()
        sums = torch.zeros(3, device=device)
        for i, (images, label) in enumerate(batches.in_order()):
            reseed(device, EVALUATION_SEED, self.shard.index + i * self.shard.count)
            sums += len(images) * torch.stack(iwae(sample, images.float() / 255, label, 1.0, samples=samples))
        model.train()
        means = self.accelerator.reduce(sums, "sum").cpu().double() / len(batches.split)
        weighted, distortion, rate = means.tolist()
        metrics = {"distortion": distortion, "rate": rate, "bound": distortion + rate}
        return metrics if samples == 1 else {**metrics, "importance_weighted": weighted}


def selection_bound(metrics: dict[str, float]) -> float:
    """Return the bound to select weights by: the importance-weighted one where there is one.

    An importance-weighted objective improves it at the expense of the ELBO.
    """
    return metrics.get("importance_weighted", metrics["bound"])


def format_bound(metrics: dict[str, float]) -> str:
    """Format the bound with its terms, as "99.10 nats (74.20 + 24.90)"."""
    text = f"{metrics['bound']:.2f} nats ({metrics['distortion']:.2f} + {metrics['rate']:.2f})"
    return f"{text}, {metrics['importance_weighted']:.2f} weighted" if "importance_weighted" in metrics else text
