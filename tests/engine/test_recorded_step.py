"""Training step that is recorded as a CUDA graph, compared with the eager step."""

import contextlib
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engine_helpers import NARROW, QUICK, STEPS, have_equal_tensors, load_weights, read_records

from cvae.engine import resume, train
from cvae.engine import trainer as trainer_module
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.recorded_step import RecordedStep
from cvae.engine.trainer import Trainer
from cvae.errors import Interrupted

pytestmark = pytest.mark.integration


def use_recordable_step(monkeypatch) -> None:
    """Make training use the step that a GPU would record as a CUDA graph, without recording it."""
    monkeypatch.setattr(trainer_module, "can_record", lambda *_: True)


PAIRS = {"rotate": 10.0, "zoom": 0.1, "consistency": 0.125}
"""Settings that train on pairs of an image and its transformed copy."""


@pytest.mark.parametrize(("arch", "augmentation"), [("mlp", {}), ("conv", {}), ("resnet", {}), ("resnet", PAIRS)])
def test_recordable_step_gives_identical_weights_and_metrics(tmp_path, monkeypatch, arch, augmentation):
    """The learning rate is a power of two, so that it is exact in float32, the type of all scalars on the device."""
    config = replace(
        QUICK, arch=arch, options={"arch": NARROW[arch]}, binarize="dynamic", shift=1, crop=0.9, lr=2**-8,
        schedule="constant", kl_warmup=0.0, epochs=2, **augmentation,
    )  # fmt: skip
    expected = train(config, tmp_path / "eager", quiet=True)
    use_recordable_step(monkeypatch)
    recorded = train(config, tmp_path / "recorded", quiet=True)
    assert have_equal_tensors(load_weights(recorded), load_weights(expected))
    times = {"seconds", "images_per_second"}
    a, b = ([{k: v for k, v in r.items() if k not in times} for r in read_records(run)] for run in (expected, recorded))
    assert a == b


def test_recordable_step_follows_schedules_and_moving_average(tmp_path, monkeypatch):
    config = replace(QUICK, ema=0.9, kl_warmup=1.5, schedule="cosine", lr=3e-3, warmup=10, objective="iwae")
    expected = load_checkpoint(train(config, tmp_path / "eager", quiet=True) / "last")[0].tensors
    use_recordable_step(monkeypatch)
    recorded = load_checkpoint(train(config, tmp_path / "recorded", quiet=True) / "last")[0].tensors
    assert recorded.keys() == expected.keys() and any(name.startswith("ema.") for name in recorded)
    for name, tensor in expected.items():
        torch.testing.assert_close(recorded[name], tensor, rtol=2e-3, atol=2e-4)


def test_recordable_step_resumes_within_an_epoch_even_after_eager_steps(tmp_path, monkeypatch):
    config = replace(QUICK, ema=0.9, binarize="dynamic", epochs=2)
    step = Trainer._train_step

    def step_and_stop(self, *batch):
        step(self, *batch)
        if self.state.step == STEPS + 7:
            self.stop.signals.add(signal.SIGTERM)

    def train_until_interrupted(out: Path) -> Path:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Trainer, "_train_step", step_and_stop)
            train(config, out, quiet=True)
        return out

    eager = train_until_interrupted(tmp_path / "eager")
    use_recordable_step(monkeypatch)
    expected = train(config, tmp_path / "full", quiet=True)
    assert have_equal_tensors(
        load_weights(resume(train_until_interrupted(tmp_path / "parts"), quiet=True)), load_weights(expected)
    )
    for name, tensor in load_weights(resume(eager, quiet=True)).items():
        torch.testing.assert_close(tensor, load_weights(expected)[name], rtol=2e-3, atol=2e-4)


