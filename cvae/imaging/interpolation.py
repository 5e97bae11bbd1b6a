"""Interpolation between latent codes. Does not import torch."""

import numpy as np


def lerp(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate linearly between a (Z,) and b (Z,). `weight` (N, 1) is the weight of b, in [0, 1]. Return (N, Z)."""
    return (1 - weight) * a + weight * b


def slerp(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate spherically between a (Z,) and b (Z,). `weight` (N, 1) is the weight of b, in [0, 1]. Return (N, Z).

    Shoemake 1985, section 3.3.
    """
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-4:  # the formula below would divide by zero for parallel or opposite vectors
        return lerp(a, b, weight)
    codes = (np.sin((1 - weight) * angle) * a + np.sin(weight * angle) * b) / np.sin(angle)
    return codes.astype(np.float32)
