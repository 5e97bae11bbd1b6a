"""Where a run's figures go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow, through accelerate."""

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
from cvae.serialization import to_dict


def choose(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The trackers of a run. None: TensorBoard, if it is installed; ("none",): none at all. Imports no tracker.

    Raises:
        UsageError: a name is unknown, or "none" is not alone.
        CvaeError: a tracker is not installed.
    """
    if asked is None:
        return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    if "none" in asked:
        if set(asked) != {"none"}:
            raise UsageError(f"--tracker none contradicts the others of {', '.join(asked)}; leave it out")
        return ()
    for name in asked:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"unknown tracker {name!r}; {suggest(name, [*LOGGER_TYPE_TO_CLASS, 'none'])}")
        if importlib.util.find_spec(name) is None:  # each is imported by the name that accelerate gives it
            raise CvaeError(f"the tracker {name!r} is not installed: pip install {name}")
    return tuple(dict.fromkeys(asked))


class Tracking:
    """The trackers of one run, in its main process. One that fails is left out with a line on stderr.

    They are imported and started by the first record, so that they don't hold up the first training step.
    """

    def __init__(self, accelerator: Accelerator, names: tuple[str, ...], out: Path, config: Config) -> None:
        self._names = names if accelerator.is_main_process else ()
        self._trackers: dict[str, GeneralTracker] = {}
        self._out = out
        self._config = config

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Log the numbers of a record: {"train": {"bound": 9.0}} as train/bound."""
        for name in self._names:
            with self._left_out_if_it_fails(name):
                self._start(name)
        self._names = ()
        figures = {key: value for key, value in _flat(record).items() if isinstance(value, int | float)}
        for name, tracker in list(self._trackers.items()):
            with self._left_out_if_it_fails(name):
                tracker.log(figures, step=step)

    def close(self) -> None:
        """Write what is still held back, and end the trackers."""
        for name, tracker in list(self._trackers.items()):
            with self._left_out_if_it_fails(name):
                tracker.finish()
        self._names, self._trackers = (), {}

    def _start(self, name: str) -> None:
        run = self._out.resolve()
        kind = LOGGER_TYPE_TO_CLASS[name]
        named: dict[str, dict[str, Any]] = {"wandb": {"name": run.name, "dir": run}, "mlflow": {"run_name": run.name}}
        options = named.get(name, {})
        if kind.requires_logging_directory:
            options["logging_dir"] = run
        # TensorBoard's tracker writes to the folder of this name in there; for the others it is the project's.
        tracker = kind("tensorboard" if name == "tensorboard" else "cvae", **options)
        tracker.start()
        self._trackers[name] = tracker
        settings = _flat(to_dict(self._config))
        plain = {key: v if isinstance(v, str | int | float) else json.dumps(v) for key, v in settings.items()}
        tracker.store_init_configuration(plain)

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        """A training of days does not end because a server does."""
        try:
            yield
        except Exception as error:
            self._trackers.pop(name, None)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"cvae: the tracker {name!r} failed and is left out: {reason}", file=sys.stderr)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}/") if isinstance(value, Mapping) else {above + key: value}
    return flat
