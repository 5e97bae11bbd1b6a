"""Commands that write files, while each file operation fails once: see `faults.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cvae import model_zoo

SCRIPT = Path(__file__).resolve().parents[1] / "faults.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script limits the size of files")

QUICK = ["generate --digit 7 --seed 0"]
SLOW = [
    "generate -n 12 --seed 0 --out many",
    "generate -n 12 --seed 0 --out x.npy",
    "generate -n 12 --seed 0 --out x.npz",
    "detect fit model --data npz:set.npz --split test",
    "export triton mnist-resnet-conditional --encoder --out tri",
]


@pytest.mark.parametrize(
    "command",
    [*(pytest.param(line, marks=pytest.mark.integration) for line in QUICK)]
    + [pytest.param(line, marks=pytest.mark.slow) for line in SLOW],
)
def test_command_reports_each_fault_in_one_line_and_can_be_repeated(command, tmp_path):
    source = tmp_path / "source"
    (source / "model").mkdir(parents=True)
    for name in ("config.json", "decoder.onnx", "encoder.onnx"):
        (source / "model" / name).write_bytes((model_zoo.model(model_zoo.DEFAULT) / name).read_bytes())
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (count, 28, 28), np.uint8) for name, count in (("train", 40), ("test", 20))}
    labels = {f"{name}_labels": np.arange(len(values)) % 10 for name, values in images.items()}
    np.savez(source / "set.npz", **images, **labels)
    arguments = [sys.executable, SCRIPT, source, *command.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["faults"] > 10 and report["problems"] == []
