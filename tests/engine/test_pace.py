"""Runs with a time budget, on a simulated clock."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engine_helpers import QUICK, STEPS, have_equal_tensors, load_weights, read_records

from cvae.config import TrainConfig
from cvae.engine import pace as pace_module
from cvae.engine import resume, train
from cvae.engine import trainer as trainer_module
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.trainer import Trainer
from cvae.engine.validation import Validator
from cvae.errors import Interrupted, UsageError
from cvae.run import is_finished

BUDGET = replace(QUICK, epochs=None, minutes=0.5, schedule="linear")

pytestmark = pytest.mark.integration


class Clock:
    """Clock on which each training step and each evaluated image takes a fixed time."""

    def __init__(self, step_seconds: Callable[[int], float], image_seconds: float) -> None:
        self.seconds, self.step_seconds, self.image_seconds = 100.0, step_seconds, image_seconds
        self.stop_at = 0  # step after which the run is interrupted


@pytest.fixture
def use_clock(monkeypatch) -> Callable[..., Clock]:
    """Return a function that makes training run on a simulated clock."""

    def use(step_seconds: Callable[[int], float] = lambda step: 0.25, image_seconds: float = 2**-9) -> Clock:
        clock = Clock(step_seconds, image_seconds)
        train_step, evaluate = Trainer._train_step, Validator.evaluate

        def timed_step(self, *batch):
            train_step(self, *batch)
            clock.seconds += clock.step_seconds(self.state.step)
            if self.state.step == clock.stop_at:
                self.stop.signals.add(signal.SIGTERM)

        def timed_evaluate(self, model, batches):
            clock.seconds += clock.image_seconds * len(batches.split)
            return evaluate(self, model, batches)

        monkeypatch.setattr(pace_module, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
        monkeypatch.setattr(Trainer, "_train_step", timed_step)
        monkeypatch.setattr(Validator, "evaluate", timed_evaluate)
        return clock

    return use


@pytest.mark.parametrize(
    ("minutes", "step_seconds", "image_seconds"),
    [
        (0.5, lambda step: 0.25, 0.0),
        (0.5, lambda step: 0.25, 2**-7),  # validation takes a sixth of the time
        (0.5, lambda step: 1.0 if step < 5 else 0.125, 2**-9),  # slow first steps
        (0.5, lambda step: 0.125 if step < 80 else 0.5, 2**-9),  # another program starts
        (0.25, lambda step: 1.0, 1 / 96),  # less than an epoch
        (1, lambda step: 0.125, 2**-9),
    ],
)
def test_run_ends_within_a_few_percent_of_its_budget_and_at_the_end_of_its_schedule(
    tmp_path, use_clock, minutes, step_seconds, image_seconds
):
    clock = use_clock(step_seconds, image_seconds)
    start = clock.seconds
    config = replace(BUDGET, minutes=minutes)
    run = train(config, tmp_path / "run", quiet=True)
    assert 0.94 * 60 * minutes < clock.seconds - start < 1.03 * 60 * minutes
    *epochs, test = read_records(run)
    last = epochs[-1]
    assert last["step"] == last["total_steps"] == test["step"]
    assert last["learning_rate"] == pytest.approx(config.lr / (last["step"] - min(100, last["step"] // 20)))
    assert [record["step"] for record in epochs[:-1]] == [STEPS * i for i in range(1, len(epochs))]
    assert "skipped" not in last and is_finished(run)


def test_run_ends_if_the_first_step_takes_longer_than_the_budget(tmp_path, use_clock):
    use_clock(lambda step: 100.0, 0.0)
    run = train(replace(BUDGET, minutes=0.5), tmp_path / "run", quiet=True)
    assert read_records(run)[-1]["step"] == 2


def train_in_parts(config: TrainConfig, out: Path, clock: Clock, stop_at: int) -> Path:
    clock.stop_at = stop_at
    with pytest.raises(Interrupted):
        train(config, out, quiet=True)
    torch.manual_seed(99)  # a new process has a different random state
    clock.seconds += 1000
    return resume(out, quiet=True)


@pytest.mark.parametrize("stop_at", [20, 2 * STEPS, 90])
def test_resumed_run_equals_the_uninterrupted_run_if_its_speed_is_the_same(tmp_path, use_clock, stop_at):
    """The time per image is that of the estimate, so that it does not matter whether a validation was measured."""
    clock = use_clock(image_seconds=0.25 / 32 / 3)
    full = train(BUDGET, tmp_path / "full", quiet=True)
    parts = train_in_parts(BUDGET, tmp_path / "parts", clock, stop_at)
    assert have_equal_tensors(load_weights(parts), load_weights(full))
    steps = [[record["step"] for record in read_records(run)] for run in (full, parts)]
    assert steps[0] == steps[1]


def test_length_is_fixed_after_the_last_correction(tmp_path, use_clock):
    """A run that is resumed after 98 % of its budget ends at the same step, even on a much slower machine."""
    use_clock(image_seconds=0.0)
    full = train(BUDGET, tmp_path / "full", quiet=True)
    assert read_records(full)[-1]["step"] == 120
    clock = use_clock(lambda step: 0.25 if step < 120 else 5.0, image_seconds=0.0)
    parts = train_in_parts(BUDGET, tmp_path / "parts", clock, stop_at=119)
    assert read_records(parts)[-1]["step"] == 120
    assert have_equal_tensors(load_weights(parts), load_weights(full))


def test_complete_run_is_continued_with_a_larger_budget_or_more_epochs(tmp_path, use_clock):
    clock = use_clock()
    run = train(BUDGET, tmp_path / "run", quiet=True)
    before = [record["step"] for record in read_records(run)]
    assert before[-2] % STEPS  # the budget ended the run within an epoch
    assert [record["step"] for record in read_records(resume(run, quiet=True))] == before
    start = clock.seconds
    resume(run, minutes=1, quiet=True)
    assert clock.seconds - start == pytest.approx(30, rel=0.1)
    *epochs, _ = read_records(run)
    assert [record["epoch"] for record in epochs] == list(range(1, len(epochs) + 1))
    assert epochs[-1]["learning_rate"] < 1e-3 * BUDGET.lr + BUDGET.lr / 100
    with pytest.raises(UsageError, match=r"already has \d+ epochs, more than 1; choose a larger total"):
        resume(run, epochs=1, quiet=True)
    with pytest.raises(UsageError, match=r"already has 0\.9\d+ minutes, more than 0\.25; choose a larger total"):
        resume(run, minutes=0.25, quiet=True)
    resume(run, epochs=20, quiet=True)
    assert read_records(run)[-1]["step"] == 20 * STEPS and is_finished(run)


def test_run_of_some_epochs_is_continued_with_a_budget(tmp_path, use_clock):
    clock = use_clock()
    run = train(QUICK, tmp_path / "run", quiet=True)
    start = clock.seconds
    resume(run, minutes=1, quiet=True)
    assert clock.seconds - start == pytest.approx(60 - QUICK.epochs * STEPS * 0.25, rel=0.1)


def test_recordable_step_follows_corrections(tmp_path, use_clock, monkeypatch):
    use_clock(lambda step: 0.125 if step < 80 else 0.5)
    config = replace(BUDGET, ema=0.9)
    expected = train(config, tmp_path / "eager", quiet=True)
    monkeypatch.setattr(trainer_module, "can_record", lambda *_: True)
    recorded = train(config, tmp_path / "recorded", quiet=True)
    a, b = (load_checkpoint(run / "last")[0] for run in (expected, recorded))
    assert a.state["step"] == b.state["step"]
    for name, tensor in a.tensors.items():
        torch.testing.assert_close(b.tensors[name], tensor, rtol=2e-3, atol=2e-4)


def test_epochs_and_minutes_exclude_each_other():
    with pytest.raises(UsageError, match=r"epochs 3 and minutes 2 both set the length of the run; remove one of them"):
        TrainConfig(epochs=3, minutes=2.0)
