"""Trackers: the metrics in TensorBoard, the choice of trackers, and errors that must not end a run."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae.config import Config, TrainConfig
from cvae.data import load_dataset
from cvae.engine.resolve import configure
from cvae.engine.tracking import Tracking, choose
from cvae.errors import CvaeError, UsageError

RECORDS = [
    {"epoch": 1, "step": 12, "train": {"bound": 30.5, "rate": 7.0}, "validation": {"bound": 31.0}, "note": "text"},
    {"epoch": 2, "step": 24, "train": {"bound": 20.5, "rate": 8.0}, "validation": {"bound": 21.0}, "note": "text"},
]


@pytest.fixture(scope="module")
def config() -> Config:
    training = TrainConfig(arch="mlp", limit=64)
    return configure(training, load_dataset(training))


class Recorder(GeneralTracker):
    """Tracker that records its calls, and raises an error in the call named `failing_call`."""

    name = "recorder"
    requires_logging_directory = False
    instances: "list[Recorder]" = []  # noqa: RUF012

    def __init__(self, run_name: str, failing_call: str | None = None, **options: Any) -> None:
        self.calls: list[str] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.failing_call = failing_call
        Recorder.instances.append(self)

    @property
    def tracker(self) -> None:
        return None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.failing_call:
            raise ConnectionError("the network\nis gone")

    def start(self) -> None:
        self._call("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._call("store")
        self.settings = values

    def log(self, values: dict[str, float], step: int | None = None, **options: Any) -> None:
        self._call("log")
        assert step is not None
        self.logged.append((values, step))

    def finish(self) -> None:
        self._call("finish")


@pytest.fixture
def recorder(monkeypatch) -> type[Recorder]:
    monkeypatch.setattr(Recorder, "instances", [])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    return Recorder


def test_tensorboard_has_every_metric_at_its_step(tmp_path, config):
    tracking = Tracking(Accelerator(cpu=True), ("tensorboard",), tmp_path, config)
    for record in RECORDS:
        tracking.log(record, record["step"])
    tracking.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {
        "epoch": [(12, 1), (24, 2)],
        "step": [(12, 12), (24, 24)],
        "train/bound": [(12, 30.5), (24, 20.5)],
        "train/rate": [(12, 7), (24, 8)],
        "validation/bound": [(12, 31), (24, 21)],
    }
    (settings,) = (tmp_path / "tensorboard").glob("*/hparams.yml")
    assert "training/limit: 64" in settings.read_text() and "model/architecture/name: mlp" in settings.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_tracker_starts_with_the_first_record_and_finishes_once(recorder, tmp_path, config):
    tracking = Tracking(Accelerator(cpu=True), ("recorder",), tmp_path, config)
    assert not recorder.instances
    for record in RECORDS:
        tracking.log(record, record["step"])
    tracking.close()
    tracking.close()
    (tracker,) = recorder.instances
    assert tracker.calls == ["start", "store", "log", "log", "finish"]
    assert [step for _, step in tracker.logged] == [12, 24] and "note" not in tracker.logged[0][0]
    assert tracker.settings["training/arch"] == "mlp" and tracker.settings["model/image_shape"] == "[1, 8, 8]"


def test_only_the_main_process_uses_trackers(recorder, tmp_path, config):
    tracking = Tracking(SimpleNamespace(is_main_process=False), ("recorder",), tmp_path, config)  # type: ignore[arg-type]
    tracking.log(RECORDS[0], 1)
    tracking.close()
    assert not recorder.instances


@pytest.mark.parametrize("method", ["start", "store", "log", "finish"])
def test_failing_tracker_is_disabled_with_one_message(recorder, tmp_path, config, capsys, monkeypatch, method):
    class Failing(Recorder):
        def __init__(self, run_name: str, **options: Any) -> None:
            super().__init__(run_name, failing_call=method)

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "failing", Failing)
    tracking = Tracking(Accelerator(cpu=True), ("failing", "recorder"), tmp_path, config)
    for record in RECORDS:
        tracking.log(record, record["step"])
    tracking.close()
    assert capsys.readouterr().err == (
        "cvae: the tracker 'failing' failed and is disabled: ConnectionError: the network is gone\n"
    )
    failing, healthy = recorder.instances
    assert failing.calls.count(method) == 1 and failing.calls[-1] == method
    assert healthy.calls == ["start", "store", "log", "log", "finish"]


def test_tracking_does_not_catch_keyboard_interrupt(recorder, tmp_path, config, monkeypatch):
    def interrupt(self: Recorder) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Tracking(Accelerator(cpu=True), ("recorder",), tmp_path, config).log(RECORDS[0], 1)


def test_default_tracker_is_tensorboard_if_installed(monkeypatch):
    assert choose(None) == ("tensorboard",)
    assert choose(("none",)) == ()
    assert choose(("tensorboard", "tensorboard")) == ("tensorboard",)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose(None) == ()


@pytest.mark.parametrize(
    ("trackers", "error_type", "words"),
    [
        (("tensorbord",), UsageError, ["'tensorbord'", "'tensorboard'"]),
        (("none", "wandb"), UsageError, ["none", "wandb"]),
        (("wandb",), CvaeError, ["'wandb'", "pip install wandb"]),
    ],
)
def test_unavailable_tracker_is_rejected(monkeypatch, trackers, error_type, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(error_type) as caught:
        choose(trackers)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.integration
def test_training_logs_each_epoch_to_tensorboard(tmp_path: Path):
    from cvae.engine import train

    training = TrainConfig(arch="mlp", limit=64, batch_size=64, epochs=2, trackers=("tensorboard",))
    run = train(training, tmp_path / "run", quiet=True)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("validation/bound")] == [1, 2]
    assert "test/bound" in events.Tags()["scalars"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_wandb_asks_for_its_key_before_training_and_only_on_a_terminal(tmp_path, monkeypatch, config, is_terminal):
    logins: list[str] = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=lambda: logins.append("login")))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: is_terminal))
    Tracking(Accelerator(cpu=True), ("wandb",), tmp_path, config)
    assert logins == ["login"] * is_terminal


def test_wandb_is_disabled_if_the_login_fails(tmp_path, monkeypatch, config, capsys):
    def login() -> None:
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=login))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    Tracking(Accelerator(cpu=True), ("wandb",), tmp_path, config).log({"train": {"bound": 1.0}}, 1)
    assert capsys.readouterr().err.count("\n") == 1
