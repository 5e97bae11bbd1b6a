"""Config of a quick training run, and functions that read the files of a run."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from cvae.config import TrainConfig

QUICK = TrainConfig(
    arch="mlp",
    conditional=True,
    latent_dim=4,
    likelihood="bernoulli",
    epochs=3,
    limit=600,
    batch_size=32,
    lr=5e-3,
    precision="fp32",
    trackers=("none",),
    options={"arch": {"hidden": (24,)}},
)
STEPS = 600 // 32
"""Number of steps in an epoch of QUICK."""


def load_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def have_equal_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def read_records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


NARROW = {"mlp": {"hidden": (24,)}, "conv": {"width": 4, "hidden": 16}, "resnet": {"width": 4}}
