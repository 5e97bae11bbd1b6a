"""Training loop for any model and objective, on CPU, CUDA or MPS, in one process or several."""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from cvae.atomic import lock_folder, remove_stale_files, write_file
from cvae.config import Config
from cvae.data import Dataset, Split
from cvae.engine.batches import Batches
from cvae.engine.checkpoint import is_finite, load_model, save_weights
from cvae.engine.display import Display, EpochTable, report_every
from cvae.engine.image_losses import ImageLosses
from cvae.engine.imputation import LabelClassifier
from cvae.engine.initialization import initialize
from cvae.engine.pace import Pace
from cvae.engine.processes import any_process
from cvae.engine.randomness import Shard, reseed
from cvae.engine.recorded_step import RecordedStep, can_record
from cvae.engine.resolve import check_batch_size, check_patience, choose_compile
from cvae.engine.run_state import Record, RunCheckpoints, remove_new_run
from cvae.engine.sample_images import save_final_images, save_sample_images
from cvae.engine.step import TrainingStep
from cvae.engine.stopping import Stop, explain_divergence, explain_failure
from cvae.engine.summary import describe_contention, describe_explosion, describe_result, describe_run
from cvae.engine.tracking import Tracking, choose
from cvae.engine.validation import Validator
from cvae.engine.validation_curve import ValidationCurve
from cvae.errors import Diverged, Interrupted, UsageError, count_of, one_line
from cvae.models import VAE, build
from cvae.run import CHECKPOINTS, CONFIG, METRICS, SAMPLES, WEIGHTS, sample_path, selection_bound

CHECKPOINT_SECONDS = 120.0
"""Maximum time between two checkpoints. A checkpoint is also saved at the end of each epoch."""

OnEpoch = Callable[[Record], None]


