"""Losses on the decoder's images: their gradients at its output, and the training of their own networks."""

import math
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cvae.conditions import single_category
from cvae.config import Config
from cvae.data import Dataset
from cvae.engine.optimizers import adam
from cvae.engine.processes import copy_from_main
from cvae.engine.randomness import reseed
from cvae.errors import UsageError
from cvae.models import VAE
from cvae.models.likelihoods import Likelihood
from cvae.models.losses import ImageBatch, ImageLoss
from cvae.registry import LOSSES

MIN_NORM = 1e-20
"""Minimum norm of a gradient to divide by."""


class ImageLosses(nn.Module):
    """Losses that a run adds to its objective.

    Args:
        config: config of the run.
        dataset: data set of the run.
        accelerator: processes that train together.
        total_steps: length of the run.
    """

    def __init__(self, config: Config, dataset: Dataset, accelerator: Accelerator, total_steps: int) -> None:
        super().__init__()
        training, classes = config.training, None if dataset.classes is None else len(dataset.classes)
        self.accelerator, self.seed = accelerator, training.seed
        self.total_steps = math.inf if training.minutes else total_steps  # unknown until the speed is measured
        reseed(accelerator.device, training.seed, "losses")
        self.losses = nn.ModuleDict(
            {
                name: LOSSES.get(name)(config.model.image_shape, classes, **training.options[name])
                for name in training.losses
            }
        )
        for name, loss in self.items():
            if loss.needs_labels and single_category(config.model.conditions) is None:
                raise UsageError(
                    f"--loss {name} needs a model whose only condition is a label; add --conditional, or leave the "
                    "loss out"
                )
        self.to(accelerator.device).to(memory_format=torch.channels_last).eval()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, loss in self.items():
            if parameters := [parameter for parameter in loss.parameters() if parameter.requires_grad]:
                self.optimizers[name] = adam([{"params": parameters}], loss.lr, 0.0, betas=loss.betas)

    def __len__(self) -> int:
        return len(self.losses)

    def items(self) -> Iterator[tuple[str, ImageLoss]]:
        """Yield the losses by name."""
        yield from self.losses.items()  # type: ignore[misc]

    @property
    def needs_random_images(self) -> bool:
        """Whether a loss takes images that are decoded from random noise."""
        return any(loss.needs_random_images for _, loss in self.items())

    def prepare(self, dataset: Dataset) -> list[str]:
        """Prepare frozen networks in the main process, copy them to the others, and return notes for the log."""
        notes = []
        if self.accelerator.is_main_process:
            notes = [note for _, loss in self.items() if (note := loss.prepare(dataset, self.seed))]
        notes += [
            f"--loss {name} has no effect: the run has {self.total_steps:,} steps, and {name}.start is {loss.start:,}; "
            f"lower it with --set {name}.start=N"
            for name, loss in self.items()
            if loss.start >= self.total_steps
        ]
        copy_from_main(self.state_dict().values(), self.accelerator)
        return notes

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def forward(
        self,
        likelihood: Likelihood,
        image: Tensor,
        params: Tensor,
        random_params: Tensor | None,
        random_label: Tensor | None,
        step: float | Tensor,
        fraction: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute the losses, and add the gradients of their own parameters to `grad`.

        The gradients at the decoder's output are computed here, from a copy of the output. The backward pass through
        the model itself then needs no further pass, even if the model is compiled or divided among processes.

        Args:
            likelihood: likelihood of the model.
            image: images (B, C, H, W), before they are binarized.
            params: output of the decoder for K consecutive samples per image, (B K, P, H, W).
            random_params: output of the decoder for random noise, (N, P, H, W), if a loss needs it.
            random_label: labels (N,) of this noise, if a label is the model's only condition.
            step: number of training steps before this one.
            fraction: weight of this part of a batch in the gradients of the losses' own parameters.

        Returns:
            A scalar that is zero and has the weighted gradients of the losses, and the values of the losses (L,).
        """
        image = image[:, None].expand(-1, len(params) // len(image), -1, -1, -1).flatten(0, 1)  # (B, ...) -> (B K, ...)
        outputs = [params] if random_params is None else [params, random_params]
        copies = [output.detach().float().requires_grad_() for output in outputs]
        reconstruction, *random = (likelihood.mean(copy) for copy in copies)
        batch = ImageBatch(image, reconstruction, random[0] if random else None, random_label)
        values = [loss(batch) for _, loss in self.items()]
        gradients = [torch.autograd.grad(value, copies, retain_graph=True, allow_unused=True) for value in values]
        reference = torch.autograd.grad(_distortion(likelihood, copies[0], image), copies[0])
        norms = self._norms([reference, *gradients])
        total = image.new_zeros(())
        for (_, loss), loss_gradients, norm in zip(self.items(), gradients, norms[1:], strict=True):
            factor = loss.weight * norms[0] / norm.clamp(min=MIN_NORM)
            factor = torch.where(torch.as_tensor(step, device=image.device) >= loss.start, factor, 0.0)
            for output, gradient in zip(outputs, loss_gradients, strict=True):
                if gradient is not None:
                    total = total + (factor * gradient * (output - output.detach())).sum()
        self._train(batch, fraction)
        return total, torch.stack([value.detach().float() for value in values])

    def _norms(self, gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """Return the norm of each gradient over the images of all processes."""
        squares = [
            torch.stack([part.square().sum() for part in parts if part is not None]).sum() for parts in gradients
        ]
        return self.accelerator.reduce(torch.stack(squares), "sum").sqrt()

    def _train(self, batch: ImageBatch, fraction: float) -> None:
        """Add the gradients of the losses' own parameters to `grad`."""
        random_image = None if batch.random_image is None else batch.random_image.detach()
        detached = batch._replace(reconstruction=batch.reconstruction.detach(), random_image=random_image)
        for name, loss in self.items():
            if name in self.optimizers:
                value = loss.training_loss(detached)
                if value is not None:
                    (value * fraction).backward()

    def share_gradients(self) -> Tensor:
        """Average the gradients of the losses' own parameters over all processes, and return their norm."""
        gradients = [p.grad for p in self.parameters() if p.requires_grad and p.grad is not None]
        for gradient in gradients:
            gradient.copy_(self.accelerator.reduce(gradient, "mean"))
        return torch.nn.utils.get_total_norm(gradients)

    def update(self, good: Tensor) -> None:
        """Update the losses' own parameters if `good` is true."""
        for optimizer in self.optimizers.values():
            if good.device.type != "mps":
                optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]  # makes the kernels skip the step
            elif not good:
                optimizer.zero_grad()
            optimizer.step()


def decode_noise(model: VAE, noise: Tensor, rows: Tensor | None) -> Tensor:
    """Decode standard normal noise to likelihood parameters, with a gradient for the decoder but not for the prior.

    Prior and decoder are in evaluation mode, as when images are generated: there is no dropout, and batch norm and
    centering neither use nor update the statistics of such images.

    Args:
        model: model in training mode.
        noise: standard normal noise (N, Z).
        rows: rows of the conditions (N,) int64 or (N, W), or None.
    """
    condition = model.embed(rows)
    modules = [module for part in (model.prior, model.decoder) for module in part.modules() if module.training]
    model.prior.eval()
    model.decoder.eval()
    try:
        with torch.no_grad():
            latent = model.prior.from_noise(noise, condition)
        params: Tensor = model.decoder(latent, condition)
    finally:
        for module in modules:  # frozen modules stay in evaluation mode
            module.training = True
    return params


def _distortion(likelihood: Likelihood, params: Tensor, image: Tensor) -> Tensor:
    """Return the mean of -log p(x | z), without an update of the likelihood's running statistics."""
    training = likelihood.training
    try:
        return likelihood.eval().nll(params, image).mean()
    finally:
        likelihood.train(training)
