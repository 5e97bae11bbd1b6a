"""The one trainer: any model, any objective, on CPU, CUDA or MPS, in one process or several."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cvae.config import Config, TrainConfig
from cvae.data import Dataset, Split, load_dataset
from cvae.engine.batches import Batches
from cvae.engine.checkpoint import (
    WEIGHTS,
    Checkpoint,
    load_checkpoint,
    load_model,
    pack_optimizer,
    save_checkpoint,
    save_weights,
    unpack_optimizer,
)
from cvae.engine.progress import TrainingProgress
from cvae.engine.schedule import kl_factor, lr_factor
from cvae.engine.setup import choose_device, choose_precision, configure
from cvae.errors import CvaeError, Interrupted, UsageError
from cvae.files import write_whole
from cvae.models import VAE, build
from cvae.registry import OBJECTIVES
from cvae.runtime import images as pictures

CHECKPOINT_SECONDS = 120.0
"""A run is saved at the end of each epoch, and within a longer one this often."""

REPORTS = 15
"""About how many epochs of a run print a line and save sample pictures."""

EVALUATION_SEED = 20_131_220
"""Seeds the noise of validation and test bounds and of the sample pictures, so that they compare over a run."""


def train(asked: TrainConfig, out: str | Path, *, quiet: bool = False) -> Path:
    """Train a new run into the folder `out`, which must not hold one yet.

    Raises:
        UsageError: what was asked does not fit together; nothing was written.
        CvaeError: the data can't be had, the disk can't be written, or the loss is no longer finite.
        Interrupted: the first Ctrl-C or SIGTERM; the run can be resumed.
    """
    out = Path(out)
    if (out / "config.json").exists():
        raise UsageError(f"{str(out)!r} holds a run already; choose another --out, or continue it with --resume")
    dataset = load_dataset(asked)
    config = configure(asked, dataset)
    return Trainer(config, dataset, out, quiet=quiet).run()


def resume(out: str | Path, *, epochs: int | None = None, device: str | None = None, quiet: bool = False) -> Path:
    """Continue a run from its newest checkpoint, for `epochs` in all and on `device` when given.

    Raises:
        CvaeError: the folder is no run, none of its checkpoints is intact, or the data are no longer the same.
    """
    out = Path(out)
    config = Config.read(out / "config.json")
    changes: dict[str, Any] = {
        name: value for name, value in {"epochs": epochs, "device": device}.items() if value is not None
    }
    config = replace(config, training=replace(config.training, **changes))
    dataset = load_dataset(config.training)
    shape, classes = dataset.train.images.shape[1:], dataset.classes if config.training.conditional else None
    if (shape, classes) != (config.model.image_shape, config.model.classes):
        raise CvaeError(
            f"{config.training.data!r} has images {shape} and classes {classes}, the run was begun with "
            f"{config.model.image_shape} and {config.model.classes}; bring the data back, or start a new run"
        )
    trainer = Trainer(config, dataset, out, quiet=quiet)
    trainer.restore(load_checkpoint(out / "last"))
    if trainer.step > trainer.total_steps:
        done = trainer.step // len(trainer.batches)
        raise UsageError(f"--epochs {epochs}: {str(out)!r} has {done} epochs behind it; name more, in all")
    return trainer.run()


class Trainer:
    """A run in progress: the network, its optimizer, and the position in the data."""

    def __init__(self, config: Config, dataset: Dataset, out: Path, *, quiet: bool = False) -> None:
        self.dataset, self.out = dataset, out
        asked = config.training
        device = choose_device(asked.device)
        self.precision = choose_precision(asked.precision, device)
        # A run that is resumed on another machine goes on as it began.
        self.config = replace(config, training=replace(asked, precision=self.precision))
        AcceleratorState._reset_state(reset_partial_state=True)  # one process may train several runs, one by one
        self.accelerator = Accelerator(
            mixed_precision="no" if self.precision == "fp32" else self.precision, cpu=device == "cpu"
        )
        self.device = self.accelerator.device
        self.quiet = quiet or not self.accelerator.is_main_process

        torch.manual_seed(asked.seed)
        model = build(config.model).to(memory_format=torch.channels_last)
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kinds[asked.optimizer](
            model.parameters(), lr=asked.lr, weight_decay=asked.weight_decay, fused=self.device.type != "mps"
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # Without the precision that `prepare` puts around forward: a copy, such as the moving average, would call the
        # original through it. Each training step asks for it by `autocast` instead.
        self.bare_model: VAE = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.ema = None
        if asked.ema:
            self.ema = AveragedModel(self.bare_model, multi_avg_fn=get_ema_multi_avg_fn(asked.ema), use_buffers=True)
        objective = OBJECTIVES.get(asked.objective)
        self.objective = lambda *batch: objective(*batch, **asked.options["objective"])
        torch.manual_seed(asked.seed + 1_000_003 * self.accelerator.process_index)  # each process draws its own noise

        self.batches = Batches(
            dataset.train,
            asked.batch_size,
            self.device,
            labelled=asked.conditional,
            binarize=asked.binarize == "dynamic",
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        if self.batches.batch_size % self.accelerator.num_processes:
            raise UsageError(
                f"--batch-size {self.batches.batch_size} can't be shared equally by {self.accelerator.num_processes} "
                "processes; choose a multiple"
            )
        assert asked.epochs is not None  # filled in by configure()
        self.epochs = asked.epochs
        self.total_steps = asked.epochs * len(self.batches)
        self.step = 0
        self.sums = torch.zeros(3, device=self.device)  # loss, distortion, rate over the epoch so far
        self.best = float("inf")
        self.records: list[dict[str, Any]] = []
        self.stop_signal: int | None = None

    @property
    def evaluated_model(self) -> VAE:
        """The network that is scored, sampled from and saved: the moving average where there is one."""
        return self.bare_model if self.ema is None else cast(VAE, self.ema.module)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the end, and return the run's folder."""
        if self.accelerator.is_main_process:
            write_whole(self.out / "config.json", self.config.to_json())
        asked, size = self.config.training, self.config.model.image_shape
        with TrainingProgress(self.total_steps, self.step, quiet=self.quiet) as progress, self._stoppable():
            parameters = sum(p.numel() for p in self.bare_model.parameters())
            progress.line(
                f"{asked.arch}{' conditional' if asked.conditional else ''}, {parameters:,} parameters, on "
                f"{len(self.dataset.train):,} images {size[0]}x{size[1]}x{size[2]} of {self.dataset.name}; "
                f"{self.epochs} epochs of {len(self.batches)} steps, {self.precision} on {self.device}"
            )
            while self.step < self.total_steps:
                self._epoch(self.step // len(self.batches), progress)
                self._stop_if_asked()
            self._test(progress)
        return self.out

    def _epoch(self, epoch: int, progress: TrainingProgress) -> None:
        steps = len(self.batches)
        started, first = time.monotonic(), self.step
        saved = started
        self.model.train()
        for image, label in self.batches.shuffled(self.config.training.seed, epoch, self.step - epoch * steps):
            self._train_step(image, label)
            if progress.due():
                figures = self._figures(self.sums, self.step - epoch * steps)
                speed = (self.step - first) * self.batches.batch_size / (time.monotonic() - started)
                text = f"{_bound(figures)}, {speed:,.0f} images/s"
                progress.draw(self.step, f"epoch {epoch + 1}/{self.epochs}", text)
            at_end = self.step % steps == 0  # where an epoch is saved anyway
            if not at_end and self._agreed(
                self.stop_signal is not None or time.monotonic() - saved > CHECKPOINT_SECONDS
            ):
                self._save()
                saved = time.monotonic()
                self._stop_if_asked()
        seconds = time.monotonic() - started
        record = {
            "epoch": epoch + 1,
            "step": self.step,
            "train": self._figures(self.accelerator.reduce(self.sums, "mean"), steps),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 3),
            "images_per_second": round((self.step - first) * self.batches.batch_size / seconds, 1),
        }
        self._end_of_epoch(record, progress)

    def _stop_if_asked(self) -> None:
        """Called where the run has just been saved."""
        if self._agreed(self.stop_signal is not None, now=True) and self.step < self.total_steps:
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

    def _train_step(self, image: Tensor, label: Tensor | None) -> None:
        asked = self.config.training
        lr = asked.lr * lr_factor(asked.schedule, self.step, self.total_steps, asked.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        kl_weight = kl_factor(self.step, asked.kl_warmup * len(self.batches))
        image = image.contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            loss = self.objective(self.model, image, label, kl_weight)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss.loss)
        if asked.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), asked.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.bare_model)
        self.sums += torch.stack([value.detach() for value in loss])
        self.step += 1

    def _figures(self, sums: Tensor, steps: int) -> dict[str, float]:
        """The means over `steps` of the loss and its terms, in nats per image. Reading them waits for the device.

        Raises:
            CvaeError: they are not finite.
        """
        loss, distortion, rate = (sums / steps).tolist()
        if not abs(loss) < float("inf"):
            raise self._diverged(f"the loss is {loss}")
        return {"loss": loss, "distortion": distortion, "rate": rate, "bound": distortion + rate}

    def _diverged(self, what: str) -> CvaeError:
        return CvaeError(
            f"{what} near step {self.step:,}: the learning rate {self.config.training.lr} is probably too high "
            "(lower --lr, or use --warmup 1000 or --precision fp32); the last good weights are kept"
        )

    def _end_of_epoch(self, record: dict[str, Any], progress: TrainingProgress) -> None:
        if not all(parameter.isfinite().all() for parameter in self.bare_model.parameters()):
            raise self._diverged("weights are no longer finite")
        score = record["train"]["bound"]
        if self.dataset.validation is not None:
            record["validation"] = self._evaluate(self.evaluated_model, self.dataset.validation)
            score = record["validation"]["bound"]
            if not abs(score) < float("inf"):
                raise self._diverged(f"the validation bound is {score}")
        self.records.append(record)
        self.sums.zero_()
        # Only the validation bound selects weights; without one the newest are the ones to use.
        improved = self.dataset.validation is None or score < self.best
        self.best = min(self.best, score)
        epoch = record["epoch"]
        report = epoch == self.epochs or epoch == 1 or epoch % max(1, self.epochs // REPORTS) == 0
        if self.accelerator.is_main_process:
            if improved:
                save_weights(self.out / WEIGHTS, self.evaluated_model.state_dict())
            self._write_metrics()
        self._save()
        if report and self.accelerator.is_main_process and self.config.model.image_shape[0] in (1, 3):
            self._pictures(epoch)
        if report:
            text = f"epoch {epoch:>3}/{self.epochs}  train {_bound(record['train'])}"
            if "validation" in record:
                text += f"  validation {_bound(record['validation'])}"
            progress.line(f"{text}  {record['images_per_second']:,.0f} images/s")

    # -- looking at the model ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluate(self, model: VAE, split: Split) -> dict[str, float]:
        """The beta = 1 bound on a split, one sample of noise per image, without touching the random state."""
        sums = torch.zeros(2, dtype=torch.float64)
        training = model.training
        model.eval()
        with self._fixed_noise():
            batches = Batches(split, 500, self.device, labelled=self.config.model.classes is not None)
            for image, label in batches.in_order():
                distortion, rate = model(image, label)
                sums += torch.stack([distortion.sum(), rate.sum()]).cpu().double()
        model.train(training)
        distortion, rate = (sums / len(split)).tolist()
        return {"distortion": distortion, "rate": rate, "bound": distortion + rate}

    def _test(self, progress: TrainingProgress) -> None:
        """Score the weights that were kept on the test images."""
        if self.dataset.test is None:
            return
        self.accelerator.wait_for_everyone()  # for the main process to have written them
        model, _ = load_model(self.out)
        test = self._evaluate(model.to(self.device), self.dataset.test)
        if not abs(test["bound"]) < float("inf"):
            raise self._diverged(f"the test bound is {test['bound']}")
        self.records.append({"step": self.step, "test": test})
        if self.accelerator.is_main_process:
            self._write_metrics()
        progress.line(f"test {_bound(test)} on {len(self.dataset.test):,} images")

    @torch.no_grad()
    def _pictures(self, epoch: int) -> None:
        """samples/: random images (a row a class, for a conditional model), and originals above reconstructions."""
        model, classes = self.evaluated_model, self.config.model.classes
        training = model.training
        model.eval()
        rows = 8 if classes is None else min(len(classes), 16)
        with self._fixed_noise():
            noise = torch.randn(rows * 8, self.config.model.latent_dim, device=self.device)
            label = None if classes is None else torch.arange(rows, device=self.device).repeat_interleave(8)
            samples = model.decode(noise, label).float().cpu().numpy()
            split = self.dataset.validation or self.dataset.train
            image, label = next(Batches(split, 8, self.device, labelled=classes is not None).in_order())
            again = model.decode(model.encode(image, label)[0], label)
            pairs = torch.cat([image, again]).float().cpu().numpy()
        model.train(training)
        folder = self.out / "samples"
        pictures.save(pictures.grid(samples, columns=8), folder / f"epoch-{epoch:04d}-samples.png")
        pictures.save(pictures.grid(pairs, columns=len(image)), folder / f"epoch-{epoch:04d}-reconstructions.png")

    @contextmanager
    def _fixed_noise(self) -> Iterator[None]:
        """The same noise each time, and the random state as it was afterwards."""
        state = self._random_state()
        torch.manual_seed(EVALUATION_SEED)
        try:
            yield
        finally:
            self._set_random_state(state)

    # -- stopping and going on -----------------------------------------------------------------------------------

    def _write_metrics(self) -> None:
        write_whole(self.out / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in self.records))

    def _random_state(self) -> Tensor:
        state = torch.get_rng_state()
        if self.device.type == "cuda":
            state = torch.cat([state, torch.cuda.get_rng_state(self.device)])
        if self.device.type == "mps":
            state = torch.cat([state, torch.mps.get_rng_state()])
        return state

    def _save(self) -> None:
        """Add a checkpoint that continues exactly from here."""
        random = self.accelerator.gather(self._random_state().to(self.device)).reshape(
            self.accelerator.num_processes, -1
        )  # (processes, bytes)
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.bare_model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.state_dict().items()}
        tensors |= pack_optimizer(self.optimizer)
        tensors |= {"random": random, "sums": self.sums}
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "best": self.best,
            "records": self.records,
            "images": len(self.dataset.train),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        save_checkpoint(self.out / "last", self.step, Checkpoint(tensors, state))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where a checkpoint was saved."""
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
            random = tensors["random"]
            if len(random) == self.accelerator.num_processes:
                self._set_random_state(random[self.accelerator.process_index])
            self.step, self.best, self.records = state["step"], state["best"], state["records"]
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CvaeError(f"the checkpoint in {str(self.out / 'last')!r} does not fit the run: {reason}") from error

    def _set_random_state(self, state: Tensor) -> None:
        length = len(torch.get_rng_state())
        torch.set_rng_state(state[:length])
        of_device = state[length:]  # empty when the run comes from a CPU
        if self.device.type == "cuda" and len(of_device) == len(torch.cuda.get_rng_state(self.device)):
            torch.cuda.set_rng_state(of_device, self.device)
        if self.device.type == "mps" and len(of_device) == len(torch.mps.get_rng_state()):
            torch.mps.set_rng_state(of_device)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run after the step at hand, saved; the second ends it at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stop_signal is not None:
                raise KeyboardInterrupt
            self.stop_signal = number

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, stop) for number in numbers}
        except ValueError:  # not in the main thread, where signals are somebody else's
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _bound(figures: dict[str, float]) -> str:
    return f"{figures['bound']:.2f} nats ({figures['distortion']:.2f} + {figures['rate']:.2f})"
