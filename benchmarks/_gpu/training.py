"""Configs of short runs, and functions that train with them."""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from cvae.config import TrainConfig
from cvae.engine import train, trainer
from cvae.engine.recorded_step import RecordedStep
from cvae.recipes import read_recipe
from cvae.serialization import from_dict
from cvae.tuning.search_space import to_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "model_zoo" / "recipes"


def recipe_config(name: str, args: argparse.Namespace, **changes: Any) -> TrainConfig:
    """Return the config of a zoo recipe with `changes`. Options of a part in `changes` replace all of its options."""
    values = read_recipe(RECIPES / f"{name}.toml")
    options = {**values.pop("options", {}), **changes.pop("options", {})}
    common = {"data_dir": args.data_dir, "device": args.device, "trackers": ["none"], "likelihood": "bernoulli"}
    common["compile"] = False
    if args.smoke:
        common |= {"limit": 512, "validation": 0.1}
        if values["arch"] == "resnet":
            options |= {"arch": {"width": 4, "max_width": 8, "patch": 4, "smallest": 7}}
            options |= {"prior": {"couplings": 2, "hidden": 8}} if values["prior"] == "flow" else {}
    return from_dict(TrainConfig, {**values, **common, **changes, "options": options})


def short_config(args: argparse.Namespace, **changes: Any) -> TrainConfig:
    """Return the config of a run that takes a few seconds."""
    size = {"limit": 512, "batch_size": 64} if args.smoke else {"limit": 12_800, "batch_size": 128}
    defaults = {"epochs": 2, "ema": 0.99, "warmup": 20, **size}
    return recipe_config("mnist-resnet-flow-elbo", args, **{**defaults, **changes})


@contextmanager
def step_mode(mode: str, device: str) -> Iterator[None]:
    """Choose how the engine computes its training steps inside the context.

    Args:
        mode: "recorded" (record the step as a CUDA graph and replay it), "launched" (run the same code without a
            graph), or "eager" (as in runs whose step can't be recorded).
        device: "cuda" or "cpu". On the CPU, "recorded" is the same as "launched".
    """
    with ExitStack() as stack:
        if mode == "launched":
            stack.enter_context(mock.patch.object(RecordedStep, "prepare", lambda self, step: None))
        if mode == "eager":
            stack.enter_context(mock.patch.object(trainer, "can_record", lambda *_: False))
        elif device == "cpu":
            stack.enter_context(mock.patch.object(trainer, "can_record", lambda *_: True))
        yield


def train_quietly(config: TrainConfig, out: Path, **options: Any) -> Path:
    """Train in this process without output, and return the folder of the run."""
    return train(config, out, quiet=True, **options)


def train_in_subprocess(config: TrainConfig, out: Path) -> float:
    """Train with `cvae train` in a new process, and return how many seconds the process takes."""
    path = out.with_name(out.name + ".toml")
    path.write_text(to_recipe(config), "utf-8")
    started = time.monotonic()
    run_cvae("train", "--no-export", "--recipe", str(path), "--out", str(out))
    return time.monotonic() - started


def run_cvae(*arguments: str) -> str:
    """Run a `cvae` command in a new process, and return its stderr.

    Raises:
        RuntimeError: If the command fails.
    """
    command = [sys.executable, "-m", "cvae", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        raise RuntimeError(result.stderr[-800:])
    return result.stderr
