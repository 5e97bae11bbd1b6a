"""How far a run has come, and its way into checkpoints and back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvae.engine.checkpoint import Checkpoint, load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer
from cvae.engine.step import TrainingStep
from cvae.errors import CvaeError
from cvae.run import CHECKPOINTS

Record = dict[str, Any]
"""A line of metrics.jsonl."""


@dataclass
class RunState:
    """How far a run has come.

    Attributes:
        step: number of training steps so far.
        best: best score of the weights so far, in nats.
        records: lines of metrics.jsonl.
    """

    step: int = 0
    best: float = float("inf")
    records: list[Record] = field(default_factory=list)


class RunCheckpoints:
    """The checkpoints of a run, from which it continues exactly.

    Args:
        run: folder of the run.
        training_step: the network, its optimizer, and the sums of the epoch.
        images: number of training images, which must not change.
    """

    def __init__(self, run: Path, training_step: TrainingStep, images: int) -> None:
        self.folder, self.training_step, self.images = run / CHECKPOINTS, training_step, images
        self.accelerator = training_step.accelerator

    def save(self, state: RunState) -> None:
        """Add a checkpoint; all processes call this, and the main one writes."""
        sums = self.accelerator.reduce(self.training_step.sums, "mean")  # with which each process would continue
        if not self.accelerator.is_main_process:
            return
        tensors = {"sums": sums, **pack_optimizer(self.training_step.optimizer)}
        for prefix, model in self._models().items():
            tensors |= {prefix + name: tensor for name, tensor in model.state_dict().items()}
        scaler = self.accelerator.scaler
        values = {
            **vars(state),
            "images": self.images,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        save_checkpoint(self.folder, state.step, Checkpoint(tensors, values))

    def restore(self, data: str) -> tuple[RunState | None, list[str]]:
        """Load the newest intact checkpoint, and return its state with remarks; None if there is none yet.

        Raises:
            CvaeError: no checkpoint is intact, it does not fit the run, or the images of `data` have changed.
        """
        checkpoint, damaged = load_checkpoint(self.folder)
        remarks = [f"checkpoint {name} is damaged, so the one before it is used" for name in damaged]
        if checkpoint is None:
            return None, [*remarks, "there is no checkpoint yet: the run starts over"]
        tensors, values = checkpoint
        if values.get("images") != self.images:
            raise CvaeError(
                f"{data!r} has {self.images} training images, the run was started with {values.get('images')}; bring "
                "the data back, or start a new run"
            )
        try:
            for prefix, model in self._models().items():
                model.load_state_dict(_with_prefix(prefix, tensors))
            unpack_optimizer(self.training_step.optimizer, tensors)
            self.training_step.sums.copy_(tensors["sums"])
            state = RunState(values["step"], values["best"], values["records"])
            if self.accelerator.scaler is not None and values["scaler"]:
                self.accelerator.scaler.load_state_dict(values["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CvaeError(f"the checkpoint in {str(self.folder)!r} does not fit the run: {reason}") from error
        steps = self.accelerator.gather(torch.tensor([state.step], device=self.accelerator.device))
        if len(set(steps.tolist())) > 1:
            raise CvaeError(
                f"the processes found checkpoints of different steps, {steps.tolist()}: all of them need "
                f"{str(self.folder.parent)!r} on one drive that they share"
            )
        return state, remarks

    def _models(self) -> dict[str, torch.nn.Module]:
        models = {"model.": self.training_step.bare_model, "ema.": self.training_step.ema}
        return {prefix: model for prefix, model in models.items() if model is not None}


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
