"""Fixtures for the tests of the data."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def root_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache of decoded image folders in the folder of the test."""
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "caches"))
