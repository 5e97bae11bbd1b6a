"""Sampling, reconstruction and interpolation from exported files, on onnxruntime, without torch."""

from cvae.runtime.model import Model, load

__all__ = ["Model", "load"]
