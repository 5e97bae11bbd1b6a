"""Fixtures for the tests of the runtime."""

import shutil
from pathlib import Path

import pytest

import cvae
from cvae.engine import load_model


@pytest.fixture(scope="module")
def models(trained) -> dict[str, cvae.Model]:
    return {kind: cvae.load(run) for kind, run in trained.items()}


@pytest.fixture(scope="module")
def networks(trained):
    return {kind: load_model(run)[0] for kind, run in trained.items()}


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """Copy the conditional run to a folder whose files a test may change."""
    return Path(shutil.copytree(trained["labels"], tmp_path / "run"))
