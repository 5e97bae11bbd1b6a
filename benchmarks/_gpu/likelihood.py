"""Training in stages for as long as the time limit allows, and bounds of the best run."""

import argparse
import math
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from _gpu.bound import SAMPLES, importance_weighted
from _gpu.capture import measure_speed
from _gpu.report import Report, release_memory
from _gpu.training import recipe_config, step_mode, train_quietly
from cvae.config import Config
from cvae.data import Split, load_dataset
from cvae.engine import launch

NETWORKS: dict[str, dict[str, Any]] = {
    # 1.55 M parameters; decoding an image takes 1.9 times as long as with mnist-resnet-flow
    "resnet": {
        "options": {
            "arch": {"width": 32, "max_width": 96, "blocks": 2, "patch": 2, "smallest": 7},
            "prior": {"couplings": 16, "hidden": 192},
        },
    },
    # 2.4 M parameters: a vector of 32 latents under a flow, and six grids with 8 latents at each position
    "ladder": {
        "arch": "ladder",
        "latent_dim": 32,
        "options": {
            "arch": {"width": 64, "max_width": 64, "blocks": 3, "patch": 2, "smallest": 4, "latent_channels": 8},
            "prior": {"couplings": 8, "hidden": 128, "dims": 32},
        },
    },
}
"""Settings of the networks that can be trained from random weights."""

FIRST_STAGE: dict[str, Any] = {
    "batch_size": 256, "lr": 2e-3, "warmup": 200, "weight_decay": 0.03, "objective": "elbo",
}  # fmt: skip
"""Settings of the stage that starts from random weights."""

IWAE_5: dict[str, Any] = {"batch_size": 256, "weight_decay": 0.05, "objective": "iwae", "samples": 5}
IWAE_20: dict[str, Any] = {"batch_size": 256, "weight_decay": 0.1, "objective": "iwae", "samples": 20, "dreg": True}

TRANSFORMATIONS: dict[str, dict[str, Any]] = {
    "mild": {"shift": 1, "rotate": 8.0, "zoom": 0.08},
    "strong": {"shift": 2, "rotate": 15.0, "zoom": 0.1},  # the transformations of Sinha & Dieng 2021
}

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pairs": {**TRANSFORMATIONS["mild"], "consistency": 0.0},
    "consistency 0.02": {**TRANSFORMATIONS["mild"], "consistency": 0.02},
    "consistency 0.02, strong": {**TRANSFORMATIONS["strong"], "consistency": 0.02},
}
"""Variants of settings against overfitting. Short trials choose the best variant, unless --variant names one.

A trial first trains with the settings, and then for a while without them, because the test images are not transformed.
"""

TRIAL_SHARES = (0.7, 0.3)
"""Shares of a trial's time with and without the settings of the variant."""

Stage = tuple[float, bool, dict[str, Any]]
"""A stage: its share of the training time, whether it uses the settings of the variant, and its other settings."""

LATER_STAGES: list[Stage] = [
    (0.50, True, {**IWAE_5, "lr": 1.5e-3, "warmup": 200}),
    (0.25, True, {**IWAE_20, "lr": 7e-4}),
    (0.25, False, {**IWAE_20, "lr": 4e-4}),
]
"""Stages of a network with a single group of latents."""

LATER_LADDER_STAGES: list[Stage] = [
    (0.40, False, {**FIRST_STAGE, "batch_size": 512, "lr": 1e-3}),
    (0.60, False, {**IWAE_5, "lr": 7e-4, "warmup": 200}),
]
"""Stages of a network with hierarchical latents. A sample costs as much as the rest of the network, so few are used."""

EPOCH_SECONDS = 6.0
"""Approximate duration of an epoch, which is several passes over the images, so that little time is spent on saving."""


class TimeIsUp(Exception):
    """Signal that the time of a stage is used up. The weights of its best epoch have been saved."""


