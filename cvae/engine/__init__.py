"""Training: the trainer, checkpoints and resume."""

from cvae.engine.checkpoint import load_model
from cvae.engine.trainer import resume, train

__all__ = ["load_model", "resume", "train"]
