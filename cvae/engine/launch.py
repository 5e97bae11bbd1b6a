"""Functions that start a run, or resume one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from cvae.conditions import Condition
from cvae.config import DataConfig, TrainConfig
from cvae.data import Dataset, load_dataset
from cvae.engine.processes import join_processes, restart_count
from cvae.engine.resolve import choose_conditions, configure
from cvae.engine.trainer import OnEpoch, Trainer
from cvae.errors import CvaeError, UsageError
from cvae.flags import flags_of
from cvae.recorded_data import RecordedDataConfig
from cvae.run import is_run, read_config


def train(config: TrainConfig, out: str | Path, *, quiet: bool = False, on_epoch: OnEpoch | None = None) -> Path:
    """Train a new run, and return its folder.

    Args:
        config: Training config.
        out: Folder of the run. It must not contain a run yet, unless torchrun has restarted the process: then the
            run is resumed.
        quiet: Whether to print nothing.
        on_epoch: Called with the record of each epoch once it is saved. An exception that it raises ends the run.

    Raises:
        UsageError: If parts of the config do not fit together. Nothing is written.
        CvaeError: If the data can't be read, the disk can't be written to, or a process was lost.
        Diverged: If the loss or a gradient is not finite.
        Interrupted: After the first Ctrl-C or SIGTERM. The run can be resumed.
    """
    out = Path(out)
    if is_run(out):
        if restart_count():
            return resume(out, quiet=quiet, on_epoch=on_epoch)
        raise UsageError(
            f"{str(out)!r} already holds a run; choose another out (--out), or continue the run with cvae.resume "
            "(--resume)"
        )
    accelerator = join_processes(config)
    dataset = _load_dataset(config, accelerator)
    resolved = configure(config, dataset)
    return Trainer(resolved, dataset, out, accelerator, quiet=quiet, on_epoch=on_epoch).run()


def resume(out: str | Path, *, quiet: bool = False, on_epoch: OnEpoch | None = None, **overrides: Any) -> Path:
    """Resume a run from its newest intact checkpoint, and return its folder.

    Args:
        out: Folder of the run.
        quiet: Whether to print nothing.
        on_epoch: Called with the record of each epoch once it is saved.
        overrides: Flags that can be changed when a run is resumed, as in `cvae.resume`. None keeps the run's value.

    Raises:
        UsageError: If the run already has more than `epochs` epochs.
        CvaeError: If the folder is not a run, none of its checkpoints is intact, or the data have changed.
    """
    out = Path(out)
    resumable = {name for name, flag in flags_of(TrainConfig).items() if flag.resumable}
    if unknown := overrides.keys() - resumable:
        raise TypeError(f"resume() can't change {', '.join(sorted(unknown))}, only {', '.join(sorted(resumable))}")
    config = read_config(out)
    changes: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    recorded = RecordedDataConfig.of_run(config)
    if length := changes.keys() & {"epochs", "minutes"}:  # a number of epochs replaces a time budget, and vice versa
        changes = {"epochs": None, "minutes": None, **changes} if len(length) == 1 else changes
    config = replace(config, training=replace(config.training, **changes))
    accelerator = join_processes(config.training)
    if "data" in changes:
        dataset = _load_dataset(config.training, accelerator)
    else:
        dataset = _load_dataset(replace(recorded, data_dir=changes.get("data_dir")), accelerator)
    fingerprint = dataset.fingerprint
    if recorded.fingerprint and fingerprint and (difference := recorded.fingerprint.find_difference(fingerprint)):
        raise CvaeError(
            f"{config.training.data!r} does not hold the data that {str(out)!r} was started with: {difference}; "
            "restore them, or start a new run"
        )
    config = replace(config, fingerprint=fingerprint)
    shape, conditions = dataset.train.images.shape[1:], choose_conditions(config.training, dataset)
    if (shape, conditions) != (config.model.image_shape, config.model.conditions):
        raise CvaeError(
            f"{config.training.data!r} has images of shape {shape}{_describe(conditions)}, but the run was started "
            f"with shape {config.model.image_shape}{_describe(config.model.conditions)}; restore the data, or start a "
            "new run"
        )
    return Trainer(config, dataset, out, accelerator, quiet=quiet, on_epoch=on_epoch).run(resuming=True)


def _load_dataset(config: DataConfig, accelerator: Accelerator) -> Dataset:
    with accelerator.local_main_process_first():  # the first process downloads and decodes the data for the others
        return load_dataset(config, identify=True)


def _describe(conditions: Sequence[Condition]) -> str:
    return "".join(f", {condition.name} {condition.describe()}" for condition in conditions)
