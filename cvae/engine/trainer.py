"""The one trainer: any model, any objective, on CPU, CUDA or MPS, in one process or several."""

import atexit
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from cvae import imaging as pictures
from cvae.atomic import lock_folder, remove_stale_files, write_file
from cvae.config import Config, TrainConfig
from cvae.data import Dataset, Split, load_dataset
from cvae.engine.batches import Batches
from cvae.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model,
    pack_optimizer,
    save_checkpoint,
    save_weights,
    unpack_optimizer,
)
from cvae.engine.progress import TrainingProgress, report_every
from cvae.engine.randomness import Shard, reseed
from cvae.engine.resolve import choose_compile, choose_device, choose_precision, configure
from cvae.engine.step import RecordedStep, TrainingStep, can_record
from cvae.engine.stopping import Stop, lost_connection, out_of_memory
from cvae.engine.tracking import Tracking, choose
from cvae.errors import CvaeError, Diverged, Interrupted, UsageError
from cvae.imaging import slerp
from cvae.models import VAE, Terms, build
from cvae.models.objectives import iwae
from cvae.run import CHECKPOINTS, CONFIG, METRICS, SAMPLES, WEIGHTS, is_run, read_config, sample_path
from cvae.runtime.find import find

CHECKPOINT_SECONDS = 120.0
"""A run is saved at the end of each epoch, and within a longer one this often."""

EVALUATION_SEED = 20_131_220
"""Seeds the noise of validation and test bounds and of the sample pictures, so that they compare over a run."""

Record = dict[str, Any]
"""A line of metrics.jsonl."""


def train(
    asked: TrainConfig, out: str | Path, *, quiet: bool = False, on_epoch: Callable[[Record], None] | None = None
) -> Path:
    """Train a new run into the folder `out`, which must not hold one yet, and return it.

    `on_epoch` gets the record of each epoch, after it was saved; what it raises ends the run. A process that torchrun
    has started again continues the run.

    Raises:
        UsageError: what was asked does not fit together; nothing was written.
        CvaeError: the data can't be had, the disk can't be written, or a process was lost.
        Diverged: the loss, or a gradient, is no longer finite.
        Interrupted: the first Ctrl-C or SIGTERM; the run can be resumed.
    """
    out = Path(out)
    if is_run(out):
        if _restarts():
            return resume(out, quiet=quiet, on_epoch=on_epoch)
        raise UsageError(f"{str(out)!r} holds a run already; choose another --out, or continue it with --resume")
    accelerator = _start(asked)
    dataset = _load(asked, accelerator)
    config = configure(asked, dataset)
    return Trainer(config, dataset, out, accelerator, quiet=quiet, on_epoch=on_epoch).run()


def resume(
    out: str | Path,
    *,
    data_dir: str | None = None,
    epochs: int | None = None,
    device: str | None = None,
    on_nan: str | None = None,
    compile: bool | None = None,
    trackers: tuple[str, ...] | None = None,
    quiet: bool = False,
    on_epoch: Callable[[Record], None] | None = None,
) -> Path:
    """Continue a run from its newest intact checkpoint, with what is given instead of what it was begun with.

    `epochs` counts from the run's beginning.

    Raises:
        UsageError: the run has more than `epochs` behind it.
        CvaeError: the folder is no run, none of its checkpoints is intact, or the data are no longer the same.
    """
    out = Path(out)
    given = {
        "data_dir": data_dir,
        "epochs": epochs,
        "device": device,
        "on_nan": on_nan,
        "compile": compile,
        "trackers": trackers,
    }
    config = read_config(out)
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = replace(config, training=replace(config.training, **changes))
    accelerator = _start(config.training)
    dataset = _load(config.training, accelerator)
    shape, classes = dataset.train.images.shape[1:], dataset.classes if config.training.conditional else None
    if (shape, classes) != (config.model.image_shape, config.model.classes):
        raise CvaeError(
            f"{config.training.data!r} has images {shape} and classes {classes}, the run was begun with "
            f"{config.model.image_shape} and {config.model.classes}; bring the data back, or start a new run"
        )
    return Trainer(config, dataset, out, accelerator, quiet=quiet, on_epoch=on_epoch).run(resuming=True)


