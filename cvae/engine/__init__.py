"""Training: the loop, the training step, and checkpoints from which to resume."""

from cvae.engine.checkpoint import load_model
from cvae.engine.launch import resume, train

__all__ = ["load_model", "resume", "train"]
