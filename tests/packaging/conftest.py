"""Fixture that builds the wheel of this checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cvae

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__", "tests")
    checkout = shutil.copytree(ROOT, folder / "checkout", ignore=ignored, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", checkout]
    subprocess.run([*command, "--wheel-dir", folder], check=True)
    (path,) = folder.glob("*.whl")
    assert path.name == f"cvae_onnx-{cvae.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)
