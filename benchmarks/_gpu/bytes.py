"""Comparison of the weights between runs that are repeated, resumed, or trained in different modes."""

import argparse
import hashlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file

from _gpu.report import Report
from _gpu.training import short_config, step_mode, train_in_subprocess, train_quietly
from cvae.config import TrainConfig
from cvae.engine import resume
from cvae.engine.trainer import Trainer
from cvae.errors import Interrupted

PLANS = ["recorded", "recorded again", "recorded resumed", "launched", "eager", "eager again", "eager resumed"]
"""The mode of the training step in each run (see `step_mode`), and whether the run is repeated or resumed."""


def measure(args: argparse.Namespace, report: Report) -> None:
    """Train several networks according to each plan, and compare their weights."""
    configs = network_configs(args)
    if args.device == "cuda":
        report.measure("random numbers", compare_random_numbers)
    with TemporaryDirectory() as name:
        for network, config in configs.items():
            folder = Path(name) / network.replace(" ", "-")
            for plan in PLANS if network == "resnet-flow" else PLANS[:4]:
                report.measure(f"{network} {plan}", train_and_compare, plan, config, args, folder, needs=4)
            if network == "resnet-flow" and args.device == "cuda":
                report.measure(f"{network} from the command line", compare_command_line, config, folder, needs=15)


def network_configs(args: argparse.Namespace) -> dict[str, TrainConfig]:
    """Return the config of a short run of each network."""
    config = short_config(args)
    batch_norm = {"arch": {"width": 8, "patch": 2, "smallest": 7, "batch_norm": True}}
    return {
        "resnet-flow": config,
        "iwae": short_config(args, objective="iwae", options={"objective": {"samples": 5, "dreg": True}}),
        "mlp": replace(config, arch="mlp", options={"objective": {"antithetic": False}}, latent_dim=20),
        "batch norm fp32": short_config(args, precision="fp32", options=batch_norm),
        "consistency": short_config(args, shift=1, rotate=8.0, zoom=0.08, consistency=0.02),
    }


def compare_random_numbers() -> dict[str, Any]:
    """Compare the random numbers in a replayed CUDA graph with those that the same seed gives without a graph."""
    numbers, graph = torch.zeros(1000, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        numbers.copy_(torch.randn(1000, device="cuda") + torch.rand(1000, device="cuda"))
    equal = []
    for seed in (1, 2, 2**62 + 3, 1):
        torch.cuda.manual_seed(seed)
        graph.replay()
        torch.cuda.manual_seed(seed)
        expected = torch.randn(1000, device="cuda") + torch.rand(1000, device="cuda")
        equal.append(torch.equal(numbers, expected))
    return {"equal": equal}


def train_and_compare(plan: str, config: TrainConfig, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a run as planned, and compare its weights with those of the first run in the same mode."""
    mode = plan.split()[0]
    run = folder / plan.replace(" ", "-")
    with step_mode(mode, args.device):
        if "resumed" in plan:
            assert config.limit is not None
            interrupt_and_resume(config, run, config.limit // config.batch_size + 7)
        else:
            train_quietly(config, run)
    return {
        "sha256": weights_digest(run)[:16],
        "same_as_first": weights_digest(run) == weights_digest(folder / mode),
        "difference_from_first": max_difference(run, folder / mode),
        "difference_from_recorded": max_difference(run, folder / "recorded"),
        "bound": test_bound(run),
    }


def compare_command_line(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train from the command line, and compare the weights with those from training in this process."""
    run = folder / "command-line"
    seconds = train_in_subprocess(config, run)
    equal = weights_digest(run) == weights_digest(folder / "recorded")
    return {"same_as_in_process": equal, "seconds": round(seconds, 1)}


def interrupt_and_resume(config: TrainConfig, out: Path, last_step: int) -> Path:
    """Stop a run after `last_step` steps, as SIGTERM does, and resume it."""
    train_step = Trainer._train_step

    def train_step_and_stop(self: Trainer, *batch: Any) -> None:
        train_step(self, *batch)
        if self.state.step == last_step:
            self.stop.signals.add(signal.SIGTERM)

    with mock.patch.object(Trainer, "_train_step", train_step_and_stop):
        try:
            train_quietly(config, out)
        except Interrupted:
            return resume(out, quiet=True)
    raise AssertionError("the run was not interrupted")


def weights_digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def max_difference(run: Path, reference: Path) -> float:
    """Return the largest absolute difference between the weights of two runs."""
    weights, expected = load_file(run / "model.safetensors"), load_file(reference / "model.safetensors")
    return max((weights[name].double() - expected[name].double()).abs().max().item() for name in weights)


def test_bound(run: Path) -> float:
    return json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])["test"]["bound"]
