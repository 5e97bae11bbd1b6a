"""Progress of a run, and the checkpoints that the run is resumed from."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvae.engine.checkpoint import Checkpoint, load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer
from cvae.engine.step import TrainingStep
from cvae.errors import CvaeError
from cvae.run import CHECKPOINTS, CONFIG, MAX_METRICS_BYTES, METRICS, SAMPLES

Record = dict[str, Any]
"""A line of metrics.jsonl."""

MAX_COPIES = 16
"""Maximum size of a checkpoint, relative to the networks. An optimizer holds two or three numbers per parameter."""


@dataclass
class RunState:
    """Progress of a run.

    Attributes:
        step: Number of training steps so far.
        best: Lowest bound so far, in nats per image.
        records: Lines of metrics.jsonl.
        seconds: Duration of the run so far.
        epoch_seconds: Duration of the current epoch so far, 0 at the end of an epoch.
        total_steps: Length of the run.
        minutes: Time budget that the length was derived from, or None.
    """

    step: int = 0
    best: float = float("inf")
    records: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    total_steps: int = 0
    minutes: float | None = None


class RunCheckpoints:
    """Checkpoints of a run. A resumed run computes the same numbers as one that was never interrupted.

    Args:
        run: Folder of the run.
        training_step: Training step, which holds the network, the optimizer, and the sums of the epoch's metrics.
        num_images: Number of training images, which must be the same when the run is resumed.
    """

    def __init__(self, run: Path, training_step: TrainingStep, num_images: int) -> None:
        self.folder, self.training_step, self.num_images = run / CHECKPOINTS, training_step, num_images
        self.accelerator = training_step.accelerator

    def save(self, state: RunState) -> None:
        """Save a checkpoint. All processes must call this; the main process writes the files."""
        # Each process resumes with the mean over all processes: the mean at the end of the epoch is then the same.
        sums = self.accelerator.reduce(self.training_step.sums, "mean")
        if not self.accelerator.is_main_process:
            return
        tensors = {"sums": sums}
        for prefix, optimizer in self._optimizers().items():
            tensors |= {prefix + name: tensor for name, tensor in pack_optimizer(optimizer).items()}
        for prefix, model in self._models().items():
            tensors |= {prefix + name: tensor for name, tensor in model.state_dict().items()}
        scaler = self.accelerator.scaler
        values = {
            **vars(state),
            "images": self.num_images,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        save_checkpoint(self.folder, state.step, Checkpoint(tensors, values))

    def restore(self, data: str) -> tuple[RunState | None, list[str]]:
        """Load the newest intact checkpoint.

        Args:
            data: Name of the data set, for error messages.

        Returns:
            The state of the run (None if there is no checkpoint yet), and notes for the log.

        Raises:
            CvaeError: If no checkpoint is intact, the newest intact one does not fit the run, or the number of images
                has changed.
        """
        checkpoint, damaged = load_checkpoint(self.folder, self._max_bytes())
        notes = [f"checkpoint {name} is damaged, so the one before it is used" for name in damaged]
        if checkpoint is None:
            return None, [*notes, "there is no checkpoint yet: the run starts over"]
        tensors, values = checkpoint
        if values.get("images") != self.num_images:
            raise CvaeError(
                f"{data!r} has {self.num_images} training images, but the run was started with {values.get('images')}; "
                "restore the data, or start a new run"
            )
        try:
            for prefix, model in self._models().items():
                model.load_state_dict(_strip_prefix(prefix, tensors))
            for prefix, optimizer in self._optimizers().items():
                unpack_optimizer(optimizer, _strip_prefix(prefix, tensors))
            self.training_step.sums.copy_(tensors["sums"])
            if "seconds" not in values:  # written by an older version, which had no time budgets
                seconds = sum(record.get("seconds", 0.0) for record in values["records"])
                values |= {"seconds": seconds, "total_steps": 0, "minutes": None}
            values.setdefault("epoch_seconds", 0.0)  # an older version did not save it
            state = RunState(**{name: values[name] for name in vars(RunState())})
            if self.accelerator.scaler is not None and values["scaler"]:
                self.accelerator.scaler.load_state_dict(values["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CvaeError(f"the checkpoint in {str(self.folder)!r} does not fit the run: {reason}") from error
        steps = self.accelerator.gather(torch.tensor([state.step], device=self.accelerator.device))
        if len(set(steps.tolist())) > 1:
            raise CvaeError(
                f"the processes found checkpoints of different steps, {steps.tolist()}; put "
                f"{str(self.folder.parent)!r} on a drive that all of them share"
            )
        return state, notes

    def _max_bytes(self) -> int:
        """Return the maximum size of a checkpoint: some copies of the network, for the optimizer and the average."""
        tensors = [tensor for model in self._models().values() for tensor in model.state_dict().values()]
        return MAX_COPIES * sum(tensor.numel() * tensor.element_size() for tensor in tensors) + MAX_METRICS_BYTES

    def _models(self) -> dict[str, torch.nn.Module]:
        step = self.training_step
        models = {
            "model.": step.bare_model,
            "ema.": step.ema,
            "centering.": step.centering,
            "image_losses.": step.image_losses,
            "label_classifier.": step.label_classifier,
        }
        return {prefix: model for prefix, model in models.items() if model is not None}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        losses = self.training_step.image_losses
        others = {} if losses is None else losses.optimizers
        return {
            "optimizer.": self.training_step.optimizer,
            **{f"optimizer of {name}.": optimizer for name, optimizer in others.items()},
        }


def _strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, and remove the prefix from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def remove_new_run(run: Path) -> None:
    """Delete the files that were written before the first step, and the folders if nothing else is in them."""
    samples = run / SAMPLES
    for path in (run / CONFIG, run / METRICS, *samples.glob("epoch-0000-*.png")):
        path.unlink(missing_ok=True)
    for folder in (samples, run):
        with suppress(OSError):
            folder.rmdir()