def _start(asked: TrainConfig) -> Accelerator:
    """Join the other processes, if torchrun or `accelerate launch` started several."""
    device = choose_device(asked.device)
    precision = choose_precision(asked.precision, device)
    if _restarts() and not dist.is_initialized():
        # The addresses of the processes that are gone may still be in the store that torchrun hands out again.
        store, rank, size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"restart-{_restarts()}", store)
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train several runs, one by one
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=device == "cpu")
    if accelerator.num_processes > 1:
        atexit.register(_leave)
    return accelerator


def _restarts() -> int:
    """How often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _leave() -> None:
    if dist.is_initialized():  # left to the interpreter's end, its threads may abort the process
        dist.destroy_process_group()


def _load(asked: TrainConfig, accelerator: Accelerator) -> Dataset:
    with accelerator.local_main_process_first():  # it downloads and decodes, the others find it done
        return load_dataset(asked)


class Trainer:
    """A run in progress: the network, its optimizer, and the position in the data."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        out: Path,
        accelerator: Accelerator,
        *,
        quiet: bool = False,
        on_epoch: Callable[[Record], None] | None = None,
    ) -> None:
        self.dataset, self.out, self.accelerator, self.on_epoch = dataset, out, accelerator, on_epoch
        self.device = accelerator.device
        self.quiet = quiet or not accelerator.is_main_process
        asked = config.training
        self.shard = Shard(accelerator.process_index, accelerator.num_processes)
        self.batches = Batches(
            dataset.train, asked.batch_size, self.device, labelled=asked.conditional, shard=self.shard
        )
        parts = accelerator.num_processes * asked.accumulate
        if self.batches.batch_size % parts:
            raise UsageError(
                f"--batch-size {self.batches.batch_size} can't be cut into {parts} equal parts (processes: "
                f"{accelerator.num_processes}, --accumulate {asked.accumulate}); choose a multiple of {parts}"
            )
        assert asked.epochs is not None  # filled in by configure()
        self.epochs = asked.epochs
        self.total_steps = asked.epochs * len(self.batches)
        # A run that is resumed on another machine goes on as it began.
        precision = accelerator.mixed_precision.replace("no", "fp32")
        compiled = choose_compile(asked.compile, self.total_steps, self.device.type)
        self.config = replace(config, training=replace(asked, precision=precision, compile=compiled))
        self.tracking = Tracking(accelerator, choose(asked.trackers), out, self.config)

        reseed(self.device, asked.seed, "weights")
        model = build(config.model).to(memory_format=torch.channels_last)
        if can_record(self.config, accelerator, self.batches):
            self.training_step: TrainingStep = RecordedStep(
                self.config, accelerator, model, self.batches, epochs=self.epochs
            )
        else:
            self.training_step = TrainingStep(
                self.config, accelerator, model, self.batches, epochs=self.epochs, shard=self.shard
            )
        self.model, self.bare_model = self.training_step.model, self.training_step.bare_model
        self.optimizer, self.ema = self.training_step.optimizer, self.training_step.ema
        self.sums = self.training_step.sums
        self.validation = None if dataset.validation is None else self._in_order(dataset.validation)

        self.step = 0
        self.best = float("inf")
        self.records: list[Record] = []
        self.notes: list[str] = []
        self.stop = Stop()

    @property
    def evaluated_model(self) -> VAE:
        """The network that is scored, sampled from and saved: the moving average where there is one."""
        return self.bare_model if self.ema is None else self.ema

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self, *, resuming: bool = False) -> Path:
        """Train to the end, from the beginning or from the newest checkpoint, and return the run's folder."""
        with lock_folder(self.out) if self.accelerator.is_main_process else nullcontext():
            try:
                self._train(resuming)
            except UsageError:  # some can only be found out at the first step
                if self.accelerator.is_main_process and self.step == 0 and not resuming:
                    self._take_back()
                raise
        return self.out

    def _take_back(self) -> None:
        """Delete what was written before the first step; folders only where nothing else is in them."""
        samples = self.out / SAMPLES
        for path in (self.out / CONFIG, self.out / METRICS, *samples.glob("epoch-0000-*.png")):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            samples.rmdir()
            self.out.rmdir()

    def _train(self, resuming: bool) -> None:
        if not (resuming and self._restore()):
            self._initialize()
        if self.accelerator.is_main_process:
            for folder in (self.out, self.out / CHECKPOINTS, self.out / SAMPLES):
                remove_stale_files(folder)
            write_file(self.out / CONFIG, self.config.to_json())
            self._write_metrics()  # the run may have been killed just before it did
        with TrainingProgress(self.total_steps, self.step, quiet=self.quiet) as progress, self.stop.listening():
            try:
                self._run(progress)
            except (MemoryError, OSError, RuntimeError) as error:
                if explained := self._explained(error):
                    raise explained from error
                raise
            finally:
                self.tracking.close()

    def _run(self, progress: TrainingProgress) -> None:
        asked, size = self.config.training, self.config.model.image_shape
        for note in (*self.dataset.remarks, *self.notes):
            progress.line(note)
        parameters = sum(p.numel() for p in self.bare_model.parameters())
        processes = self.accelerator.num_processes
        progress.line(
            f"{asked.arch}{' conditional' if asked.conditional else ''}, {parameters:,} parameters, on "
            f"{len(self.dataset.train):,} images {size[0]}x{size[1]}x{size[2]} of {self.dataset.name}; "
            f"{self.epochs} epochs of {len(self.batches)} steps, {asked.precision}{' compiled' * bool(asked.compile)} "
            f"on {self.device.type}{f' in {processes} processes' * (processes > 1)}"
        )
        if self.step == 0:
            self._pictures(0)
        self.model.train()
        if remark := self.training_step.prepare(self.step):
            progress.line(remark)
        while self.step < self.total_steps:
            self._epoch(self.step // len(self.batches), progress)
            self._stop_if_asked()
        self._test(progress)

    def _epoch(self, epoch: int, progress: TrainingProgress) -> None:
        steps = len(self.batches)
        started, first = time.monotonic(), self.step
        saved = started
        self.model.train()
        for batch in self.training_step.shuffled(epoch, self.step - epoch * steps):
            self._train_step(*batch)
            if due := progress.due():
                speed = (self.step - first) * self.batches.batch_size / (time.monotonic() - started)
                text = f"{_bound(self._figures(self.sums))}, {speed:,.0f} images/s"
                progress.draw(self.step, f"epoch {epoch + 1}/{self.epochs}", text)
            if self.step % steps == 0:
                break  # the end of the epoch looks and saves anyway
            save = self.stop.asked or time.monotonic() - saved > CHECKPOINT_SECONDS
            if self._agreed(due or save):
                self._raise_if_bad()
            if self._agreed(save):
                self._save()
                saved = time.monotonic()
                self._stop_if_asked()
        self._raise_if_bad()
        sums = self.accelerator.reduce(self.sums, "mean")
        train = self._figures(sums)
        seconds = time.monotonic() - started
        record = {
            "epoch": epoch + 1,
            "step": self.step,
            "train": train,
            "learning_rate": self.training_step.learning_rate(self.step - 1),
            "seconds": round(seconds, 3),
            "images_per_second": round((self.step - first) * self.batches.batch_size / seconds, 1),
        }
        if skipped := steps - round(float(sums[3])):
            record["skipped"] = skipped
        self._end_of_epoch(record, progress)

    def _train_step(self, *batch: Tensor | None) -> None:
        self.training_step(self.step, *batch)
        self.step += 1

    def _raise_if_bad(self) -> None:
        """Looks at what the steps have found, which waits for the device; all processes look at the same steps."""
        bad_step = int(self.training_step.bad_step)
        if bad_step >= 0 and self.config.training.on_nan == "stop":
            raise self._diverged(f"the loss or its gradient is not finite at step {bad_step:,}")

    @staticmethod
    def _figures(sums: Tensor) -> dict[str, float]:
        """The means of the loss and its terms, in nats per image; not a number where no step was finite."""
        *totals, steps = sums.tolist()
        loss, distortion, rate = (total / steps if steps else math.nan for total in totals)
        return {"loss": loss, "distortion": distortion, "rate": rate, "bound": distortion + rate}

    def _diverged(self, what: str) -> Diverged:
        weights = self.out / WEIGHTS
        if self.accelerator.is_main_process and not weights.exists():
            state = self.evaluated_model.state_dict()
            if all(tensor.isfinite().all() for tensor in state.values()):
                save_weights(weights, state)
        return Diverged(
            f"{what}: the learning rate {self.config.training.lr} is probably too high (lower --lr, or use --warmup "
            "1000, --precision fp32, or a smaller --clip), or an image is odd (--on-nan skip goes on without its "
            "batch, with --resume too); the last good weights are kept"
        )

    def _explained(self, error: Exception) -> CvaeError | None:
        """What torch or the system raises -> one line that names the fix, where there is one."""
        reason = " ".join(str(error).split())[:200]
        again = f"cvae train --resume --out {self.out}"
        if isinstance(error, OSError):
            return CvaeError(f"step {self.step:,}: {reason}; when that is mended, continue with: {again}")
        if out_of_memory(error):
            size = self.config.training.batch_size
            return CvaeError(f"no memory for --batch-size {size}; --accumulate 4 computes it in parts ({reason})")
        if self.shard.count > 1 and lost_connection(error):
            return CvaeError(
                f"process {self.shard.index} of {self.shard.count} lost another one near step {self.step:,}; "
                f"start all of them again with: {again} ({reason})"
            )
        return None

    def _end_of_epoch(self, record: Record, progress: TrainingProgress) -> None:
        """Score, save, and only then tell: what was told once is never lost."""
        score = record["train"]["bound"]
        if not math.isfinite(record["train"]["loss"]):
            raise self._diverged(f"the loss is {record['train']['loss']} at step {self.step:,}")
        if not all(tensor.isfinite().all() for tensor in self.bare_model.state_dict().values()):
            raise self._diverged(f"weights are no longer finite at step {self.step:,}")
        if self.ema is not None and self.shard.count > 1:
            # The networks' buffers are those of the first process at each step, the averages' only where it averages.
            for buffer in self.ema.buffers():
                dist.broadcast(buffer, 0)
        if self.validation is not None:
            record["validation"] = self._evaluate(self.evaluated_model, self.validation)
            score = selection_bound(record["validation"])
            if not math.isfinite(score):
                raise self._diverged(f"the validation bound is {score} at step {self.step:,}")
        self.records.append(record)
        self.sums.zero_()
        # Only the validation bound selects weights; without one the newest are the ones to use.
        improved = self.validation is None or score < self.best
        self.best = min(self.best, score)
        epoch = record["epoch"]
        report = epoch == self.epochs or epoch == 1 or epoch % report_every(self.epochs) == 0
        if self.accelerator.is_main_process and improved:
            save_weights(self.out / WEIGHTS, self.evaluated_model.state_dict())
        self._save()
        self._write_metrics()
        if report:
            self._pictures(epoch)
        self.tracking.log(record, self.step)
        if report:
            text = f"epoch {epoch:>3}/{self.epochs}  train {_bound(record['train'])}"
            if "validation" in record:
                text += f"  validation {_bound(record['validation'])}"
            if "skipped" in record:
                text += f"  {record['skipped']} steps skipped"
            progress.line(f"{text}  {record['images_per_second']:,.0f} images/s")
        if self.on_epoch is not None:
            self.on_epoch(record)

    # -- looking at the model ------------------------------------------------------------------------------------

    def _in_order(self, split: Split) -> Batches:
        """In batches that fit where a training step does, and are the same for any number of processes."""
        asked = self.config.training
        together = min(64, -(-asked.batch_size // asked.accumulate))
        return Batches(split, together, self.device, labelled=self.config.model.classes is not None, shard=self.shard)

    @torch.no_grad()
    def _evaluate(self, model: VAE, batches: Batches) -> dict[str, float]:
        """The beta = 1 bound on a split, and the importance-weighted one of as many samples as the objective takes.

        One sample of noise per image where it takes one. The processes share the images.
        """
        samples = self.config.training.options["objective"].get("samples", 1)

        def sampled(image: Tensor, label: Tensor | None, samples: int = 1) -> Terms:
            return model(image, label, torch.randn(len(image) * samples, model.latent_dim, device=self.device))

        model.eval()
        sums = torch.zeros(3, device=self.device)
        for i, (images, label) in enumerate(batches.in_order()):
            reseed(self.device, EVALUATION_SEED, self.shard.index + i * self.shard.count)
            sums += len(images) * torch.stack(iwae(sampled, images.float() / 255, label, 1.0, samples=samples))
        model.train()
        means = self.accelerator.reduce(sums, "sum").cpu().double() / len(batches.split)
        weighted, distortion, rate = means.tolist()
        figures = {"distortion": distortion, "rate": rate, "bound": distortion + rate}
        return figures if samples == 1 else {**figures, "importance_weighted": weighted}

    def _test(self, progress: TrainingProgress) -> None:
        """Score the weights that were kept on the test images."""
        if self.dataset.test is None:
            return
        self.accelerator.wait_for_everyone()  # for the main process to have written them
        model, _ = load_model(self.out)
        test = self._evaluate(model.to(self.device), self._in_order(self.dataset.test))
        if not math.isfinite(test["bound"]):
            raise self._diverged(f"the test bound is {test['bound']}")
        self.records = [record for record in self.records if "epoch" in record] + [{"step": self.step, "test": test}]
        self._write_metrics()
        self.tracking.log(self.records[-1], self.step)
        progress.line(f"test {_bound(test)} on {len(self.dataset.test):,} images")
        self.accelerator.wait_for_everyone()  # none leaves while another still counts on it

    @torch.no_grad()
    def _pictures(self, epoch: int) -> None:
        """samples/: random images (a row a class, for a conditional model), the way from the first image of each row to
        the second, and originals above reconstructions."""
        if not self.accelerator.is_main_process or self.config.model.image_shape[0] not in (1, 3):
            return
        model, classes = self.evaluated_model.eval(), self.config.model.classes
        rows = 8 if classes is None else min(len(classes), 16)
        reseed(self.device, EVALUATION_SEED, "pictures")
        noise = torch.randn(rows * 8, self.config.model.latent_dim, device=self.device)
        label = None if classes is None else torch.arange(rows, device=self.device).repeat_interleave(8)
        starts, ends, way = noise[::8].cpu().numpy(), noise[1::8].cpu().numpy(), np.linspace(0, 1, 8)[:, None]
        codes = np.concatenate([slerp(a, b, way) for a, b in zip(starts, ends, strict=True)], dtype=np.float32)
        drawn = {"samples": noise, "interpolations": torch.from_numpy(codes).to(self.device)}  # (8 rows, Z) each
        sheets = {name: model.decode(code, label).float().cpu().numpy() for name, code in drawn.items()}
        split = self.dataset.validation or self.dataset.train
        image = torch.from_numpy(split.images[:8]).to(self.device).float() / 255
        labels = None if classes is None else split.labels
        label = None if labels is None else torch.from_numpy(labels[:8]).to(self.device)
        again = model.decode(model.encode(image, label)[0], label)
        sheets["reconstructions"] = torch.cat([image, again]).float().cpu().numpy()
        model.train()
        for name, sheet in sheets.items():
            columns = len(image) if name == "reconstructions" else 8
            pictures.save(pictures.grid(sheet, columns), sample_path(self.out, epoch, name))

    # -- stopping and going on -----------------------------------------------------------------------------------

    def _write_metrics(self) -> None:
        if self.accelerator.is_main_process:
            write_file(self.out / METRICS, "".join(json.dumps(record) + "\n" for record in self.records))

    def _save(self) -> None:
        """Add a checkpoint that continues exactly from here."""
        sums = self.accelerator.reduce(self.sums, "mean")  # each process goes on with it
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.bare_model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.state_dict().items()}
        tensors |= pack_optimizer(self.optimizer)
        tensors |= {"sums": sums}
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "best": self.best,
            "records": self.records,
            "images": len(self.dataset.train),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        save_checkpoint(self.out / CHECKPOINTS, self.step, Checkpoint(tensors, state))

    def _initialize(self) -> None:
        """Take the weights that the run is to begin with from another one, if it is.

        Raises:
            UsageError: there is no such run, or it is another network.
        """
        init = self.config.training.init
        if init is None:
            return
        weights = load_model(find(init))[0].state_dict()
        try:
            for model in (self.bare_model, self.ema):
                if model is not None:
                    model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--init {init!r} is another network than what was asked for, or for other images ({reason})"
            ) from error

    def _restore(self) -> bool:
        """Go back to the run's newest intact checkpoint; False if it was stopped before its first.

        Raises:
            CvaeError: no checkpoint is intact, or it does not fit the run, or the data have changed.
            UsageError: it is further on than the run is to go.
        """
        checkpoint, damaged = load_checkpoint(self.out / CHECKPOINTS)
        self.notes += [f"checkpoint {name} is damaged and passed over for the one before" for name in damaged]
        if checkpoint is None:
            self.notes.append("there is no checkpoint yet: the run begins anew")
            return False
        tensors, state = checkpoint
        if state.get("images") != len(self.dataset.train):
            raise CvaeError(
                f"{self.config.training.data!r} has {len(self.dataset.train)} training images, the run was begun with "
                f"{state.get('images')}; bring the data back, or start a new run"
            )
        try:
            self.bare_model.load_state_dict(_below("model.", tensors))
            if self.ema is not None:
                self.ema.load_state_dict(_below("ema.", tensors))
            unpack_optimizer(self.optimizer, tensors)
            self.sums.copy_(tensors["sums"])
            self.step, self.best, self.records = state["step"], state["best"], state["records"]
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CvaeError(f"the checkpoint in {str(self.out / 'last')!r} does not fit the run: {reason}") from error
        if self.step > self.total_steps:
            done = self.step // len(self.batches)
            raise UsageError(
                f"--epochs {self.epochs}: {str(self.out)!r} has {done} epochs behind it; name more, in all"
            )
        if self.step < self.total_steps:
            self.notes.append(f"going on at step {self.step + 1:,} of {self.total_steps:,}")
        else:
            self.notes.append(f"this run is at its end; name more than {self.epochs} --epochs to go on")
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.device))
        if len(set(steps.tolist())) > 1:
            raise CvaeError(
                f"the processes found checkpoints of different steps, {steps.tolist()}: all of them need "
                f"{str(self.out)!r} on one drive that they share"
            )
        return True

    def _stop_if_asked(self) -> None:
        """Called where the run has just been saved."""
        if self._agreed(self.stop.asked, now=True) and self.step < self.total_steps:
            raise Interrupted(
                f"stopped at step {self.step:,} of {self.total_steps:,}; "
                f"continue with: cvae train --resume --out {self.out}"
            )

    def _agreed(self, wanted: bool, *, now: bool = False) -> bool:
        """Whether any process wants it. They ask each other at the same steps, every 20th, or all of them now."""
        if self.accelerator.num_processes == 1:
            return wanted
        if self.step % 20 and not now:
            return False
        return bool(self.accelerator.gather(torch.tensor([wanted], device=self.device)).any())


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def selection_bound(figures: dict[str, float]) -> float:
    """Return the bound that selects the best weights: the importance-weighted one where the objective optimizes it."""
    return figures.get("importance_weighted", figures["bound"])


def _bound(figures: dict[str, float]) -> str:
    text = f"{figures['bound']:.2f} nats ({figures['distortion']:.2f} + {figures['rate']:.2f})"
    return f"{text}, {figures['importance_weighted']:.2f} weighted" if "importance_weighted" in figures else text
