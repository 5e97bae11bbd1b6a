"""The one trainer, and the checkpoints it survives by."""

from cvae.engine.checkpoint import load_model
from cvae.engine.trainer import Interrupted, resume, train

__all__ = ["Interrupted", "load_model", "resume", "train"]