def measure(args: argparse.Namespace, report: Report) -> None:
    folder = args.out.parent / ".likelihood"
    shutil.rmtree(folder, ignore_errors=True)
    ladder = network_settings(args).get("arch") == "ladder"
    # The rest of the time is for the bounds and the export.
    training_seconds = report.seconds_left - (10.0 if args.smoke else 125.0 if ladder else 50.0)
    trial_seconds = min(26.0, 0.07 * training_seconds)
    report.add("plan", {"seconds": round(report.seconds_left), "training": round(training_seconds)})
    end = time.monotonic() + training_seconds
    stages = Stages(args, report, folder)
    if args.init is None:
        first = {**FIRST_STAGE, **VARIANTS[args.variant or "plain"], "kl_warmup": 1.0 if ladder else 0.0}
        stages.train("stage 1", first, (0.5 if ladder else 0.4) * training_seconds)
        if stages.latest is None:
            return
    else:
        stages.latest = args.init
        stages.validate("initial bound", args.init)
    variant = args.variant or choose_variant(stages, trial_seconds, report)
    later_stages = LATER_LADDER_STAGES if ladder else LATER_STAGES
    for number, (share, transformed, changes) in enumerate(later_stages):
        later_shares = sum(share for share, *_ in later_stages[number:])
        seconds = (end - time.monotonic()) * share / later_shares
        changes = {**changes, **(VARIANTS[variant] if transformed else {})}
        stages.train(f"stage {number + 2}", changes, seconds)
    if stages.best is None:
        return
    count = 32 if args.smoke else None
    for samples in (SAMPLES, 10 * SAMPLES):
        seconds = max(report.seconds_left - 15.0, 5.0)
        report.measure(
            f"bound K={samples}", importance_weighted, stages.best, args, samples, images=count, seconds=seconds
        )
    needs = 0 if args.smoke else 20
    report.measure("export", export_and_archive, stages.best, args.out.parent / "likelihood-onnx.tar.gz", needs=needs)
    shutil.rmtree(folder, ignore_errors=True)


def choose_variant(stages: "Stages", seconds: float, report: Report) -> str:
    """Train for a short time with each variant, and return the one with the best validation bound."""
    scores = {}
    for name, settings in VARIANTS.items():
        run, init = None, stages.latest
        phases = {"with": {**settings, "lr": 1.5e-3}, "without": {"lr": 5e-4}}
        for share, (phase, changes) in zip(TRIAL_SHARES, phases.items(), strict=True):
            run = stages.train_run(f"trial {name}, {phase}", {**IWAE_5, **changes}, share * seconds, init)
            init = run or init
        score = run and stages.validate(f"trial {name} bound", run)
        if score:
            scores[name] = score
    best = min(scores, key=lambda name: scores[name], default="plain")
    report.add("variant", {"best": best, **scores})
    return best


class Stages:
    """Training stages, and the run with the best bound. Each stage starts from the weights of the stage before it.

    Args:
        args: Arguments of the benchmark.
        report: Receives the measurements.
        folder: Folder of the runs.
    """

    def __init__(self, args: argparse.Namespace, report: Report, folder: Path) -> None:
        self.args, self.report, self.folder = args, report, folder
        self.latest: Path | None = None
        self.best: Path | None = None
        self.best_score = math.inf

    def train(self, name: str, changes: dict[str, Any], seconds: float) -> None:
        """Train a stage, and archive its run if it is the best one so far."""
        run = self.train_run(name, changes, seconds, self.latest)
        if run is None:
            return
        self.latest = run
        score = self.validate(f"{name} bound", run)
        if score is not None and score < self.best_score:
            self.best, self.best_score = run, score
            names = ["config.json", "model.safetensors", "metrics.jsonl"]
            archive(run, self.args.out.parent / "likelihood.tar.gz", names)

    def train_run(self, name: str, changes: dict[str, Any], seconds: float, init: Path | None) -> Path | None:
        """Train for `seconds`, and return the run, or None if it has no weights."""
        out = self.folder / name.replace(" ", "-").replace(",", "")
        self.report.measure(name, train_stage, name, changes, seconds, self.args, self.report, out, init)
        return out if (out / "model.safetensors").exists() else None

    def validate(self, name: str, run: Path) -> float | None:
        """Return the importance-weighted bound of a run on validation images, or None if it can't be computed."""
        count = 32 if self.args.smoke else None
        result = self.report.measure(
            name, importance_weighted, run, self.args, SAMPLES, split="validation", images=count
        )
        return None if result is None else result["nats"]


