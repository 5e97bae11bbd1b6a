"""The plug-in under examples/, installed as a user would, and trained."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_example_plugin_installs_trains_exports_and_generates(tmp_path):
    site = tmp_path / "site"
    install = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        ROOT / "examples/plugin",
    ]
    subprocess.run([sys.executable, "-m", *map(str, install)], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}

    def cvae(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cvae", *args], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "mixer" in cvae("parts")
    cvae("train", "--arch", "mixer", "--conditional", "--epochs", "2", "--set", "arch.depth=1", "--limit", "300")
    cvae("export", "onnx")
    cvae("generate", "--digit", "7", "--out", "seven.png")
    assert (tmp_path / "seven.png").stat().st_size > 100
