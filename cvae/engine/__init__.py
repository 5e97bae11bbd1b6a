"""Training: the loop, the training step, and checkpoints from which to resume."""

import warnings

# In a notebook without ipywidgets, accelerate imports a progress bar that warns about it, but is never used.
warnings.filterwarnings("ignore", "IProgress not found")

from cvae.engine.checkpoint import load_model  # noqa: E402
from cvae.engine.launch import resume, train  # noqa: E402

__all__ = ["load_model", "resume", "train"]