def test_warm_up_before_recording_restores_the_state(tmp_path, monkeypatch):
    """The state is restored both for an optimizer that has taken steps and for a new optimizer."""
    use_recordable_step(monkeypatch)
    steps: list[RecordedStep] = []
    init = RecordedStep.__init__
    monkeypatch.setattr(RecordedStep, "__init__", lambda self, *a, **k: (steps.append(self), init(self, *a, **k))[1])
    train(replace(QUICK, arch="conv", options={"arch": NARROW["conv"]}, ema=0.9, epochs=1), tmp_path / "a", quiet=True)
    (step,) = steps
    step.epoch_batches(0, 3)
    for is_new in (False, True):
        if is_new:
            step.optimizer.optimizer.state.clear()
        tensors = [*step._tensors()]
        values = [tensor.detach().clone() for tensor in tensors]
        step._compute_at_position()
        assert not torch.equal(tensors[0], values[0])
        step._restore_values(tensors, values)
        assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, values, strict=True))
    assert not any(tensor.any() for state in step.optimizer.state.values() for tensor in state.values())


class FakeGraph:
    """Stand-in for a CUDA graph on the CPU: recording computes nothing, and a replay takes the step."""

    compute = staticmethod(RecordedStep._compute_at_position)

    def __init__(self, monkeypatch, *, broken: bool) -> None:
        self.monkeypatch, self.broken, self.step, self.replays = monkeypatch, broken, None, 0

    @contextlib.contextmanager
    def recording(self, graph: "FakeGraph", stream: object):
        def record(step: RecordedStep) -> None:
            self.step = step
            if self.broken:
                raise RuntimeError("operation not permitted when stream is capturing")

        with self.monkeypatch.context() as patch:
            patch.setattr(RecordedStep, "_compute_at_position", record)
            yield

    def replay(self) -> None:
        self.replays += 1
        self.compute(self.step)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_weights_are_the_same_whether_recording_succeeds_or_fails(tmp_path, monkeypatch, capsys, broken):
    config = replace(QUICK, arch="conv", options={"arch": NARROW["conv"]}, ema=0.9, binarize="dynamic", epochs=2)
    use_recordable_step(monkeypatch)
    expected = train(config, tmp_path / "expected", quiet=True)
    graph, recovery_calls = FakeGraph(monkeypatch, broken=broken), []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stubs = {
        "current_stream": lambda: stream, "Stream": lambda: stream, "stream": contextlib.nullcontext,
        "set_stream": recovery_calls.append, "synchronize": lambda: None, "CUDAGraph": lambda: graph,
        "graph": graph.recording, "current_device": lambda: 0,
        "default_generators": [SimpleNamespace(graphsafe_set_state=recovery_calls.append)],
    }  # fmt: skip
    for name, stub in stubs.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    monkeypatch.setattr(RecordedStep, "prepare", RecordedStep._record)
    generator = SimpleNamespace(graphsafe_get_state=lambda: "new state")
    make = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": make() if device == "cpu" else generator)
    recorded = train(config, tmp_path / "recorded")
    assert have_equal_tensors(load_weights(recorded), load_weights(expected))
    assert graph.replays == (0 if broken else 2 * STEPS)
    assert recovery_calls == ([stream, "new state"] if broken else [])
    assert ("can't be recorded as a CUDA graph" in capsys.readouterr().err) == broken


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("arch", "augmentation"), [("mlp", {}), ("conv", {}), ("resnet", {}), ("resnet", PAIRS)])
def test_recorded_step_on_cuda_gives_the_same_weights_as_the_eager_step(tmp_path, monkeypatch, arch, augmentation):
    config = replace(QUICK, arch=arch, options={"arch": NARROW[arch]}, device="cuda", ema=0.9, binarize="dynamic")
    config = replace(config, **augmentation)
    recorded = train(config, tmp_path / "recorded", quiet=True)
    monkeypatch.setattr(RecordedStep, "prepare", lambda self, step: None)
    assert have_equal_tensors(load_weights(train(config, tmp_path / "eager", quiet=True)), load_weights(recorded))
