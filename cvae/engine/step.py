"""Training step, which updates the weights and their moving average without waiting for the device."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cvae.config import Config
from cvae.engine.augment import augment, binarize
from cvae.engine.batches import Batches
from cvae.engine.centering import Centering
from cvae.engine.freezing import freeze, frozen_modules
from cvae.engine.image_losses import ImageLosses, decode_noise
from cvae.engine.imputation import LabelClassifier
from cvae.engine.optimizers import parameter_groups, parse_scales
from cvae.engine.processes import copy_from_main
from cvae.engine.randomness import Shard, reseed
from cvae.engine.schedule import default_warmup, kl_factor, lr_factor
from cvae.models import VAE, Terms
from cvae.models.objectives import Loss, with_consistency
from cvae.registry import OBJECTIVES, OPTIMIZERS


class Scalars(NamedTuple):
    """Values that change from step to step: numbers, or scalar tensors if the step is recorded."""

    step: float | Tensor
    lr: float | Tensor
    kl_weight: float | Tensor
    ema_decay: float | Tensor


class TrainingStep:
    """Step of the optimizer on this process's part of a batch.

    Args:
        config: Config of the run.
        accelerator: Processes that train together.
        model: Network to train.
        batches: Training images.
        image_losses: Losses that are added to the objective, or None.
        label_classifier: Classifier that unknown labels are drawn from, or None.
        total_steps: Length of the run, which the schedules depend on.
        shard: Part of each batch that belongs to this process.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        model: VAE,
        batches: Batches,
        image_losses: ImageLosses | None = None,
        label_classifier: LabelClassifier | None = None,
        *,
        total_steps: int,
        shard: Shard,
    ) -> None:
        self.config, self.training = config, config.training
        self.accelerator, self.device = accelerator, accelerator.device
        self.batches, self.shard = batches, shard
        self.image_losses, self.label_classifier = image_losses, label_classifier
        self.total_steps = total_steps
        model.to(self.device)  # before the optimizer is created, which depends on the device
        freeze(model, self.training.freeze)
        create = OPTIMIZERS.get(self.training.optimizer)
        options = self.training.options.get("optimizer", {})
        groups = parameter_groups(model, parse_scales(self.training.lr_scales))
        optimizer = create(groups, self.training.lr, self.training.weight_decay, **options)
        if accelerator.num_processes == 1:  # `prepare` would import torch's compiler, which takes seconds
            self.model = self.bare_model = model
            self.optimizer = accelerator.prepare(optimizer)
        else:
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
            # `prepare` wraps `forward`, to run it in the precision of the run. A copy of the network, such as the
            # moving average, would call the original through this wrapper. It is removed, and `_loss` uses `autocast`.
            self.bare_model = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.parameters = list(self.model.parameters())
        self.frozen_modules = list(frozen_modules(self.bare_model, self.training.freeze))
        self.network: Callable[..., Terms] = torch.compile(self.model) if self.training.compile else self.model
        self.ema = copy.deepcopy(self.bare_model).requires_grad_(False) if self.training.ema else None
        self.centering = Centering(self.bare_model) if self.training.center else None
        self.objective: Callable[..., Loss] = OBJECTIVES.get(self.training.objective)
        if self.training.consistency:
            self.objective = with_consistency(self.objective, self.training.consistency)
        # Loss, distortion, rate, losses on images and steps of the epoch so far.
        self.sums = torch.zeros(4 + len(image_losses or ()), device=self.device)
        self.bad_step = torch.full((), -1.0, device=self.device)  # first step with a nonfinite gradient, or -1

    def prepare(self, step: int) -> str | None:
        """Prepare to start at step `step`, and return a note for the log, or None."""
        return None

    def epoch_batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor | None, ...]]:
        """Yield the batch of each step of an epoch, from its step `start` on, as arguments of `__call__`."""
        return self.batches.shuffled(self.training.seed, epoch, start)

    def set_length(self, total_steps: int, step: int) -> None:
        """Change the length of the run after `step` steps."""
        self.total_steps = total_steps

    def __call__(self, step: int, *batch: Tensor | None) -> None:
        """Take a step on images (B, C, H, W) uint8 and the rows of their conditions."""
        images, rows = batch
        assert images is not None
        reseed(self.device, self.training.seed, "step", step)
        self._compute(self._scalars(step), images, rows)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        training = self.training
        warmup = default_warmup(self.total_steps) if training.warmup is None else training.warmup
        milestones = training.milestones and [epoch * len(self.batches) for epoch in training.milestones]
        return training.lr * lr_factor(training.schedule, step, self.total_steps, warmup, milestones)

    def means(self) -> dict[str, float]:
        """Return the means of the loss and its terms over the epoch so far, in nats, or NaN before its first step."""
        loss, distortion, rate, *_ = self._divide_sums()
        return {"loss": loss, "distortion": distortion, "rate": rate, "bound": distortion + rate}

    def image_loss_means(self) -> dict[str, float]:
        """Return the mean of each loss on images over the epoch so far."""
        return dict(zip(self.training.losses, self._divide_sums()[3:], strict=True))

    def _divide_sums(self) -> list[float]:
        *totals, steps = self.sums.tolist()
        return [total / steps if steps else math.nan for total in totals]

    def broadcast_average_buffers(self) -> None:
        """Copy the buffers of the moving average from the first process to the others.

        At each step, the network uses the buffers of the first process, but each process averages its own buffers.
        """
        if self.ema is not None:
            copy_from_main(self.ema.buffers(), self.accelerator)

    def _scalars(self, step: int) -> Scalars:
        kl_weight = kl_factor(step, self.training.kl_warmup * len(self.batches))
        # A small decay in the first steps makes the moving average forget the initial weights.
        ema_decay = min(self.training.ema, (1 + step) / (10 + step))
        return Scalars(step, self.learning_rate(step), kl_weight, ema_decay)

    def _compute(self, scalars: Scalars, images: Tensor, rows: Tensor | None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = scalars.lr * group["lr_scale"]
        self.optimizer.zero_grad()
        if self.image_losses is not None:
            self.image_losses.zero_grad()
        if self.centering is not None:
            self.centering.reset()
        old_buffers = [buffer.clone() for buffer in self.bare_model.buffers()]
        count = self.training.accumulate
        losses = []
        for i in range(count):
            if i:  # each micro-batch draws the noise of the full batch, and uses its own share
                reseed(self.device, self.training.seed, "step", int(scalars.step))
            with nullcontext() if i == count - 1 else self.accelerator.no_sync(self.model):
                indices = slice(i, None, count)
                micro_rows = None if rows is None else rows[indices]
                loss = self._loss(scalars, images[indices], micro_rows, self.shard.subshard(i, count))
                losses.append(loss.detach())
                # A loss that is not finite makes the gradient NaN, which all processes see, since they share gradients.
                finite = torch.where(losses[-1].isfinite().all(), 1.0, math.nan)
                self.accelerator.backward(loss[0] * finite / count)
        self._update(scalars, torch.stack(losses).mean(0), old_buffers)

    def _loss(self, scalars: Scalars, images: Tensor, rows: Tensor | None, shard: Shard) -> Tensor:
        """Return the loss to minimize, the distortion and the rate, followed by the losses on images."""
        for module in self.frozen_modules:
            module.eval()
        outputs: list[Tensor] = []  # of the decoder
        original = augment(images, self.training, shard).contiguous(memory_format=torch.channels_last)
        copies = len(original) // len(images)
        image = binarize(original, copies, shard) if self.training.binarize == "dynamic" else original
        random_noise = None
        if self.image_losses is not None and self.image_losses.needs_random_images:
            random_noise = shard.draw(torch.randn, len(images), self.config.model.latent_dim, device=self.device)
        if rows is not None:
            embedding = self.bare_model.conditions
            assert embedding is not None
            if self.label_classifier is not None:
                random = shard.draw(torch.rand, len(images), device=self.device)
                with self.accelerator.autocast():
                    rows = self.label_classifier(embedding, original[::copies], rows, random)
            if probability := self.training.drop_conditions:
                random = shard.draw(torch.rand, len(images), len(self.config.model.conditions), device=self.device)
                rows = embedding.drop(rows, random, probability)
            rows = rows[:, None].expand(-1, copies, *rows.shape[1:]).flatten(0, 1)  # (B, ...) -> (copies * B, ...)

        def model(image: Tensor, rows: Tensor | None, samples: int = 1, *, antithetic: bool = False) -> Terms:
            """Apply the network, with the signature that objectives expect."""
            if antithetic and samples % 2:
                raise ValueError(f"antithetic samples come in pairs, but samples={samples} is odd")
            latent_dim = self.config.model.latent_dim
            count = samples // 2 if antithetic else samples
            noise = shard.draw(torch.randn, len(images), 1, count, latent_dim, device=self.device)
            if antithetic:
                noise = torch.cat([noise, -noise], dim=2)  # (B, 1, K / 2, Z) -> (B, 1, K, Z)
            if shard.count > 1:  # random numbers that a plug-in's network draws should differ between shards
                reseed(self.device, self.training.seed, "network", int(scalars.step), shard.index)
            # An image and its copy have the same noise, so that a hierarchy is compared at corresponding samples.
            noise = noise.expand(-1, copies, -1, -1).flatten(0, 2)  # (B, 1, K, Z) -> (copies * B K, Z)
            terms = self.network(image, rows, noise)
            if terms.params is not None:
                outputs.append(terms.params)
            return terms

        with self.accelerator.autocast():
            loss = self.objective(model, image, rows, scalars.kl_weight, **self.training.options["objective"])
            values = torch.stack(loss)
        if self.image_losses is None:
            return values
        # In fp16, the losses are computed in fp32, because the scaler does not scale the gradients of their networks.
        with self.accelerator.autocast() if self.accelerator.scaler is None else nullcontext():
            random_params = random_rows = None
            if random_noise is not None:
                random_rows = None if rows is None else rows[::copies]
                random_params = decode_noise(self.bare_model, random_noise, random_rows)
            is_label = random_rows is not None and random_rows.ndim == 1
            total, image_values = self.image_losses(
                self.bare_model.likelihood,
                original,  # before binarization, because the decoder's mean image is grey too
                outputs[-1],
                random_params,
                random_rows if is_label else None,
                scalars.step,
                1 / self.training.accumulate,
            )
        return torch.cat([values[:1] + total, values[1:], image_values])

    @torch.no_grad()
    def _update(self, scalars: Scalars, metrics: Tensor, old_buffers: list[Tensor]) -> None:
        """Update the weights and their moving average, unless the gradients are not finite.

        If they are not finite, the network stays unchanged: for this step if `on_nan` is "skip", otherwise for all
        later steps too, until the training loop notices and stops. The moving average is updated in any case.

        Args:
            scalars: Values of the step.
            metrics: Loss, distortion, rate and losses on images (3 + L,).
            old_buffers: Buffers of the network before the step.
        """
        if self.training.clip:
            norm = self.accelerator.clip_grad_norm_(self.parameters, self.training.clip)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        good = norm.isfinite()
        if self.image_losses is not None:
            good = good & self.image_losses.share_gradients().isfinite()
        if self.accelerator.scaler is None:  # the scaler of fp16 checks the gradients itself
            self.bad_step.copy_(torch.where(good | (self.bad_step >= 0), self.bad_step, scalars.step))
            if self.training.on_nan == "stop":
                good = self.bad_step < 0
            if self.device.type != "mps":
                self.optimizer.optimizer.found_inf = (~good).float()  # makes the fused kernels skip the step
            elif not good:  # MPS has no fused kernels
                self.optimizer.zero_grad()
        if self.centering is not None:
            means = self.accelerator.reduce(self.centering.sums / self.training.accumulate, "mean")
            self.centering.convert_gradients(means, scalars.step, good)
        self.optimizer.step()
        if self.image_losses is not None:
            self.image_losses.update(good)
        if self.centering is not None:
            self.centering.convert_updates()
        for buffer, old in zip(self.bare_model.buffers(), old_buffers, strict=True):
            buffer.copy_(torch.where(good, buffer, old))
        self.sums += torch.where(good, torch.cat([metrics, metrics.new_ones(1)]), 0.0)
        if self.ema is not None:
            self._average(self.ema, scalars.ema_decay)

    def _average(self, ema: VAE, decay: float | Tensor) -> None:
        """Update the moving average.

        Buffers are averaged as well, since the statistics of batch norm come from a few batches and the last weights.
        """
        means: list[Tensor] = [*ema.parameters()]
        weights: list[Tensor] = [*self.parameters]
        if isinstance(decay, Tensor):  # torch has no lerp of many tensors with a tensor as the weight
            change: Any = torch._foreach_sub(weights, means)
            torch._foreach_mul_(change, 1 - decay)
            torch._foreach_add_(means, change)
        else:
            get_ema_multi_avg_fn(decay)(means, self.parameters, 0)
        for mean, buffer in zip(ema.buffers(), self.bare_model.buffers(), strict=True):
            if buffer.is_floating_point():
                mean.lerp_(buffer, 1 - decay)
            else:
                mean.copy_(buffer)  # number of batches that batch norm has averaged
