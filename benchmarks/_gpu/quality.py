"""Time that a complete `cvae train` process takes to reach a bound of 85 or 80 nats."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _gpu.bound import SAMPLES, importance_weighted
from _gpu.report import Report
from _gpu.training import ROOT, recipe_config, train_in_subprocess
from cvae.config import TrainConfig

SETTINGS: dict[str, dict[str, Any]] = {
    "85 nats, batch 256": {
        "target": 85, "batch_size": 256, "lr": 3e-3, "epochs": 7, "ema": 0.99, "warmup": 50, "validation": 0.0,
    },
    "80 nats, batch 256, IWAE of 5": {
        "target": 80, "batch_size": 256, "lr": 2e-3, "epochs": 22, "ema": 0.998, "warmup": 100, "validation": 0.0,
        "objective": "iwae", "options": {"objective": {"samples": 5}},
    },
    "85 nats, batch 128": {
        "target": 85, "batch_size": 128, "lr": 2e-3, "epochs": 5, "ema": 0.99, "warmup": 50, "validation": 0.0,
    },
    "85 nats, batch 512": {
        "target": 85, "batch_size": 512, "lr": 4e-3, "epochs": 9, "ema": 0.98, "warmup": 50, "validation": 0.0,
    },
}  # fmt: skip
"""Target bounds in nats, and changes to the recipe mnist-resnet-flow-elbo. They are tried in this order until the time
is up."""

STARTUP = """
import time
times = [time.perf_counter()]
def report(part):
    times.append(time.perf_counter()); print(f"{part} {times[-1] - times[-2]:.2f}")
import torch; report("torch")
torch.zeros(1, device=DEVICE); report("device")
import cvae.cli.train, cvae.engine; report("engine")
torch.nn.Conv2d(1, 8, 3).to(DEVICE)(torch.zeros(1, 1, 9, 9, device=DEVICE)).sum().item(); report("first convolution")
"""


def measure(args: argparse.Namespace, report: Report) -> None:
    report.measure("start", startup_seconds, args.device)
    with TemporaryDirectory() as name:
        for label, setting in SETTINGS.items():
            changes = dict(setting)
            target = changes.pop("target")
            if args.smoke:
                changes |= {"epochs": 1, "batch_size": 64}
            config = recipe_config("mnist-resnet-flow-elbo", args, **changes)
            out = Path(name) / label.replace(" ", "-").replace(",", "")
            needs = 0 if args.smoke else 65 if target == 80 else 30
            report.measure(label, train_and_score, target, config, args, out, needs=needs)


def startup_seconds(device: str) -> dict[str, Any]:
    """Return how many seconds each part of process startup takes."""
    command = [sys.executable, "-c", STARTUP.replace("DEVICE", repr(device))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return {"parts": result.stdout.split("\n"), "error": result.stderr[-300:]}


def train_and_score(target: float, config: TrainConfig, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Time a complete `cvae train` process, then compute the bound of its run."""
    seconds = train_in_subprocess(config, out)
    bound = importance_weighted(out, args, 10, images=32) if args.smoke else importance_weighted(out, args, SAMPLES)
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()][:-1]
    return {
        "process_seconds": round(seconds, 2),
        "training_seconds": round(sum(record["seconds"] for record in epochs), 2),
        "images_per_second": epochs[-1]["images_per_second"],
        "nats": bound["nats"],
        "single_sample": bound["single_sample"],
        "target": target,
        "target_met": bound["nats"] <= target,
    }
