"""The recipes for adding parts in CONTRIBUTING.md, applied to a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the package, and add the code blocks of "Add a part" to the files that their sections name."""
    for name in ("cvae", "cli", "exporters", "model_zoo"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    _, _, chapter = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Add a part\n")
    chapter, _, _ = chapter.partition("\n## ")
    registry = tmp_path / "cvae" / "registry.py"
    for section in chapter.split("\n### ")[1:]:
        module_name = re.search(r"`((?:cvae|exporters)/\S+\.py)`", section)
        assert module_name is not None
        part, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
        module = tmp_path / module_name[1]
        module.write_text(f"{module.read_text()}\n\n{part}" if module.exists() else part)
        (registry_name,) = re.findall(r"`cvae/registry.py`, in `([A-Z]+)`:", section)
        start, end, after = registry.read_text().partition(f"\n{registry_name} = Registry(")
        entries, brace, after = after.partition("\n    },")
        registry.write_text(f"{start}{end}{entries}\n        {line.strip()}{brace}{after}")
    return tmp_path


@pytest.mark.slow
def test_parts_added_as_documented_can_be_trained_and_exported(checkout):
    environment = {**os.environ, "PYTHONPATH": str(checkout)}

    def cvae(command: str) -> str:
        arguments = [sys.executable, "-m", "cvae", *command.split()]
        result = subprocess.run(arguments, cwd=checkout, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    cvae(
        "train --data stripes --arch linear --conditional --conditioning shift --likelihood laplace --prior diagonal "
        "--objective capacity --set objective.nats=5 --loss total-variation --optimizer sgd --lr 1e-5 --epochs 1 "
        "--out run"
    )
    cvae("export onnx run")
    cvae("export contact-sheet run --out sheet.png")
    assert (checkout / "sheet.png").stat().st_size > 100
