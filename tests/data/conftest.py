"""Fixtures for the tests of data sets."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caches of decoded image folders in the temporary folder of the test."""
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "caches"))
