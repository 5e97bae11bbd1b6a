"""Training: the loop, its step, and the checkpoints that it resumes from."""

from cvae.engine.checkpoint import load_model
from cvae.engine.launch import resume, train

__all__ = ["load_model", "resume", "train"]
