"""Inputs for the small models, and a function that runs the models in torch."""

import numpy as np
import pytest
import torch

DECODER, ENCODER = "decoder.onnx", "encoder.onnx"
both_kinds = pytest.mark.parametrize("kind", ["labels", "plain"])


def cycle_labels(kind: str, n: int) -> np.ndarray | None:
    """Return n labels that cycle through the classes, or None for the unconditional model."""
    return np.arange(n) % 10 if kind == "labels" else None


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8), dtype=np.float32)


def random_images(n: int) -> np.ndarray:
    return np.random.default_rng(1).random((n, 1, 8, 8), dtype=np.float32)


def run_in_torch(method, array: np.ndarray, label: np.ndarray | None):
    with torch.inference_mode():
        result = method(torch.from_numpy(array), None if label is None else torch.from_numpy(label))
    return tuple(tensor.numpy() for tensor in result) if isinstance(result, tuple) else result.numpy()


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-5)
