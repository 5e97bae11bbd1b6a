"""Fixtures that build the wheels of this checkout."""

import os
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
    return build_wheel(tmp_path_factory.mktemp("wheel"), "cvae_onnx", "0")


@pytest.fixture(scope="session")
def gpu_wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build_wheel(tmp_path_factory.mktemp("gpu_wheel"), "cvae_onnx_gpu", "1")


def build_wheel(folder: Path, name: str, gpu: str) -> zipfile.ZipFile:
    """Build a wheel of this checkout, with `gpu` as the value of CVAE_ONNX_GPU."""
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__", "tests")
    checkout = shutil.copytree(ROOT, folder / "checkout", ignore=ignored, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", checkout]
    subprocess.run([*command, "--wheel-dir", folder], check=True, env={**os.environ, "CVAE_ONNX_GPU": gpu})
    (path,) = folder.glob("*.whl")
    assert path.name == f"{name}-{cvae.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)
