"""Sampling, reconstruction and interpolation from exported files, on onnxruntime, without torch."""

from cvae.runtime.loading import load
from cvae.runtime.model import Model

__all__ = ["Model", "load"]