def train_stage(
    name: str,
    changes: dict[str, Any],
    seconds: float,
    args: argparse.Namespace,
    report: Report,
    out: Path,
    init: Path | None,
) -> dict[str, Any]:
    """Measure the speed of a stage, and train as many epochs as fit into its time.

    Args:
        name: Name of the stage.
        changes: Settings of the stage, including options of the objective.
        seconds: Time of the stage.
        args: Arguments of the benchmark.
        report: Receives the speed, and the losses after each epoch.
        out: Folder of the run.
        init: Folder of the run whose weights the stage starts from; None for random weights.
    """
    end = time.monotonic() + seconds
    changes = dict(changes)
    objective = {option: changes.pop(option) for option in ("samples", "dreg") if option in changes}
    if changes["objective"] == "elbo":
        objective["antithetic"] = False
    if args.smoke:
        changes["batch_size"] = 64
    network = network_settings(args)
    network["options"] = {**network.get("options", {}), "objective": objective}
    config = recipe_config("mnist-resnet-flow-elbo", args, **network, **changes, compile=args.compile)
    probe = measure_speed(replace(config, epochs=1000), "recorded", 0.2 if args.smoke else min(1.0, 0.05 * seconds))
    report.add(f"{name} speed", probe)
    release_memory()
    dataset = load_dataset(config)
    passes_per_second = probe["images_per_second"] / len(dataset.train)
    # Saving, validation and sample images take a tenth of the time. Starting the engine takes two seconds.
    total_passes = 0.9 * (end - time.monotonic() - 2.0) * passes_per_second
    passes = max(1, round(min(EPOCH_SECONDS * passes_per_second, total_passes / 2)))
    epochs = max(1, int(total_passes / passes))
    if args.smoke:
        passes, epochs = 2, 2
    history: list[dict[str, Any]] = []

    def report_epoch(record: dict[str, Any]) -> None:
        validation = {key: round(value, 3) for key, value in record["validation"].items()}
        history.append({"epoch": record["epoch"], "loss": round(record["train"]["loss"], 3), **validation})
        report.add(f"{name} history", history)
        if time.monotonic() > end + 8 and record["epoch"] < epochs:
            raise TimeIsUp

    # Without test images, the engine does not spend seconds on their bound at the end of each stage.
    dataset = replace(dataset, train=repeat_split(dataset.train, passes), test=None)
    config = replace(config, epochs=epochs, init=None if init is None else str(init))
    cut_short = False
    with mock.patch.object(launch, "_load_dataset", lambda *_: dataset), step_mode("recorded", args.device):
        try:
            train_quietly(config, out, on_epoch=report_epoch)
        except TimeIsUp:
            cut_short = True
    return {"epochs": epochs, "passes_in_each": passes, "cut_short": cut_short}


def network_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the network: those of the --init run, or else those in this script."""
    if args.init is not None:
        training = Config.read(args.init / "config.json").training
        options = {part: dict(training.options[part]) for part in ("arch", "prior")}
        return {"arch": training.arch, "latent_dim": training.latent_dim, "options": options}
    if not args.smoke:
        return dict(NETWORKS[args.network])
    if args.network == "resnet":
        return {}
    small = {"width": 4, "max_width": 8, "blocks": 1, "patch": 4, "latent_channels": 2}
    return {"arch": "ladder", "latent_dim": 4, "options": {"arch": small, "prior": {"dims": 4, "hidden": 8}}}


def repeat_split(split: Split, passes: int) -> Split:
    """Repeat the images of a split, so that one epoch of the engine is several passes over them."""
    labels = None if split.labels is None else np.tile(split.labels, passes)
    return replace(split, images=np.tile(split.images[:], (passes, 1, 1, 1)), labels=labels)


def export_and_archive(run: Path, path: Path) -> list[str]:
    from cvae.exporters.onnx import export  # imported here, so that a missing package does not prevent training

    names = [file.name for file in export(run)]
    archive(run, path, names)
    return names


def archive(run: Path, path: Path, names: list[str]) -> None:
    """Write files of a run into a tar archive, atomically."""
    partial = path.with_name(path.name + ".partial")
    with tarfile.open(partial, "w:gz") as tar:
        for name in names:
            if (run / name).exists():
                tar.add(run / name, name)
    partial.replace(path)
