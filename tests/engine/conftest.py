"""Fixtures for the tests of the engine."""

from pathlib import Path

import pytest
from engine_helpers import QUICK

from cvae.engine import train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(QUICK, tmp_path_factory.mktemp("runs") / "a", quiet=True)
