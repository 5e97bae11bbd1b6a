"""Variational autoencoders, with or without labels, and their export to self-describing ONNX files.

    import cvae

    model = cvae.load()                              # runs on onnxruntime, without torch
    images = model.generate(16, label=7, seed=0)     # (16, 1, 28, 28) float32 in [0, 1]

`import cvae` imports neither torch nor onnxruntime: each name in `__all__` loads its module on first use.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvae.api import detect, hub, plot, zoo
    from cvae.api.encoded_images import reconstruct, restyle
    from cvae.api.images import generate, interpolate
    from cvae.api.models import evaluate, export, info, parts
    from cvae.api.run import Run, runs
    from cvae.api.scan import scan
    from cvae.api.training import load_model, resume, train
    from cvae.api.tuning import tune
    from cvae.config import TrainConfig
    from cvae.errors import CvaeError, UsageError
    from cvae.runtime import Model, load
    from cvae.spec import Spec

__version__ = "0.1.0"

# onnxruntime 1.32 and later sends telemetry unless this variable is set before onnxruntime is first imported. This line
# runs before any other module of this package is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "CvaeError": "cvae.errors",
    "Model": "cvae.runtime",
    "Run": "cvae.api.run",
    "Spec": "cvae.spec",
    "TrainConfig": "cvae.config",
    "UsageError": "cvae.errors",
    "evaluate": "cvae.api.models",
    "export": "cvae.api.models",
    "generate": "cvae.api.images",
    "info": "cvae.api.models",
    "interpolate": "cvae.api.images",
    "load": "cvae.runtime",
    "load_model": "cvae.api.training",
    "parts": "cvae.api.models",
    "reconstruct": "cvae.api.encoded_images",
    "restyle": "cvae.api.encoded_images",
    "resume": "cvae.api.training",
    "runs": "cvae.api.run",
    "scan": "cvae.api.scan",
    "train": "cvae.api.training",
    "tune": "cvae.api.tuning",
}

_NAMESPACES = ("detect", "hub", "plot", "zoo")
"""Modules of `cvae.api`, one per command group: `cvae.plot.latent` is the function for `cvae plot latent`."""

__all__ = [
    "CvaeError",
    "Model",
    "Run",
    "Spec",
    "TrainConfig",
    "UsageError",
    "__version__",
    "detect",
    "evaluate",
    "export",
    "generate",
    "hub",
    "info",
    "interpolate",
    "load",
    "load_model",
    "parts",
    "plot",
    "reconstruct",
    "restyle",
    "resume",
    "runs",
    "scan",
    "train",
    "tune",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return import_module(f"cvae.api.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'cvae' has no attribute {name!r}")
    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cvae"):
            raise
        from cvae.errors import MissingExtraError

        raise MissingExtraError(f"cvae.{name}") from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
