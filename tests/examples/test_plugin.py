"""The plug-in under examples/: a user can install it, and then train and export a model with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_example_plugin_installs_trains_exports_and_generates(tmp_path):
    site, source = tmp_path / "site", tmp_path / "plugin"
    shutil.copytree(ROOT / "examples/plugin", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    install = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        source,  # a copy, because pip writes into the folder
    ]
    subprocess.run([sys.executable, "-m", *map(str, install)], check=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))}

    def cvae(*args: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "cvae", *args], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "mixer" in cvae("parts")
    cvae("train", "--data=digits", "--arch=mixer", "--conditional", "--epochs=2", "--set=arch.depth=1", "--limit=300")
    cvae("generate", "--digit", "7", "--out", "seven.png")
    assert (tmp_path / "seven.png").stat().st_size > 100
    assert "--count N" in cvae("export", "samples", "--help")
    cvae("export", "samples", "--count", "12", "--out", "digits.npz")
    with np.load(tmp_path / "digits.npz") as arrays:
        assert arrays["images"].shape == (12, 1, 8, 8) and arrays["labels"].tolist() == [*range(10), 0, 1]
