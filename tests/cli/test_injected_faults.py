"""Commands that write files, while each file operation fails once: see `faults.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cvae import model_zoo

SCRIPT = Path(__file__).resolve().parents[1] / "faults.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script limits the size of files")

TRAIN = (
    "train --arch mlp --prior normal --latent-dim 4 --set arch.hidden=[16] --size 16 --epochs 2 --batch-size 16 "
    "--tracker none --data folder:{images} --out run"
)
"""Command whose images lie outside the folder in which operations fail, so that the path of their cache is fixed."""

COMMANDS = [
    "generate -n 12 --seed 0 --out many",
    "generate -n 12 --seed 0 --out x.npy",
    "generate -n 12 --seed 0 --out x.npz",
    "detect fit model --data npz:set.npz --split test",
    "export onnx trained",
    "export triton mnist-resnet-conditional --encoder --out tri",
    "export web model --out web",
    TRAIN,
]

SAMPLES = {"generate --digit 7 --seed 0": 1, "export onnx trained": 20, "export web model --out web": 60, TRAIN: 120}
"""Commands of which only some faults are tested by default: every n-th."""


def count_faults(folder: Path, trained: Path, command: str, every: int) -> int:
    """Run the script, check that it has not found a problem, and return the number of faults."""
    source, images = folder / "source", folder / "images"
    for model, target, names in (
        (model_zoo.model(model_zoo.DEFAULT), "model", ("config.json", "decoder.onnx", "encoder.onnx")),
        (trained, "trained", ("config.json", "metrics.jsonl", "model.safetensors")),
    ):
        (source / target).mkdir(parents=True)
        for name in names:
            (source / target / name).write_bytes((model / name).read_bytes())
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (count, 28, 28), np.uint8) for name, count in (("train", 40), ("test", 20))}
    labels: dict[str, Any] = {f"{name}_labels": np.arange(len(array)) % 10 for name, array in arrays.items()}
    np.savez(source / "set.npz", **arrays, **labels)
    images.mkdir()
    for i, pixels in enumerate(arrays["train"]):
        Image.fromarray(pixels).save(images / f"{i}.png")
    arguments = [sys.executable, SCRIPT, "--every", str(every), source, *command.format(images=images).split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CVAE_DATA_DIR": "cache"}
    process = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["problems"] == []
    return report["faults"]


@pytest.mark.integration
@pytest.mark.parametrize(("command", "every"), SAMPLES.items())
def test_command_reports_some_faults_in_one_line_and_can_be_repeated(tmp_path, trained, command, every):
    assert count_faults(tmp_path, trained["plain"], command, every) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_reports_each_fault_in_one_line_and_can_be_repeated(tmp_path, trained, command):
    assert count_faults(tmp_path, trained["plain"], command, every=1) > 30
