"""Hyperparameter search on Optuna, https://arxiv.org/abs/1907.10902: one study, many trials, one or several machines.

A trial is a run of its own, scored by its best validation bound. The first one is the configuration as it was asked
for, so that a study never ends worse than that.
"""

import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cvae.atomic import write_file
from cvae.config import TrainConfig, expand_short_flags, flag
from cvae.data import load_dataset
from cvae.engine.launch import train
from cvae.engine.resolve import configure
from cvae.engine.validation import selection_bound
from cvae.errors import CvaeError, Diverged, Interrupted, UsageError
from cvae.run import read_config
from cvae.serialization import to_dict
from cvae.tuning.search_space import MACHINE, Range, Space, apply_params, scalar, to_recipe

PRUNING_STEPS = 20
"""How often a run is compared with the others, at the same fractions of its epochs; never in its first quarter."""

FAILURES = 3
"""Trials that may fail one after the other, but for those whose loss is not finite: a full disk stays full."""

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""The trials that count. One that was stopped, or killed, is done again."""


class Study:
    """A study in its storage, and the folder `out` where this worker has its runs.

    `storage` is a file or a database URL, which several workers may share; None: a file in `out`.

    Raises:
        UsageError: what was asked does not fit together, or the study was begun with other flags.
        CvaeError: the storage can't be used.
    """

    def __init__(self, base: TrainConfig, space: Space, *, name: str, out: Path, storage: str | None = None) -> None:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UsageError("a study runs in one process; start cvae tune several times on one --storage instead")
        self.base, self.space, self.name, self.out = base, space, name, out
        self.storage = storage or str(out / "study.journal")
        self.start = self._check()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._storage_errors():
            try:
                self.optuna = self._open()
            except DBAPIError:  # another worker may have made the tables of a new database at the same time
                time.sleep(1)
                self.optuna = self._open()
            self._compare_with_its_beginning()

    def _open(self) -> optuna.Study:
        return optuna.create_study(
            study_name=self.name,
            storage=self.storage if "://" in self.storage else _journal(Path(self.storage)),
            pruner=MedianPruner(n_warmup_steps=PRUNING_STEPS // 4),
            load_if_exists=True,
        )

    def _check(self) -> dict[str, Any]:
        """What `base` has for the names in the space. A value that can't be is an error now, not in the tenth trial."""
        dataset = load_dataset(self.base)
        if dataset.validation is None:
            raise UsageError(f"--validation {self.base.validation} leaves no images to compare trials by; give 0.1")
        for name, of in self.space.items():
            for value in of.ends if isinstance(of, Range) else of:
                configure(apply_params(self.base, {name: value}), dataset)
        config = configure(self.base, dataset)
        options = {name: part.options for name, part in config.model.parts.items()}
        options["objective"] = config.training.options["objective"]
        values = {f"{part}.{name}": value for part, own in options.items() for name, value in own.items()}
        values |= vars(config.training)
        return {name: scalar(values[name]) for name, of in self.space.items() if scalar(values[name]) in of}

    def run(self, trials: int) -> None:
        """Search until the study has so many trials in all, by whatever worker.

        Raises:
            CvaeError: the first trial fails, or several one after the other.
            Interrupted: Ctrl-C or SIGTERM; the study can be continued.
        """
        with self._storage_errors():
            try:
                self._recover()
                self._keep_best()
                failures = 0
                while self._done() < trials:
                    trial = self.optuna.ask()
                    if is_start(trial) and self._is_first_elsewhere(trial):
                        self.optuna.tell(trial, state=TrialState.FAIL)
                        continue
                    error = self._train(trial)
                    self._keep_best()
                    if isinstance(error, Diverged):
                        continue
                    failures = failures + 1 if error else 0
                    if error and (failures == FAILURES or is_start(trial)):
                        raise error
            except (Interrupted, KeyboardInterrupt):
                raise Interrupted(
                    f"stopped with {self._done()} of {trials} trials done; the same command goes on"
                ) from None

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that were begun, the best first."""
        begun = [trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        order = (*DONE, TrialState.RUNNING, TrialState.FAIL)
        return sorted(begun, key=lambda t: (order.index(t.state), inf if t.value is None else t.value, t.number))

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial that ran to its end."""
        return _best_of(self.trials)

    def config(self, trial: FrozenTrial | Trial) -> TrainConfig:
        """What a trial asked of `cvae train`."""
        return self.base if is_start(trial) else apply_params(self.base, trial.params)

    def folder(self, trial: FrozenTrial | Trial) -> Path:
        """Where its run is, if this worker ran it and it was kept."""
        return self.out / f"trial-{trial.number:03}"

    # -- one trial -------------------------------------------------------------------------------------------------

    def _train(self, trial: Trial) -> CvaeError | None:
        """Train, tell the study, and return what went wrong, if it did."""
        # Seeded by the trial's number: a study proposes the same again, and two workers never the same.
        self.optuna.sampler = TPESampler(n_startup_trials=5, constant_liar=True, seed=self.base.seed + trial.number)
        this = psutil.Process()
        trial.set_user_attr("worker", [socket.gethostname(), this.pid, this.create_time()])
        for name in self.start if is_start(trial) else self.space:
            _suggest(trial, name, self.space[name])

        begun = time.monotonic()
        bounds: list[float] = []
        # Importance-weighted bounds of several numbers of samples do not compare; the ELBO's always do.
        score = itemgetter("bound") if {"objective", "objective.samples"} & self.space.keys() else selection_bound
        epochs = looks = 0

        def on_epoch(record: dict[str, Any]) -> None:
            nonlocal epochs, looks
            bounds.append(score(record["validation"]))
            epochs = epochs or read_config(self.folder(trial)).training.epochs or 1
            if (look := record["epoch"] * PRUNING_STEPS // epochs) > looks:
                looks = look
                trial.report(bounds[-1], look)
                if trial.should_prune():
                    raise optuna.TrialPruned

        error = None
        try:
            train(self.config(trial), self.folder(trial), quiet=True, on_epoch=on_epoch)
            state = TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except (Interrupted, KeyboardInterrupt):
            self._give_up(trial, again=True)
            raise
        except CvaeError as caught:
            broke = is_start(trial) and not isinstance(caught, Diverged)
            error, state = caught, TrialState.FAIL if broke else TrialState.PRUNED
            trial.set_user_attr("error", str(error))
        trial.set_user_attr("seconds", round(time.monotonic() - begun, 1))
        bound = min(bounds) if state == TrialState.COMPLETE else None
        told = self.optuna.tell(trial, bound, state, skip_if_finished=True)
        values = ", ".join(f"{name} {short(value)}" for name, value in told.params.items())
        figure = f" ({error})" if error else f" at {told.value:.2f} nats" if told.value is not None else ""
        print(f"trial {told.number}: {outcome(told)}{figure}; {values}", file=sys.stderr)
        return error

    def _keep_best(self) -> None:
        """Write the best trial's recipe, and remove the runs of the trials that are lost to it."""
        trials = self.trials  # looked at once: another worker may add a better one at any time
        best = _best_of(trials)
        for trial in trials:
            if trial.state.is_finished() and trial is not best:
                shutil.rmtree(self.folder(trial), ignore_errors=True)
        if best is not None:
            title = f"# Trial {best.number} of the study {self.name!r}: {best.value:.2f} nats on the validation images"
            write_file(self.out / "best.toml", f"{title}\n{to_recipe(self.config(best))}")

    # -- stopping and going on -------------------------------------------------------------------------------------

    def _done(self) -> int:
        return len(self.optuna.get_trials(deepcopy=False, states=DONE))

    def _recover(self) -> None:
        """Give up the trials that a killed worker of this machine has left, and queue the first if it is not done."""
        for trial in self.optuna.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if _is_lost(trial):
                # Once only: it may be the memory these values take that kills the worker.
                self._give_up(trial, again="again" not in trial.user_attrs)
        states = (TrialState.WAITING, TrialState.RUNNING, *DONE)
        if not any(is_start(trial) for trial in self.optuna.get_trials(deepcopy=False, states=states)):
            self.optuna.enqueue_trial(self.start, user_attrs={"start": True})

    def _is_first_elsewhere(self, trial: Trial) -> bool:
        """Whether a worker that began at the same time has queued, and got, the first trial before."""
        begun = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING, *DONE))
        return any(is_start(other) and other.number < trial.number for other in begun)

    def _give_up(self, trial: FrozenTrial | Trial, *, again: bool) -> None:
        """End a trial and, the first aside, which `_recover` sees to, queue its values anew."""
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        shutil.rmtree(self.folder(trial), ignore_errors=True)
        if again and not is_start(trial):
            self.optuna.enqueue_trial(trial.params, user_attrs={"again": trial.number})

    def _compare_with_its_beginning(self) -> None:
        flags = {key: value for key, value in to_dict(self.base).items() if key not in MACHINE}
        defaults = {key: value for key, value in to_dict(TrainConfig()).items() if key in flags}
        search = {key: asdict(of) if isinstance(of, Range) else list(of) for key, of in self.space.items()}
        for kind, asked in {"flags": flags, "search": search}.items():
            begun = self.optuna.user_attrs.get(kind, asked) if self._done() else {}
            if begun and kind == "flags":  # an older version may have had fewer flags, or beta among them
                begun = {**defaults, **expand_short_flags(begun)}
            if begun == asked:
                continue
            if not begun:
                self.optuna.set_user_attr(kind, asked)
                continue
            key = next(key for key in [*asked, *begun] if asked.get(key) != begun.get(key))
            shown = flag(key) if kind == "flags" else f"--search {key}"
            raise UsageError(
                f"the study {self.name!r} was begun with {shown} {begun.get(key)}, not {asked.get(key)}; "
                "give the same flags, or another --study"
            )

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except CvaeError:
            raise
        except (OSError, ImportError, SQLAlchemyError, optuna.exceptions.OptunaError, json.JSONDecodeError) as error:
            shown = re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", self.storage)
            reason = str(error).splitlines()[0]
            raise CvaeError(f"the study's storage {shown!r} can't be used: {type(error).__name__}: {reason}") from error


