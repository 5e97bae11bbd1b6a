"""Training step that is recorded as a CUDA graph.

Launching the hundreds of kernels of a step takes longer than running them. On one GPU the step is therefore recorded
once as a CUDA graph, and replayed with a single launch.
"""

from collections.abc import Iterator
from itertools import repeat

import torch
from accelerate import Accelerator
from torch import Tensor

from cvae.config import Config
from cvae.engine.batches import Batches
from cvae.engine.image_losses import ImageLosses
from cvae.engine.imputation import LabelClassifier
from cvae.engine.randomness import FULL_BATCH, reseed
from cvae.engine.step import Scalars, TrainingStep
from cvae.models import VAE

WARMUP_STEPS = 3
"""Number of steps before a recording, during which libraries choose their kernels and torch compiles."""


def can_record(config: Config, accelerator: Accelerator, batches: Batches) -> bool:
    """Return whether the step can be recorded as a CUDA graph: one GPU holds all images and processes full batches."""
    return (
        accelerator.device.type == "cuda"
        and accelerator.num_processes == 1
        and accelerator.scaler is None  # the scaler of fp16 decides on the CPU whether to update the weights
        and config.training.accumulate == 1
        and batches.resident
    )


class RecordedStep(TrainingStep):
    """Training step that is recorded as a CUDA graph and replayed.

    Everything that differs between steps is read from tensors on the device, which are filled once per epoch. A replay
    draws its random numbers from the seed that was set before it, so they are the same as without a graph.
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
    ) -> None:
        arguments = config, accelerator, model, batches, image_losses, label_classifier
        super().__init__(*arguments, total_steps=total_steps, shard=FULL_BATCH)
        steps, device = len(batches), self.device
        self.order = torch.zeros((steps, batches.batch_size), dtype=torch.long, device=device)  # images of each step
        self.table = torch.zeros((steps, len(Scalars._fields)), device=device)  # scalars of each step
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # index of the next step in the epoch
        rows = batches.rows
        self.rows = None if rows is None else torch.from_numpy(rows).to(device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def prepare(self, step: int) -> str | None:
        """Record the step. If that fails, its kernels will be launched one by one, as the note says.

        Raises:
            UsageError: If the first step finds that parts do not fit together.
        """
        if self.device.type != "cuda" or step >= self.total_steps:
            return None
        return self._record(step)

    def _record(self, step: int) -> str | None:
        epoch, start = divmod(step, len(self.batches))
        self.epoch_batches(epoch, start)
        self._set_capturable(True)
        tensors = [*self._tensors()]
        values = [tensor.detach().clone() for tensor in tensors]
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.position.fill_(start)
                self._compute_at_position()
        torch.cuda.synchronize()
        self._restore_values(tensors, values)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                self._compute_at_position()
        except Exception as error:  # a plug-in may do something that can't be recorded
            torch.cuda.set_stream(current)  # torch does not restore the stream if the end of the recording fails
            self._recover(tensors, values)
            reason = " ".join(str(error.__context__ or error).split())[:200]
            return f"the training step can't be recorded as a CUDA graph, so it is slower ({reason})"
        self.graph = graph
        return None

    def epoch_batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor | None, ...]]:
        self.order.copy_(self.batches.order(self.training.seed, epoch))
        self._fill_table(epoch)
        self.position.fill_(start)
        return repeat((), len(self.batches) - start)

    def set_length(self, total_steps: int, step: int) -> None:
        super().set_length(total_steps, step)
        self._fill_table(step // len(self.batches))

    def _fill_table(self, epoch: int) -> None:
        """Compute the scalars of all steps of an epoch."""
        steps = len(self.batches)
        scalars = [self._scalars(epoch * steps + i) for i in range(steps)]
        self.table.copy_(torch.tensor(scalars, dtype=self.table.dtype))

    def __call__(self, step: int, *batch: Tensor | None) -> None:
        reseed(self.device, self.training.seed, "step", step)
        if self.graph is None:
            self._compute_at_position()
        else:
            self.graph.replay()

    def _compute_at_position(self) -> None:
        index = self.order.index_select(0, self.position)[0]  # (steps, B) -> (B,)
        scalars = Scalars(*self.table.index_select(0, self.position)[0].unbind())
        rows = None if self.rows is None else self.rows.index_select(0, index)
        self._compute(scalars, self.batches.images.index_select(0, index), rows)
        self.position += 1

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        others = () if self.image_losses is None else self.image_losses.optimizers.values()
        return [self.optimizer, *others]

    def _set_capturable(self, capturable: bool) -> None:
        for optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group["capturable"] = capturable

    def _tensors(self) -> Iterator[Tensor]:
        """Yield all tensors that a step changes."""
        for model in (self.bare_model, self.ema, self.image_losses):
            if model is not None:
                yield from model.parameters()
                yield from model.buffers()
        for optimizer in self._optimizers():
            for state in optimizer.state.values():
                yield from state.values()
        if self.centering is not None:
            yield self.centering.means
        yield from (self.sums, self.bad_step, self.position)

    @torch.no_grad()
    def _restore_values(self, tensors: list[Tensor], values: list[Tensor]) -> None:
        """Undo the steps since `values` were copied from `tensors`."""
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        known = set(map(id, tensors))
        for tensor in self._tensors():
            if id(tensor) not in known:  # state that the optimizer created in its first step
                tensor.zero_()

    def _recover(self, tensors: list[Tensor], values: list[Tensor]) -> None:
        """Return to the state before a recording that failed."""
        torch.cuda.synchronize()
        self._set_capturable(False)
        # torch's generator still has the state of the recording; give it a new one.
        index = torch.cuda.current_device()
        state = torch.Generator(f"cuda:{index}").graphsafe_get_state()
        torch.cuda.default_generators[index].graphsafe_set_state(state)
        for optimizer in self._optimizers():
            optimizer.zero_grad()
        self._restore_values(tensors, values)
