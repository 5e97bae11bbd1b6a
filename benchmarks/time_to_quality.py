"""Time to a good model: seconds from the start of a process to a saved model whose test loss meets a target.

    python benchmarks/time_to_quality.py --example PATH/vae/main.py --data-dir DIR [--rounds 3] [--json] [--smoke]

The rules:

- The peer is the `main.py` of PyTorch's VAE example (https://github.com/pytorch/examples/tree/main/vae), unmodified,
  with its defaults: ten epochs. Our side is `cvae train --recipe speedrun-mlp`, which trains the same network, and also
  evaluates and exports it.
- The clock covers the whole process, including imports and reading the data. For the peer, it stops when `main.py`
  ends, before its weights are saved for the comparison.
- Both sides run in turn, A B A B, with the seed of their round.
- The loss is the example's: cross-entropy of the grey test images plus KL divergence, in nats, at one sample per image.
  The same code computes it for the weights of both sides, outside the clock. Every run has to meet the target.

Without --example, only our side is measured.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from _timing import data_root, format_range, make_parser, parse_args, ratios, report, run_rounds
from safetensors.torch import load_file

from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.engine import load_model
from cvae.model_config import ModelConfig, Part
from cvae.models import VAE, build

TARGET = 105.6
"""Test loss in nats; public logs of the example end near this value."""

RUN_EXAMPLE = """
import runpy, sys, time
from pathlib import Path
program, weights, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = program
variables = runpy.run_path(program, run_name="__main__")
print("ended at", time.time())
from safetensors.torch import save_file
save_file(variables["model"].cpu().state_dict(), weights)
"""
"""Program that runs the example and then saves the weights of its model."""


class Result(NamedTuple):
    """Seconds of a complete process, and the test loss of its model in nats."""

    seconds: float
    loss: float


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--example", type=Path, metavar="PATH", help="main.py of PyTorch's VAE example.")
    args = parse_args(parser, rounds=1)
    flags = ["--limit", "2000"] if args.smoke else []
    seeds: dict[str, int] = {"example": 0, "cvae": 0}

    def next_seed(side: str) -> int:
        seeds[side] += 1
        return seeds[side]

    sides: dict[str, Callable[[], Result]] = {"cvae": lambda: train_with_cvae(args.data_dir, next_seed("cvae"), flags)}
    if args.example:
        example = args.example.resolve()
        sides = {"example": lambda: train_example(example, args.data_dir, next_seed("example"), args.smoke), **sides}
    results = run_rounds(args.rounds, **sides)
    table = [("", "whole process, s", "test loss, nats", f"at most {TARGET}")]
    for side, runs in results.items():
        losses = [run.loss for run in runs]
        met = sum(loss <= TARGET for loss in losses)
        seconds = format_range([run.seconds for run in runs], 1)
        table.append((side, seconds, format_range(losses, 2), f"{met} of {len(runs)} runs"))
    metrics: dict[str, Any] = {side: [run._asdict() for run in runs] for side, runs in results.items()}
    notes = []
    if args.example:
        speedups = ratios(*([run.seconds for run in results[side]] for side in ("example", "cvae")))
        metrics["ratio"] = speedups
        notes = [f"cvae is {format_range(speedups, 1)} times as fast (target 10, stretch target 20)"]
    report(args.json, metrics, table, notes)


def train_with_cvae(data_dir: str | None, seed: int, flags: list[str]) -> Result:
    """Train the recipe in a new process."""
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "cvae", "train", "--recipe", "speedrun-mlp", "--seed", str(seed), *flags]
        command += ["--data-dir", str(data_root(data_dir)), "--out", str(run)]
        started = time.time()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.time() - started
        return Result(seconds, test_loss(load_model(run)[0], data_dir))


def train_example(program: Path, data_dir: str | None, seed: int, smoke: bool) -> Result:
    """Run the example in a new process, in a folder as it expects it."""
    with TemporaryDirectory() as folder:
        cwd, weights = Path(folder) / "vae", Path(folder) / "weights.safetensors"
        (cwd / "results").mkdir(parents=True)
        (Path(folder) / "data").symlink_to(data_root(data_dir).resolve())
        command = [sys.executable, "-c", RUN_EXAMPLE, str(program), str(weights), "--seed", str(seed)]
        command += ["--epochs", "1"] if smoke else []
        started = time.time()
        result = subprocess.run(command, cwd=cwd, env={**os.environ}, check=True, capture_output=True, text=True)
        seconds = float(result.stdout.splitlines()[-1].removeprefix("ended at ")) - started
        return Result(seconds, test_loss(to_model(load_file(weights)), data_dir))


def to_model(weights: dict[str, torch.Tensor]) -> VAE:
    """Return our model with the weights of the example's network, which is the same network."""
    parts = {"architecture": Part(name="mlp"), "likelihood": Part(name="bernoulli"), "prior": Part(name="normal")}
    config = ModelConfig(image_shape=(1, 28, 28), latent_dim=20, conditions=(), conditioning=None, **parts)
    model = build(config).eval()
    state = {}
    for kind in ("weight", "bias"):
        state[f"encoder.hidden.first.{kind}"] = weights[f"fc1.{kind}"]
        state[f"encoder.head.{kind}"] = torch.cat([weights[f"fc21.{kind}"], weights[f"fc22.{kind}"]])
        state[f"decoder.hidden.first.{kind}"] = weights[f"fc3.{kind}"]
        state[f"decoder.head.{kind}"] = weights[f"fc4.{kind}"]
    model.load_state_dict(state)
    return model


def test_loss(model: VAE, data_dir: str | None) -> float:
    """Return the loss of a model on the test images of MNIST, in nats per image."""
    test = load_dataset(TrainConfig(data="mnist", data_dir=data_dir)).test
    assert test is not None
    torch.manual_seed(0)
    losses = []
    with torch.inference_mode():
        for start in range(0, len(test), 1000):
            terms = model(torch.from_numpy(test.images[start : start + 1000]).float() / 255)
            losses.append(terms.distortion + terms.rate.sum(1))
    return float(torch.cat(losses).mean())


if __name__ == "__main__":
    main()
