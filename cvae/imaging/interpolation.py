"""Interpolation between codes. Torch-free."""

import numpy as np


def lerp(a: np.ndarray, b: np.ndarray, way: np.ndarray) -> np.ndarray:
    """The straight line from a (Z,) to b (Z,) at `way` (N, 1) in [0, 1]: (N, Z)."""
    return (1 - way) * a + way * b


def slerp(a: np.ndarray, b: np.ndarray, way: np.ndarray) -> np.ndarray:
    """The great-circle arc from a (Z,) to b (Z,) at `way` (N, 1) in [0, 1]: (N, Z). Shoemake 1985, section 3.3."""
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-4:  # parallel or opposite: no arc is the shortest
        return lerp(a, b, way)
    codes = (np.sin((1 - way) * angle) * a + np.sin(way * angle) * b) / np.sin(angle)
    return codes.astype(np.float32)
