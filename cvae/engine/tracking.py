"""Experiment tracking through accelerate: TensorBoard, Weights & Biases, MLflow."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from cvae.config import Config
from cvae.errors import CvaeError, UsageError, suggest
from cvae.messages import print_message
from cvae.serialization import to_dict


def choose(trackers: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the trackers to use, without importing them.

    Args:
        trackers: tracker names; None for TensorBoard if it is installed, ("none",) for no tracker.

    Raises:
        UsageError: If a name is unknown, or "none" is combined with other names.
        CvaeError: If a tracker is not installed.
    """
    if trackers is None:
        return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    if "none" in trackers:
        if set(trackers) != {"none"}:
            raise UsageError(
                f"--tracker none can't be combined with others ({', '.join(trackers)}); remove 'none' or the others"
            )
        return ()
    for name in trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"unknown tracker {name!r}; {suggest(name, [*LOGGER_TYPE_TO_CLASS, 'none'])}")
        if importlib.util.find_spec(name) is None:  # accelerate names each tracker after its package
            raise CvaeError(f"the tracker {name!r} is not installed: pip install {name}")
    return tuple(dict.fromkeys(trackers))


class Tracking:
    """Experiment trackers of a run. Only the main process logs.

    Trackers are imported and started when the first record is logged, so that they don't delay the first training step.
    If a tracker fails, it is disabled with a message on stderr.
    """

    def __init__(self, accelerator: Accelerator, names: tuple[str, ...], out: Path, config: Config) -> None:
        self._names = names if accelerator.is_main_process else ()
        self._trackers: dict[str, GeneralTracker] = {}
        self._out = out
        self._config = config
        if "wandb" in self._names and sys.stdin is not None and sys.stdin.isatty():
            # Ask for the key now, because the progress bar would hide the question. Without a terminal, W&B never asks.
            with self._disable_on_error("wandb"):
                importlib.import_module("wandb").login()

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Log the numbers in a record: {"train": {"bound": 9.0}} is logged as train/bound."""
        for name in self._names:
            with self._disable_on_error(name):
                self._start(name)
        self._names = ()
        metrics = {key: value for key, value in _flatten(record).items() if isinstance(value, int | float)}
        for name, tracker in list(self._trackers.items()):
            with self._disable_on_error(name):
                tracker.log(metrics, step=step)

    def close(self) -> None:
        """Flush and close the trackers."""
        for name, tracker in list(self._trackers.items()):
            with self._disable_on_error(name):
                tracker.finish()
        self._names, self._trackers = (), {}

    def _start(self, name: str) -> None:
        run = self._out.resolve()
        tracker_class = LOGGER_TYPE_TO_CLASS[name]
        options: dict[str, Any] = {}
        if name == "wandb":
            options = {"name": run.name, "dir": run}
        elif name == "mlflow":
            options = {"run_name": run.name}
        if tracker_class.requires_logging_directory:
            options["logging_dir"] = run
        # The first argument names a sub-folder for TensorBoard, and the project for all other trackers.
        tracker = tracker_class("tensorboard" if name == "tensorboard" else "cvae", **options)
        tracker.start()
        self._trackers[name] = tracker
        settings = _flatten(to_dict(self._config))
        scalars = {key: v if isinstance(v, str | int | float) else json.dumps(v) for key, v in settings.items()}
        tracker.store_init_configuration(scalars)

    @contextmanager
    def _disable_on_error(self, name: str) -> Iterator[None]:
        """Disable a tracker that raises an error, so that a failing server does not end a long training run."""
        try:
            yield
        except Exception as error:
            self._trackers.pop(name, None)
            self._names = tuple(other for other in self._names if other != name)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print_message(f"cvae: the tracker {name!r} failed and is disabled: {reason}")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: {"a": {"b": 1}} becomes {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
