"""The training step: from the images of a batch to new weights and their moving average, with no wait for the device.

On one GPU the step is recorded once as a CUDA graph and replayed: one launch instead of hundreds, which take longer to
ask for than to compute.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import repeat
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cvae.config import Config
from cvae.engine.augment import augment
from cvae.engine.batches import Batches
from cvae.engine.randomness import WHOLE, Shard, reseed
from cvae.engine.schedule import kl_factor, lr_factor
from cvae.models import VAE, Terms
from cvae.models.objectives import Loss
from cvae.registry import OBJECTIVES

WARMUP_STEPS = 3
"""Steps before a recording, in which libraries choose their kernels and torch compiles."""


class Scalars(NamedTuple):
    """What differs from step to step besides the batch: numbers, or tensors () where the step is recorded."""

    step: float | Tensor
    lr: float | Tensor
    kl_weight: float | Tensor
    ema_decay: float | Tensor


class TrainingStep:
    """One step of the optimizer on this process's part of a batch.

    Args:
        epochs: length of the run, which the schedules depend on.
        shard: the part of each batch that is this process's.
    """

    def __init__(
        self, config: Config, accelerator: Accelerator, model: VAE, batches: Batches, *, epochs: int, shard: Shard
    ) -> None:
        self.config, self.training = config, config.training
        self.accelerator, self.device = accelerator, accelerator.device
        self.batches, self.shard = batches, shard
        self.total_steps = epochs * len(batches)
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kinds[self.training.optimizer](
            model.parameters(),
            lr=self.training.lr,
            weight_decay=self.training.weight_decay,
            fused=self.device.type != "mps",
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.parameters = list(self.model.parameters())
        # Without the precision that `prepare` puts around forward: a copy, such as the moving average, would call the
        # original through it. Each training step asks for it by `autocast` instead.
        self.bare_model: VAE = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.network: Callable[..., Terms] = torch.compile(self.model) if self.training.compile else self.model
        self.ema = copy.deepcopy(self.bare_model).requires_grad_(False) if self.training.ema else None
        self.objective: Callable[..., Loss] = OBJECTIVES.get(self.training.objective)
        self.sums = torch.zeros(4, device=self.device)  # loss, distortion, rate, and steps, over the epoch so far
        self.bad_step = torch.full((), -1.0, device=self.device)  # the first whose gradient was not finite

    def prepare(self, step: int) -> str | None:
        """Do what has to be done once before `step`, the first one; return a remark for the log, or None."""
        return None

    def shuffled(self, epoch: int, start: int) -> Iterator[tuple[Tensor | None, ...]]:
        """Yield the further arguments of each call in an epoch, from its step `start` on."""
        return self.batches.shuffled(self.training.seed, epoch, start)

    def __call__(self, step: int, *batch: Tensor | None) -> None:
        """Take a step on images (B, C, H, W) uint8 and their labels (B,)."""
        images, label = batch
        assert images is not None
        reseed(self.device, self.training.seed, "step", step)
        self._compute(self._scalars(step), images, label)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        training = self.training
        milestones = training.milestones and [epoch * len(self.batches) for epoch in training.milestones]
        return training.lr * lr_factor(training.schedule, step, self.total_steps, training.warmup, milestones)

    def _scalars(self, step: int) -> Scalars:
        kl_weight = kl_factor(step, self.training.kl_warmup * len(self.batches))
        # The moving average begins with a small decay, to forget where the run began.
        ema_decay = min(self.training.ema, (1 + step) / (10 + step))
        return Scalars(step, self.learning_rate(step), kl_weight, ema_decay)

    def _compute(self, scalars: Scalars, images: Tensor, label: Tensor | None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = scalars.lr
        self.optimizer.zero_grad()
        before = [buffer.clone() for buffer in self.bare_model.buffers()]
        parts = self.training.accumulate
        losses = []
        for i in range(parts):
            if i:  # each part draws the noise of the whole batch, and takes its own
                reseed(self.device, self.training.seed, "step", int(scalars.step))
            with nullcontext() if i == parts - 1 else self.accelerator.no_sync(self.model):
                part = slice(i, None, parts)
                part_label = None if label is None else label[part]
                loss = torch.stack(self._loss(scalars, images[part], part_label, self.shard.part(i, parts)))
                losses.append(loss.detach())
                # What is not finite in the loss alone makes the gradient so too, on which all processes agree.
                finite = torch.where(losses[-1].isfinite().all(), 1.0, math.nan)
                self.accelerator.backward(loss[0] * finite / parts)
        self._update(scalars, torch.stack(losses).mean(0), before)

    def _loss(self, scalars: Scalars, images: Tensor, label: Tensor | None, shard: Shard) -> Loss:
        image = augment(images, self.training, shard).contiguous(memory_format=torch.channels_last)

        def model(image: Tensor, label: Tensor | None, samples: int = 1) -> Terms:
            """As an objective calls it."""
            latent_dim = self.config.model.latent_dim
            noise = shard.draw(torch.randn, len(image), samples, latent_dim, device=self.device)
            if shard.count > 1:  # what a plug-in's network draws by itself should not be the same in each part
                reseed(self.device, self.training.seed, "network", int(scalars.step), shard.index)
            return self.network(image, label, noise.flatten(0, 1))  # (B, K, Z) -> (B K, Z)

        with self.accelerator.autocast():
            return self.objective(model, image, label, scalars.kl_weight, **self.training.options["objective"])

    @torch.no_grad()
    def _update(self, scalars: Scalars, metrics: Tensor, before: list[Tensor]) -> None:
        """Step the optimizer along the gradients, unless they are not finite.

        `metrics` (3,) are loss, distortion and rate, `before` the model's buffers as they were. After a step that was
        not finite the network stays as it was: for that step when it is to be skipped, else until the loop looks, and
        stops. The moving average takes in what there is.
        """
        if self.training.clip:
            norm = self.accelerator.clip_grad_norm_(self.parameters, self.training.clip)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        good = norm.isfinite()
        if self.accelerator.scaler is None:  # which finds and skips by itself what fp16 can't hold
            self.bad_step.copy_(torch.where(good | (self.bad_step >= 0), self.bad_step, scalars.step))
            if self.training.on_nan == "stop":
                good = self.bad_step < 0
            if self.device.type != "mps":
                self.optimizer.optimizer.found_inf = (~good).float()  # as GradScaler tells the fused kernels
            elif not good:  # MPS has none
                self.optimizer.zero_grad()
        self.optimizer.step()
        for buffer, old in zip(self.bare_model.buffers(), before, strict=True):
            buffer.copy_(torch.where(good, buffer, old))
        self.sums += torch.where(good, torch.cat([metrics, metrics.new_ones(1)]), 0.0)
        if self.ema is not None:
            self._average(self.ema, scalars.ema_decay)

    def _average(self, ema: VAE, decay: float | Tensor) -> None:
        """Move the average towards the weights.

        Buffers are averaged as well: the statistics of batch norm are those of a few batches, under the last weights.
        """
        means: list[Tensor] = [*ema.parameters()]
        weights: list[Tensor] = [*self.parameters]
        if isinstance(decay, Tensor):  # for which torch has no lerp of many tensors at once
            change: Any = torch._foreach_sub(weights, means)
            torch._foreach_mul_(change, 1 - decay)
            torch._foreach_add_(means, change)
        else:
            get_ema_multi_avg_fn(decay)(means, self.parameters, 0)
        for mean, buffer in zip(ema.buffers(), self.bare_model.buffers(), strict=True):
            if buffer.is_floating_point():
                mean.lerp_(buffer, 1 - decay)
            else:
                mean.copy_(buffer)  # a count of batches


def can_record(config: Config, accelerator: Accelerator, batches: Batches) -> bool:
    """Return whether the training step can be a CUDA graph: all on one GPU, and in one part."""
    return (
        accelerator.device.type == "cuda"
        and accelerator.num_processes == 1
        and accelerator.scaler is None  # it decides on the host
        and config.training.accumulate == 1
        and batches.resident
    )


class RecordedStep(TrainingStep):
    """The training step as a CUDA graph, which reads all that differs from step to step from tensors on the device.

    These are filled once an epoch. The random numbers of a replay are those of the seed that was set before it, and the
    same as without a graph.
    """

    def __init__(self, config: Config, accelerator: Accelerator, model: VAE, batches: Batches, *, epochs: int) -> None:
        super().__init__(config, accelerator, model, batches, epochs=epochs, shard=WHOLE)
        steps, device = len(batches), self.device
        self.order = torch.zeros((steps, batches.batch_size), dtype=torch.long, device=device)  # of the epoch's images
        self.table = torch.zeros((steps, len(Scalars._fields)), device=device)  # of each step's scalars
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # in the epoch
        labels = batches.labels
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def prepare(self, step: int) -> str | None:
        """Record the step; where that fails, it is taken launch by launch.

        Raises:
            UsageError: the first step finds that parts do not fit together.
        """
        if self.device.type != "cuda" or step >= self.total_steps:
            return None
        return self._record(step)

    def _record(self, step: int) -> str | None:
        epoch, start = divmod(step, len(self.batches))
        self.shuffled(epoch, start)
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        tensors = [*self._tensors()]
        values = [tensor.detach().clone() for tensor in tensors]
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.position.fill_(start)
                self._compute_at_position()
        torch.cuda.synchronize()
        self._put_back(tensors, values)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                self._compute_at_position()
        except Exception as error:  # whatever a plug-in does that can't be recorded
            torch.cuda.set_stream(current)  # where the end of the recording fails, torch leaves its own
            self._recover(tensors, values)
            reason = " ".join(str(error.__context__ or error).split())[:200]
            return f"the training step can't be recorded as a CUDA graph, so it is slower ({reason})"
        self.graph = graph
        return None

    def shuffled(self, epoch: int, start: int) -> Iterator[tuple[Tensor | None, ...]]:
        steps = len(self.batches)
        self.order.copy_(self.batches.order(self.training.seed, epoch))
        scalars = [self._scalars(epoch * steps + i) for i in range(steps)]
        self.table.copy_(torch.tensor(scalars, dtype=self.table.dtype))
        self.position.fill_(start)
        return repeat((), steps - start)

    def __call__(self, step: int, *batch: Tensor | None) -> None:
        reseed(self.device, self.training.seed, "step", step)
        if self.graph is None:
            self._compute_at_position()
        else:
            self.graph.replay()

    def _compute_at_position(self) -> None:
        index = self.order.index_select(0, self.position)[0]  # (steps, B) -> (B,)
        scalars = Scalars(*self.table.index_select(0, self.position)[0].unbind())
        label = None if self.labels is None else self.labels.index_select(0, index)
        self._compute(scalars, self.batches.images.index_select(0, index), label)
        self.position += 1

    def _tensors(self) -> Iterator[Tensor]:
        """Yield all that a step changes."""
        for model in (self.bare_model, self.ema):
            if model is not None:
                yield from model.parameters()
                yield from model.buffers()
        for state in self.optimizer.state.values():
            yield from state.values()
        yield from (self.sums, self.bad_step, self.position)

    @torch.no_grad()
    def _put_back(self, tensors: list[Tensor], values: list[Tensor]) -> None:
        """Undo the steps that were taken since the `values` of `tensors` were copied."""
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        before = set(map(id, tensors))
        for tensor in self._tensors():
            if id(tensor) not in before:  # the optimizer's, which it makes in the first step
                tensor.zero_()

    def _recover(self, tensors: list[Tensor], values: list[Tensor]) -> None:
        """Go back to where a recording that failed began."""
        torch.cuda.synchronize()
        for group in self.optimizer.param_groups:
            group["capturable"] = False
        # Of such a recording torch's generator is still in the middle: give it a state of its own.
        index = torch.cuda.current_device()
        state = torch.Generator(f"cuda:{index}").graphsafe_get_state()
        torch.cuda.default_generators[index].graphsafe_set_state(state)
        self.optimizer.zero_grad()
        self._put_back(tensors, values)
