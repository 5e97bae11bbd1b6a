"""Length of a run: a number of epochs, or the steps for which a time budget suffices at the measured speed."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cvae.config import TrainConfig
from cvae.data import Dataset
from cvae.engine.processes import any_process, copy_from_main
from cvae.engine.resolve import default_epochs
from cvae.engine.run_state import RunState
from cvae.engine.step import TrainingStep
from cvae.errors import UsageError

POINTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98)
"""Fractions of a time budget at which the number of steps is corrected, since the speed of a machine may change.

Between two corrections, a run with a budget is a run of a fixed number of steps.
"""

EVALUATION_COST = 1 / 3
"""Time to evaluate an image relative to the time to train on it, until it is measured: there is no backward pass."""


class Pace:
    """Time of a run, and the number of its steps.

    The schedules depend on the step and on the number of steps alone, so they follow a correction of that number. The
    state of the run, and therefore each checkpoint, contains the number and the time so far.

    Args:
        training: Training config.
        dataset: Data set. The budget includes the evaluation of its validation and test images.
        steps: Number of steps in an epoch.
        batch_size: Number of images per step.
    """

    def __init__(self, training: TrainConfig, dataset: Dataset, steps: int, batch_size: int) -> None:
        self.training, self.steps, self.batch_size = training, steps, batch_size
        self.num_validation, self.num_test = len(dataset.validation or ()), len(dataset.test or ())
        self.budget = 60 * training.minutes if training.minutes else math.inf
        self._started, self._earlier = time.monotonic(), 0.0  # start of this process, and time of earlier ones
        self._pause: float | None = None  # time between two epochs, when it was last measured
        self._marked_step, self._marked_seconds, self._next = -1, 0.0, 0.0  # the first step is not measured: it is slow

    @property
    def seconds(self) -> float:
        """Time of the run so far, without the time between an interruption and its resumption."""
        return self._earlier + time.monotonic() - self._started

    def start(self) -> RunState:
        """Return the state of a new run. With a time budget, its length is a guess until the speed is known."""
        epochs = self.training.epochs or default_epochs(self.steps)
        return RunState(total_steps=epochs * self.steps, minutes=self.training.minutes)

    def resume(self, state: RunState, run: Path) -> str:
        """Set the length of a run that was interrupted, and return what to change to make it longer.

        Raises:
            UsageError: If the run is already longer than the config says.
        """
        self._earlier = state.seconds
        epochs, minutes = self.training.epochs, self.training.minutes
        if minutes is None:
            assert epochs is not None  # filled in by configure()
            done, total, state.total_steps = f"{state.step // self.steps} epochs", f"{epochs}", epochs * self.steps
        else:
            done, total = f"{state.seconds / 60:.3g} minutes", f"{minutes:g}"
            if minutes != state.minutes and state.seconds:
                state.total_steps = math.floor(state.step * self.budget / state.seconds)
            state.total_steps = state.total_steps or self.start().total_steps  # an older version did not measure it
        state.minutes = minutes
        if state.step > state.total_steps:
            raise UsageError(f"{str(run)!r} already has {done}, more than {total}; choose a larger total")
        return f"{'epochs' if minutes is None else 'minutes'} to more than {total}"

    def _mark(self, step: int) -> None:
        """Measure the speed from here until the next correction."""
        self._marked_step, self._marked_seconds = step, self.seconds
        self._next = next((point * self.budget for point in POINTS if point * self.budget > self.seconds), math.inf)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Measure the time between two epochs, for validation and for writing files, apart from that of the steps."""
        started = time.monotonic()
        yield
        self._pause = time.monotonic() - started
        self._marked_seconds += self._pause

    def correct(self, state: RunState, training_step: TrainingStep) -> bool:
        """Correct the length of the run if it is time to, and return whether it was. All processes must call this."""
        if self.training.minutes is None:
            return False
        accelerator = training_step.accelerator
        if self._marked_step < 0:
            self._mark(state.step)
            if self._next == math.inf and not self._earlier:  # the first step ends too late for all corrections
                self._next = 0.0
        # The last step may come early if the run has become faster. All processes reach it at the same time.
        is_last = state.step >= state.total_steps
        is_due = state.step > self._marked_step and self._next < math.inf and (is_last or self.seconds >= self._next)
        if not any_process(accelerator, is_due, None if is_last else state.step):
            return False
        training_step.means()  # this waits for the device
        total = torch.tensor(self._count_steps(state.step), device=accelerator.device)
        copy_from_main([total], accelerator)
        state.total_steps = int(total)
        training_step.set_length(state.total_steps, state.step)
        self._mark(state.step)
        return True

    def _count_steps(self, step: int) -> int:
        """Return the number of steps for which the budget suffices, of which `step` are done."""
        per_step = (self.seconds - self._marked_seconds) / (step - self._marked_step)
        per_image, pause = per_step / self.batch_size * EVALUATION_COST, self._pause
        if pause is None:
            pause = per_image * self.num_validation
        elif self.num_validation:
            per_image = pause / self.num_validation
        remaining = self.budget - self.seconds - pause - per_image * self.num_test
        return step + max(0, round(remaining / (per_step + pause / self.steps)))
