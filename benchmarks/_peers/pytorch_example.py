"""Run the unmodified main.py of PyTorch's VAE example, and record its weights at the end of every epoch.

python -m _peers.pytorch_example START WEIGHTS MAIN [FLAG ...]
"""

import runpy
import sys
from pathlib import Path
from typing import Any

import torchvision.utils

from _peers.recorder import Recorder

start, weights, *sys.argv = sys.argv[1:]
recorder = Recorder(Path(weights), float(start))
save_image = torchvision.utils.save_image


def save_image_and_weights(images: Any, path: str, **options: Any) -> None:
    """Save images as torchvision does. The last thing that an epoch does is to save random digits."""
    save_image(images, path, **options)
    if "sample_" in path:
        recorder.save(sys._getframe(1).f_globals["model"])


torchvision.utils.save_image = save_image_and_weights
runpy.run_path(sys.argv[0], run_name="__main__")
