"""Hyperparameter search with Optuna (https://arxiv.org/abs/1907.10902), on one or more machines.

Each trial is a run, scored by its best validation bound. The first trial uses the user's configuration unchanged, so
the best trial is never worse than this configuration.
"""

import json
import os
import re
import shutil
import socket
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
from cvae.errors import CvaeError, Diverged, Interrupted, UsageError
from cvae.messages import print_message
from cvae.run import selection_bound
from cvae.serialization import to_dict
from cvae.tuning.search_space import MACHINE_FLAGS, Domain, Range, Space, apply_params, encode_choice, to_recipe

PRUNING_STEPS = 20
"""Number of times that a trial is compared with the other trials, evenly spaced over its steps.

In the first quarter of its steps, a trial is not pruned.
"""

MAX_FAILURES = 3
"""Number of consecutive failures that end a study, since their cause (a full disk, say) would affect all later trials.

A loss that is not finite does not count as a failure.
"""

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of the trials that count as done. A trial that was interrupted or killed is repeated."""


class Study:
    """A hyperparameter search.

    Args:
        base: configuration of the first trial; later trials change only the parameters in the search space.
        space: search space.
        name: name of the study in its storage.
        out: folder for the runs of this worker.
        storage: file or database URL, which several workers can share; None for a file in `out`.

    Raises:
        UsageError: If the configuration or the search space is not valid, or the study was started with different
            flags.
        CvaeError: If the storage can't be used.
    """

    def __init__(self, base: TrainConfig, space: Space, *, name: str, out: Path, storage: str | None = None) -> None:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UsageError(
                "cvae tune can't run under a launcher such as torchrun; start it several times with the same --storage "
                "instead"
            )
        self.base, self.space, self.name, self.out = base, space, name, out
        self.storage = storage or str(out / "study.journal")
        self.first_params = self._check_space()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._convert_storage_errors():
            try:
                self.optuna = self._open()
            except DBAPIError:  # another worker may be creating the tables of a new database
                time.sleep(1)
                self.optuna = self._open()
            self._check_same_flags()

    def _open(self) -> optuna.Study:
        return optuna.create_study(
            study_name=self.name,
            storage=self.storage if "://" in self.storage else _open_journal(Path(self.storage)),
            pruner=MedianPruner(n_warmup_steps=PRUNING_STEPS // 4),
            load_if_exists=True,
        )

    def _check_space(self) -> dict[str, Any]:
        """Check all choices and the ends of all ranges, and return the parameters of the first trial.

        Without the check, an invalid value would fail only when a later trial tries it. The parameters of the first
        trial are the values of `base` that lie in the search space.
        """
        if self.base.losses:
            raise UsageError(
                f"cvae tune looks for the best bound, which --loss {self.base.losses[0]} makes worse; train without it"
            )
        dataset = load_dataset(self.base)
        if dataset.validation is None:
            raise UsageError(
                f"--validation {self.base.validation} leaves no images for comparing trials; use 0.1, for example"
            )
        for name, domain in self.space.items():
            for value in domain.ends if isinstance(domain, Range) else domain:
                configure(apply_params(self.base, {name: value}), dataset)
        config = configure(self.base, dataset)
        options = {name: part.options for name, part in config.model.parts.items()}
        options |= {name: config.training.options[name] for name in config.training.training_parts}
        values = {f"{part}.{name}": value for part, own in options.items() for name, value in own.items()}
        values |= vars(config.training)
        return {
            name: encode_choice(values[name])
            for name, domain in self.space.items()
            if encode_choice(values[name]) in domain
        }

    def run(self, num_trials: int) -> None:
        """Search until `num_trials` trials are done, counting the trials of all workers.

        Raises:
            CvaeError: If the first trial fails, or `MAX_FAILURES` trials in a row fail.
            Interrupted: If the process receives Ctrl-C or SIGTERM; the study can be resumed.
        """
        with self._convert_storage_errors():
            try:
                self._recover()
                self._update_best()
                failures = 0
                while self._num_done() < num_trials:
                    trial = self.optuna.ask()
                    if is_first(trial) and self._is_duplicate_first(trial):
                        self.optuna.tell(trial, state=TrialState.FAIL)
                        continue
                    error = self._train(trial)
                    self._update_best()
                    if isinstance(error, Diverged):
                        continue
                    failures = failures + 1 if error else 0
                    if error and (failures == MAX_FAILURES or is_first(trial)):
                        raise error
            except (Interrupted, KeyboardInterrupt):
                raise Interrupted(
                    f"interrupted after {self._num_done()} of {num_trials} trials; resume with the same command"
                ) from None

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that have been started, the best trial first."""
        trials = [trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        order = (*DONE, TrialState.RUNNING, TrialState.FAIL)
        return sorted(trials, key=lambda t: (order.index(t.state), inf if t.value is None else t.value, t.number))

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial."""
        return _first_complete(self.trials)

    def config(self, trial: FrozenTrial | Trial) -> TrainConfig:
        """Return the training configuration of a trial."""
        return self.base if is_first(trial) else apply_params(self.base, trial.params)

    def folder(self, trial: FrozenTrial | Trial) -> Path:
        """Return the folder of a trial's run. It exists if this worker ran the trial and has not removed the run."""
        return self.out / f"trial-{trial.number:03}"

    # -- one trial -------------------------------------------------------------------------------------------------

    def _train(self, trial: Trial) -> CvaeError | None:
        """Train the model of a trial, report the result to the study, and return the error if training failed."""
        # The seed depends on the trial's number: each worker proposes other values, but a repeated study repeats them.
        self.optuna.sampler = TPESampler(n_startup_trials=5, constant_liar=True, seed=self.base.seed + trial.number)
        process = psutil.Process()
        trial.set_user_attr("worker", [socket.gethostname(), process.pid, process.create_time()])
        for name in self.first_params if is_first(trial) else self.space:
            _suggest(trial, name, self.space[name])

        start = time.monotonic()
        bounds: list[float] = []
        # Importance-weighted bounds are comparable only at equal numbers of samples; ELBOs are always comparable.
        score = itemgetter("bound") if {"objective", "objective.samples"} & self.space.keys() else selection_bound
        pruning_step = 0

        def on_epoch(record: dict[str, Any]) -> None:
            nonlocal pruning_step
            bounds.append(score(record["validation"]))
            if (step := record["step"] * PRUNING_STEPS // record["total_steps"]) > pruning_step:
                pruning_step = step
                trial.report(bounds[-1], step)
                if trial.should_prune():
                    raise optuna.TrialPruned

        error = None
        try:
            train(self.config(trial), self.folder(trial), quiet=True, on_epoch=on_epoch)
            state = TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except (Interrupted, KeyboardInterrupt):
            self._abandon(trial, retry=True)
            raise
        except CvaeError as exception:
            fatal = is_first(trial) and not isinstance(exception, Diverged)
            error, state = exception, TrialState.FAIL if fatal else TrialState.PRUNED
            trial.set_user_attr("error", str(error))
        trial.set_user_attr("seconds", round(time.monotonic() - start, 1))
        bound = min(bounds) if state == TrialState.COMPLETE else None
        result = self.optuna.tell(trial, bound, state, skip_if_finished=True)
        values = ", ".join(f"{name} {format_value(value)}" for name, value in result.params.items())
        score_text = f" ({error})" if error else "" if result.value is None else f" at {result.value:.2f} nats"
        print_message(f"trial {result.number}: {outcome(result)}{score_text}; {values}")
        return error

    def _update_best(self) -> None:
        """Write the recipe of the best trial, and remove the runs of all other finished trials."""
        trials = self.trials  # read once, because another worker may add a better trial at any time
        best = _first_complete(trials)
        for trial in trials:
            if trial.state.is_finished() and trial is not best:
                shutil.rmtree(self.folder(trial), ignore_errors=True)
        if best is not None:
            title = f"# Trial {best.number} of the study {self.name!r}: {best.value:.2f} nats on the validation images"
            write_file(self.out / "best.toml", f"{title}\n{to_recipe(self.config(best))}")

    # -- stopping and resuming -------------------------------------------------------------------------------------

    def _num_done(self) -> int:
        return len(self.optuna.get_trials(deepcopy=False, states=DONE))

    def _recover(self) -> None:
        """Abandon the trials of killed workers on this machine, and queue the first trial if necessary.

        It is necessary unless the first trial is queued, running or done.
        """
        for trial in self.optuna.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if _is_orphaned(trial):
                # Retry only once, because these values may need more memory than the machine has.
                self._abandon(trial, retry="again" not in trial.user_attrs)
        states = (TrialState.WAITING, TrialState.RUNNING, *DONE)
        if not any(is_first(trial) for trial in self.optuna.get_trials(deepcopy=False, states=states)):
            self.optuna.enqueue_trial(self.first_params, user_attrs={"start": True})

    def _is_duplicate_first(self, trial: Trial) -> bool:
        """Return whether another worker that started at the same time has already taken the first trial."""
        trials = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING, *DONE))
        return any(is_first(other) and other.number < trial.number for other in trials)

    def _abandon(self, trial: FrozenTrial | Trial, *, retry: bool) -> None:
        """End a trial and, with `retry`, queue its values again. The first trial is queued by `_recover`."""
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        shutil.rmtree(self.folder(trial), ignore_errors=True)
        if retry and not is_first(trial):
            self.optuna.enqueue_trial(trial.params, user_attrs={"again": trial.number})

    def _check_same_flags(self) -> None:
        """Store the flags and the search space of a new study, or check that they equal those of an existing study.

        Raises:
            UsageError: If the study was started with different flags or a different search space.
        """
        flags = {key: value for key, value in to_dict(self.base).items() if key not in MACHINE_FLAGS}
        defaults = {key: value for key, value in to_dict(TrainConfig()).items() if key in flags}
        search = {
            key: asdict(domain) if isinstance(domain, Range) else list(domain) for key, domain in self.space.items()
        }
        for attr, current in {"flags": flags, "search": search}.items():
            stored = self.optuna.user_attrs.get(attr, current) if self._num_done() else {}
            if stored and attr == "flags":  # an older version may have stored fewer flags, or beta as a flag
                stored = {**defaults, **expand_short_flags(stored)}
            if stored == current:
                continue
            if not stored:
                self.optuna.set_user_attr(attr, current)
                continue
            key = next(key for key in [*current, *stored] if current.get(key) != stored.get(key))
            text = flag(key) if attr == "flags" else f"--search {key}"
            raise UsageError(
                f"the study {self.name!r} was started with {text} {stored.get(key)}, not {current.get(key)}; "
                "use the same flags, or another --study"
            )

    @contextmanager
    def _convert_storage_errors(self) -> Iterator[None]:
        """Convert errors of the storage to CvaeError, and hide the password in the URL of the storage."""
        try:
            yield
        except CvaeError:
            raise
        except (OSError, ImportError, SQLAlchemyError, optuna.exceptions.OptunaError, json.JSONDecodeError) as error:
            url = re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", self.storage)
            reason = str(error).splitlines()[0]
            raise CvaeError(f"the study's storage {url!r} can't be used: {type(error).__name__}: {reason}") from error


