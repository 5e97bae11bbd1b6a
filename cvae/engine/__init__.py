"""Training: the loop, the training step, and the checkpoints that a run is resumed from."""

import warnings

# In a notebook, accelerate imports a progress bar that is never used, but warns if ipywidgets is not installed.
warnings.filterwarnings("ignore", "IProgress not found")

from cvae.engine.checkpoint import load_model  # noqa: E402
from cvae.engine.launch import resume, train  # noqa: E402
from cvae.engine.processes import check_environment  # noqa: E402

__all__ = ["check_environment", "load_model", "resume", "train"]
