"""Fixtures for the tests of the engine."""

from pathlib import Path

import pytest
from engine_helpers import QUICK

from cvae.engine import train


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory) -> Path:
    """Train a run with the quick config. Tests share it, so they must not change it."""
    return train(QUICK, tmp_path_factory.mktemp("runs") / "a", quiet=True)
