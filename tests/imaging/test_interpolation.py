"""Linear and spherical interpolation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvae.imaging import lerp, slerp

fast_settings = settings(deadline=None, max_examples=60)


def normal(n: int, seed: int = 0) -> np.ndarray:
    """Return standard normal samples of shape (n, 8)."""
    return np.random.default_rng(seed).standard_normal((n, 8), dtype=np.float32)


codes = st.integers(0, 10_000).map(lambda seed: normal(2, seed))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@fast_settings
@given(codes, st.integers(2, 20))
def test_slerp_moves_at_constant_speed_along_the_sphere(ends, steps):
    a, b = map(unit, ends)
    path = slerp(a, b, np.linspace(0, 1, steps, dtype=np.float32)[:, None])
    assert path.dtype == np.float32
    assert np.allclose(path[[0, -1]], [a, b], atol=1e-5)
    assert np.allclose(np.linalg.norm(path, axis=1), 1, atol=1e-5)
    cosines = (path[1:] * path[:-1]).sum(1)
    assert np.allclose(cosines, np.cos(np.arccos(float(a @ b)) / (steps - 1)), atol=1e-4)


@fast_settings
@given(codes, st.floats(0, 1, width=32))
def test_lerp_is_a_straight_line(ends, t):
    a, b = ends
    path = lerp(a, b, np.float32([[0], [t], [1]]))
    assert np.array_equal(path[[0, 2]], ends)
    assert np.allclose(path[1], [x + t * (y - x) for x, y in zip(a, b, strict=True)], atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_slerp_between_parallel_vectors_is_linear(factor):
    a = normal(1)[0]
    path = slerp(a, factor * a, np.float32([[0], [0.5], [1]]))
    assert np.allclose(path, np.array([[1], [(1 + factor) / 2], [factor]]) * a, atol=1e-5)
