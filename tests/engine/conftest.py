"""Fixtures for the tests of the engine."""

from pathlib import Path

import pytest
from engine_helpers import QUICK

from cvae.engine import train


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory) -> Path:
    """Train with the config QUICK and return the run folder. Tests share the folder, so they must not change it."""
    return train(QUICK, tmp_path_factory.mktemp("runs") / "a", quiet=True)
