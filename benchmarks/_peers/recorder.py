"""Records the weights of a model during training, with the time at which it had them."""

import time
from pathlib import Path

from safetensors.torch import save_file
from torch import nn


class Recorder:
    """Saves the weights of a model. While it does, the clock stands still.

    Args:
        folder: folder of the files. A file is named after the seconds since the start.
        start: time at which the process started, as `time.time()` returns it.
    """

    def __init__(self, folder: Path, start: float) -> None:
        self.folder = folder
        self.start = start

    def save(self, model: nn.Module) -> None:
        now = time.time()
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, self.folder / f"{now - self.start:010.3f}.safetensors")
        self.start += time.time() - now
