"""Time that a complete `cvae train` process takes to reach 80 nats, then the last measurements of the part `bytes`.

That part measures several networks, one after another. Here, all but the first are measured.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from _gpu.bytes import network_configs, train_and_compare
from _gpu.capture import measure_speed
from _gpu.quality import train_and_score
from _gpu.report import Report
from _gpu.training import recipe_config
from cvae.config import TrainConfig
from cvae.data import load_dataset

PLANS = ["recorded", "recorded again", "recorded resumed"]

TARGET = 80.0
MAX_TRAINING_SECONDS = 96.0
"""Time limit for the training itself, which keeps the complete process below two minutes."""

OTHER_SECONDS = {"process": 18.0, "score": 5.0, "bytes": 30.0}
"""Seconds for everything else: the rest of the process (as measured by `quality`), the bound, and the part `bytes`."""


def measure(args: argparse.Namespace, report: Report) -> None:
    with TemporaryDirectory() as name:
        config = target_config(args)
        probe = report.measure(
            "speed", measure_speed, replace(config, epochs=1000), "recorded", 0.2 if args.smoke else 1.0
        )
        if probe is not None:
            seconds = min(MAX_TRAINING_SECONDS, report.seconds_left - sum(OTHER_SECONDS.values()))
            # An epoch is a few percent slower than the probe, because it saves a checkpoint and sample images.
            epochs = int(0.94 * seconds * probe["images_per_second"] / len(load_dataset(config).train))
            config = replace(config, epochs=1 if args.smoke else max(1, epochs))
            report.add("plan", {"epochs": config.epochs, "training_seconds": round(seconds)})
            report.measure("80 nats", train_and_score, TARGET, config, args, Path(name) / "target")
        configs = network_configs(args)
        del configs["resnet-flow"]  # the network that `bytes` measures first
        for network, config in configs.items():
            for plan in PLANS:
                folder = Path(name) / network.replace(" ", "-")
                report.measure(f"{network} {plan}", train_and_compare, plan, config, args, folder, needs=3)


def target_config(args: argparse.Namespace) -> TrainConfig:
    """Return the config of the run. Its network is wider than the recipe's in places where this costs little time."""
    options = {
        "arch": {"width": 32, "max_width": 96, "patch": 2, "smallest": 7},
        "prior": {"couplings": 8, "hidden": 256},
        "objective": {"samples": 5},
    }
    changes = {"lr": 2e-3, "warmup": 200, "ema": 0.999, "validation": 0.0, "objective": "iwae", "options": options}
    return recipe_config("mnist-resnet-flow-elbo", args, batch_size=64 if args.smoke else 256, **changes)