def _first_complete(trials: list[FrozenTrial]) -> FrozenTrial | None:
    return next((trial for trial in trials if trial.state == TrialState.COMPLETE), None)


def _open_journal(path: Path) -> JournalStorage:
    """Open a journal file, which may be on a shared drive.

    If a full disk has cut the last line short, the line is removed.
    """
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
    """Describe the state of a trial in one word."""
    if "error" in trial.user_attrs:
        return "failed"
    return {"FAIL": "stopped"}.get(trial.state.name, trial.state.name.lower())


def format_value(value: Any) -> str:
    """Format the value of a parameter for a table or message."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _suggest(trial: Trial, name: str, domain: Domain) -> None:
    """Let Optuna choose the value of a parameter and store it in the trial."""
    if not isinstance(domain, Range):
        trial.suggest_categorical(name, domain)
    elif domain.whole:
        trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
    else:
        trial.suggest_float(name, domain.low, domain.high, log=domain.log)


def is_first(trial: FrozenTrial | Trial) -> bool:
    """Return whether a trial is the first one, with the user's configuration unchanged."""
    return "start" in trial.user_attrs


def _is_orphaned(trial: FrozenTrial) -> bool:
    """Return whether the process that ran a trial was on this machine and no longer exists."""
    host, pid, start = trial.user_attrs.get("worker", (None, 0, 0))
    try:
        return host == socket.gethostname() and abs(psutil.Process(pid).create_time() - start) > 2
    except psutil.NoSuchProcess:
        return True