def _best_of(ordered: list[FrozenTrial]) -> FrozenTrial | None:
    return next((trial for trial in ordered if trial.state == TrialState.COMPLETE), None)


def _journal(path: Path) -> JournalStorage:
    """A file of JSON lines, good on shared drives too. A last line that a full disk cut short is taken off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(str(path))
    backend = JournalFileBackend(str(path), lock)
    lock.acquire()
    try:
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(backend)


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended, in a word."""
    if "error" in trial.user_attrs:
        return "failed"
    return {"FAIL": "stopped"}.get(trial.state.name, trial.state.name.lower())


def short(value: Any) -> str:
    """A value of a trial, for reading."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _suggest(trial: Trial, name: str, of: Range | tuple[Any, ...]) -> None:
    if not isinstance(of, Range):
        trial.suggest_categorical(name, of)
    elif of.whole:
        trial.suggest_int(name, int(of.low), int(of.high), log=of.log)
    else:
        trial.suggest_float(name, of.low, of.high, log=of.log)


def is_start(trial: FrozenTrial | Trial) -> bool:
    return "start" in trial.user_attrs


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether the process that ran it was on this machine, and is no more."""
    host, pid, begun = trial.user_attrs.get("worker", (None, 0, 0))
    try:
        return host == socket.gethostname() and abs(psutil.Process(pid).create_time() - begun) > 2
    except psutil.NoSuchProcess:
        return True