class Trainer:
    """Training of one run.

    Args:
        config: Config of the run. Its precision, and whether to compile, are resolved here.
        dataset: Images to train on.
        out: Folder of the run.
        accelerator: Accelerate's handle to the device and to the processes that train together.
        quiet: Whether to print nothing.
        on_epoch: Called with the record of each epoch once it is saved.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        out: Path,
        accelerator: Accelerator,
        *,
        quiet: bool = False,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        training = config.training
        self.dataset, self.out, self.accelerator, self.on_epoch = dataset, out, accelerator, on_epoch
        self.device, self.is_main = accelerator.device, accelerator.is_main_process
        self.display = Display(quiet=quiet or not self.is_main)
        self.shard = Shard(accelerator.process_index, accelerator.num_processes)
        assert training.batch_size is not None  # filled in by configure()
        arguments = dataset.train, training.batch_size, self.device, config.model.conditions
        self.batches = Batches(*arguments, balance=training.balance, shard=self.shard)
        check_batch_size(self.batches.batch_size, accelerator.num_processes, training.accumulate)
        check_patience(training, dataset)
        self.pace = Pace(training, dataset, len(self.batches), self.batches.batch_size)
        self.state = self.pace.start()
        # The config stores the choices, so that a run that is resumed on another machine keeps its precision.
        precision = accelerator.mixed_precision.replace("no", "fp32")
        compiled = choose_compile(training.compile, 0 if training.minutes else self.total_steps, self.device.type)
        self.config = replace(config, training=replace(training, precision=precision, compile=compiled))
        reseed(self.device, training.seed, "weights")
        model = build(config.model).to(memory_format=torch.channels_last)
        self.training_step = self._make_step(model)
        self.validator = Validator(self.config, accelerator, self.shard)
        self.validation = None if dataset.validation is None else self.validator.batches(dataset.validation)
        self.checkpoints = RunCheckpoints(out, self.training_step, len(dataset.train))
        self.tracking = Tracking(accelerator, choose(training.trackers), out, self.config)
        self.notes = [*dataset.notes]
        self.stop, self.has_warned, self.has_improved = Stop(), False, False

    def _make_step(self, model: VAE) -> TrainingStep:
        training, steps = self.config.training, self.total_steps
        losses = ImageLosses(self.config, self.dataset, self.accelerator, steps) if training.losses else None
        classifier = LabelClassifier(self.config, self.accelerator, steps) if training.impute else None
        arguments = self.config, self.accelerator, model, self.batches, losses, classifier
        if can_record(self.config, self.accelerator, self.batches):
            return RecordedStep(*arguments, total_steps=steps)
        return TrainingStep(*arguments, total_steps=steps, shard=self.shard)

    @property
    def total_steps(self) -> int:
        """Length of the run, an estimate if it has a time budget."""
        return self.state.total_steps

    @property
    def evaluated_model(self) -> VAE:
        """Model to evaluate, sample from and save: the moving average if there is one."""
        return self.training_step.ema or self.training_step.bare_model

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self, *, resuming: bool = False) -> Path:
        """Train from the start, or from the newest checkpoint if `resuming`, and return the folder of the run."""
        if not resuming:
            self._initialize()  # before the folder is created, since the weights may not fit
        with lock_folder(self.out) if self.is_main else nullcontext():
            try:
                if resuming and not self._restore():
                    self._initialize()
                self._prepare_folder()
                self._train()
            except UsageError:  # a mismatch between parts may not show until the first step
                if self.is_main and self.state.step == 0 and not resuming:
                    remove_new_run(self.out)
                raise
        return self.out

    def _train(self) -> None:
        started, first_step = time.monotonic(), self.state.step
        self.display.fields(self._describe_run())
        for line in self.notes:
            self.display.line(line)
        if warning := describe_contention(self.device, self.accelerator.num_processes):
            self.display.warning(warning)
        with self._open_table() as table, self.stop.handle_signals():
            try:
                if self._is_reported and not sample_path(self.out, len(self.state.records), "reconstructions").exists():
                    self._save_sample_images()  # a run that was stopped may lack those of its last epoch
                self.training_step.model.train()
                if note := self.training_step.prepare(self.state.step):
                    self.display.line(note)
                while not self._is_done:
                    record = self._train_epoch(table)
                    with self.pace.pause():
                        self._finish_epoch(record, table)
                    self._stop_if_requested()
                self._finish_run()
            except (MemoryError, OSError, RuntimeError) as error:
                batch_size = self.batches.batch_size
                explanation = explain_failure(error, self.state.step, self.shard, self._resume_command, batch_size)
                if explanation is None:
                    raise
                raise explanation from error
            finally:
                self.tracking.close()
        test_images = 0 if self.dataset.test is None else len(self.dataset.test)
        self.display.line()
        seconds, records = time.monotonic() - started, self.state.records
        self.display.fields(describe_result(self.config, records, test_images, seconds, resumed=first_step > 0))

    @property
    def _is_done(self) -> bool:
        """Whether all steps are done, or the validation bound has not improved for `--patience` epochs."""
        return self.state.step >= self.total_steps or self._is_out_of_patience

    @property
    def _is_reported(self) -> bool:
        """Whether the run is at the end of an epoch whose metrics are printed and whose sample images are saved."""
        records, epochs = self.state.records, math.ceil(self.total_steps / len(self.batches))
        is_end = self.state.step == (records[-1]["step"] if records else 0)
        return is_end and (len(records) <= 1 or self._is_done or len(records) % report_every(epochs) == 0)

    @property
    def _selects_best(self) -> bool:
        """Whether the weights with the best bound are saved: with losses on images, it does not say which are best."""
        return self.validation is not None and not self.config.training.losses

    @property
    def _is_out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return 0 < patience <= ValidationCurve(self.state.records).epochs_without_improvement

    def _train_epoch(self, table: EpochTable) -> Record:
        """Train to the end of an epoch, and return its record."""
        steps, first = len(self.batches), self.state.step
        epoch, position = divmod(first, steps)
        started = saved = time.monotonic()
        earlier = self.state.epoch_seconds  # time of the epoch before an interruption
        self.training_step.model.train()
        for batch in self.training_step.epoch_batches(epoch, position):
            self._train_step(*batch)
            if due := table.due():
                table.update(self.state.step, self.training_step.means(), self._images_per_second(first, started))
            if self.pace.correct(self.state, self.training_step):
                table.total_steps = self.total_steps
            if self.state.step % steps == 0 or self.state.step >= self.total_steps:
                break  # the end of an epoch is checked and saved below
            save = self.stop.is_requested or time.monotonic() - saved > CHECKPOINT_SECONDS
            if any_process(self.accelerator, due or save, self.state.step):
                self._raise_if_diverged()
            if any_process(self.accelerator, save, self.state.step):
                self._save_checkpoint(earlier + time.monotonic() - started)
                saved = time.monotonic()
                self._stop_if_requested()
        self._raise_if_diverged()
        self.training_step.sums.copy_(self.accelerator.reduce(self.training_step.sums, "mean"))
        # If a time budget ended a run within an epoch, and the run was resumed, the rest counts as an epoch of its own.
        done = self.state.records[-1]["step"] if self.state.records else 0
        record: Record = {
            "epoch": len(self.state.records) + 1,
            "step": self.state.step,
            "total_steps": self.total_steps,
            "train": self.training_step.means(),
            **({"losses": self.training_step.image_loss_means()} if self.config.training.losses else {}),
            "learning_rate": self.training_step.learning_rate(self.state.step - 1),
            "seconds": round(earlier + time.monotonic() - started, 3),
            "images_per_second": round(self._images_per_second(first, started), 1),
        }
        if skipped := self.state.step - done - round(float(self.training_step.sums[-1])):
            record["skipped"] = skipped
        return record

    def _train_step(self, *batch: Tensor | None) -> None:
        self.training_step(self.state.step, *batch)
        self.state.step += 1

    def _finish_epoch(self, record: Record, table: EpochTable) -> None:
        """Validate, save and report, in this order, so that everything that has been reported is already saved."""
        if not math.isfinite(record["train"]["loss"]):
            raise self._divergence_error(f"the loss is {record['train']['loss']} at step {self.state.step:,}")
        if not is_finite(self.training_step.bare_model):
            raise self._divergence_error(f"weights are not finite at step {self.state.step:,}")
        self.training_step.broadcast_average_buffers()
        score = record["train"]["bound"]
        if self.validation is not None:
            record["validation"] = self.validator.evaluate(self.evaluated_model, self.validation)
            score = selection_bound(record["validation"])
            if not math.isfinite(score):
                raise self._divergence_error(f"the validation bound is {score} at step {self.state.step:,}")
        if self.config.training.losses:
            record["saved"] = True
        self.state.records.append(record)
        self.training_step.sums.zero_()
        improved = not self._selects_best or score < self.state.best
        self.state.best = min(self.state.best, score)
        if self.is_main and improved:
            save_weights(self.out / WEIGHTS, self.evaluated_model.state_dict())
        self._save_checkpoint()
        self._write_metrics()
        self.has_improved |= self._selects_best and improved
        self._report(record, table)

    def _report(self, record: Record, table: EpochTable) -> None:
        self.tracking.log(record, self.state.step)
        if self._is_reported:
            self._save_sample_images()
            validation = selection_bound(record["validation"]) if "validation" in record else None
            table.epoch(record, validation, has_improved=self.has_improved)
            self.has_improved = False
            if "skipped" in record:
                self.display.line(f"skipped {count_of(record['skipped'], 'step')}: loss or gradient was not finite")
        self._warn_if_exploded()
        if self._is_out_of_patience:
            patience = count_of(self.config.training.patience, "epoch")
            self.display.line(f"ended early: the validation bound has not improved for {patience}")
        if self.on_epoch is not None:
            self.on_epoch(record)

    def _warn_if_exploded(self) -> None:
        """Warn once if the validation bound is far above its best value and rising."""
        if self.has_warned or self.config.training.losses:
            return
        curve = ValidationCurve(self.state.records)
        if curve.has_exploded(math.prod(self.config.model.image_shape)):
            self.has_warned = True
            self.display.warning(describe_explosion(curve, len(self.dataset.train)))

    def _finish_run(self) -> None:
        """Evaluate the saved weights on the test images, and save samples and reconstructions."""
        self.accelerator.wait_for_everyone()  # the main process must have written the weights
        model = load_model(self.out)[0].to(self.device)
        if self.dataset.test is not None:
            test = self.validator.evaluate(model, self.validator.batches(self.dataset.test))
            if not math.isfinite(test["bound"]):
                raise self._divergence_error(f"the test bound is {test['bound']}")
            epochs = [record for record in self.state.records if "epoch" in record]
            self.state.records = [*epochs, {"step": self.state.step, "test": test}]
            self._write_metrics()
            self.tracking.log(self.state.records[-1], self.state.step)
        if self.is_main:
            save_final_images(model, self.config.model, self._shown_images, self.out)
        self.accelerator.wait_for_everyone()  # a process that ends earlier would break the others

    # -- metrics -------------------------------------------------------------------------------------------------

    def _images_per_second(self, first: int, started: float) -> float:
        return (self.state.step - first) * self.batches.batch_size / (time.monotonic() - started)

    def _describe_run(self) -> dict[str, str]:
        fields = describe_run(
            self.config,
            self.dataset,
            parameters=sum(parameter.numel() for parameter in self.training_step.bare_model.parameters()),
            steps=len(self.batches),
            device=self.device,
            processes=self.shard.count,
        )
        return {**fields, "run": one_line(self.out)}

    def _open_table(self) -> EpochTable:
        length = {"total_steps": self.total_steps, "steps": len(self.batches), "done": self.state.step}
        return EpochTable(self.display, **length, has_validation=self._selects_best)

    @property
    def _shown_images(self) -> Split:
        return self.dataset.validation or self.dataset.train

    def _save_sample_images(self) -> None:
        if self.is_main:
            model, epoch = self.evaluated_model, len(self.state.records)
            save_sample_images(model, self.config.model, self._shown_images, self.out, epoch)

    def _write_metrics(self) -> None:
        if self.is_main:
            lines = "".join(json.dumps(record) + "\n" for record in self.state.records)
            write_file(self.out / METRICS, lines)

    # -- start and stop ------------------------------------------------------------------------------------------

    def _initialize(self) -> None:
        """Prepare the networks that help in training, and copy the weights of the model that `--init` names, if any."""
        with self.display.status("preparing the networks that help in training"):
            for network in (self.training_step.image_losses, self.training_step.label_classifier):
                if network is not None:
                    self.notes += network.prepare(self.dataset)
        models = (self.training_step.bare_model, self.training_step.ema)
        self.notes += initialize([m for m in models if m is not None], self.config, self.dataset.train)

    def _restore(self) -> bool:
        """Load the newest intact checkpoint, and return whether the run has any checkpoints.

        Raises:
            CvaeError: If all checkpoints are damaged, the newest intact one does not fit, or the data have changed.
            UsageError: If the run is already longer than the config says.
        """
        state, notes = self.checkpoints.restore(self.config.training.data)
        self.notes += notes
        if state is None:
            return False
        self.state = state
        limit = self.pace.resume(state, self.out)
        self.training_step.set_length(state.total_steps, state.step)
        if state.step == self.total_steps:
            self.notes.append(f"this run is complete; to continue it, set {limit}")
        elif self._is_out_of_patience:
            patience = f"patience {self.config.training.patience}"
            self.notes.append(f"this run ended early ({patience}); to continue it, raise patience, or set it to 0")
        else:
            self.notes.append(f"continuing at step {state.step + 1:,} of {self.total_steps:,}")
        return True

    def _save_checkpoint(self, epoch_seconds: float = 0.0) -> None:
        self.state.seconds, self.state.epoch_seconds = self.pace.seconds, epoch_seconds
        self.checkpoints.save(self.state)

    def _prepare_folder(self) -> None:
        if self.is_main:
            for folder in (self.out, self.out / CHECKPOINTS, self.out / SAMPLES):
                remove_stale_files(folder)
            write_file(self.out / CONFIG, self.config.to_json())
            self._write_metrics()  # if the run was killed, the file may lack metrics that the checkpoint has

    @property
    def _resume_command(self) -> str:
        return f"cvae train --resume --out {self.out}"

    def _stop_if_requested(self) -> None:
        """Stop if a signal has requested it. The run must have just been saved."""
        if any_process(self.accelerator, self.stop.is_requested) and not self._is_done:
            raise Interrupted(
                f"stopped at step {self.state.step:,} of {self.total_steps:,}; continue with: {self._resume_command}, "
                f"or in Python with: cvae.resume({str(self.out)!r})"
            )

    def _raise_if_diverged(self) -> None:
        """Check the steps so far; this waits for the device. All processes must call this at the same steps."""
        bad_step = int(self.training_step.bad_step)
        if bad_step >= 0 and self.config.training.on_nan == "stop":
            raise self._divergence_error(f"the loss or its gradient is not finite at step {bad_step:,}")

    def _divergence_error(self, reason: str) -> Diverged:
        """Return the error to raise. If no weights have been saved yet, save those of this step if they are finite."""
        weights = self.out / WEIGHTS
        if self.is_main and not weights.exists() and is_finite(self.evaluated_model):
            save_weights(weights, self.evaluated_model.state_dict())
        return explain_divergence(reason, self.config.training)
