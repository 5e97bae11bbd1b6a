"""The longest training that fits into the time, in three stages, with its bounds."""

import argparse
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from _gpu.bound import SAMPLES, importance_weighted
from _gpu.capture import speed
from _gpu.report import Report, release_memory
from _gpu.training import recipe_config, step_mode, train_quietly
from cvae.data import Split, load_dataset
from cvae.engine import launch

NETWORK = {
    "arch": {"width": 32, "max_width": 96, "blocks": 2, "patch": 2, "smallest": 7},
    "prior": {"couplings": 16, "hidden": 192},
}
"""Options of the network: 1.55 M weights. Decoding an image takes 1.9 times as long as with mnist-resnet-flow."""

STAGES: list[tuple[float, dict[str, Any]]] = [
    (0.35, {"batch_size": 256, "lr": 2e-3, "warmup": 200, "weight_decay": 0.03, "objective": "elbo"}),
    (0.25, {"batch_size": 256, "lr": 1e-3, "weight_decay": 0.05, "objective": "iwae", "samples": 5}),
    (0.40, {"batch_size": 128, "lr": 5e-4, "weight_decay": 0.1, "objective": "iwae", "samples": 20, "dreg": True}),
]
"""Share of the training time and settings of each stage."""

EPOCH_SECONDS = 6.0
"""Approximate length of an epoch, which is several passes over the images, so that saving costs little time."""


class TimeIsUp(Exception):
    """The end of a stage whose time is used up. The weights of its best epoch are saved."""


def measure(args: argparse.Namespace, report: Report) -> None:
    folder = args.out.parent / ".likelihood"
    shutil.rmtree(folder, ignore_errors=True)
    reserve = 10.0 if args.smoke else 25.0 + 0.12 * report.seconds_left  # for the bounds and the export
    end_of_training = time.monotonic() + report.seconds_left - reserve
    report.add("plan", {"seconds": round(report.seconds_left), "after": round(reserve), "network": NETWORK})
    run: Path | None = None
    for number, (share, _) in enumerate(STAGES):
        seconds = (end_of_training - time.monotonic()) * share / sum(share for share, _ in STAGES[number:])
        out = folder / f"stage-{number + 1}"
        report.measure(f"stage {number + 1}", train_stage, number, seconds, args, report, out, run)
        if not (out / "model.safetensors").exists():
            break  # the run of the stage before is the result
        run = out
        archive(run, args.out.parent / "likelihood.tar.gz", ["config.json", "model.safetensors", "metrics.jsonl"])
        count = 32 if args.smoke else 1000
        report.measure(f"stage {number + 1} bound", importance_weighted, run, args, SAMPLES, images=count, seconds=5)
    if run is None:
        return
    for samples in (SAMPLES, 10 * SAMPLES):
        report.measure(
            f"bound K={samples}", importance_weighted, run, args, samples,
            images=32 if args.smoke else None, seconds=0.6 * max(report.seconds_left, 5.0),
        )  # fmt: skip
    needs = 0 if args.smoke else 35
    report.measure("export", export_and_archive, run, args.out.parent / "likelihood-onnx.tar.gz", needs=needs)
    shutil.rmtree(folder, ignore_errors=True)


def train_stage(
    number: int, seconds: float, args: argparse.Namespace, report: Report, out: Path, init: Path | None
) -> dict[str, Any]:
    """Measure the speed of a stage, and train as many epochs as fit into its time.

    Args:
        number: Index of the stage.
        seconds: Time of the stage.
        args: Arguments of the benchmark.
        report: Receives the speed, and the losses after each epoch.
        out: Folder of the run.
        init: Folder of the run whose weights the stage starts from.
    """
    end = time.monotonic() + seconds
    changes = dict(STAGES[number][1])
    objective = {name: changes.pop(name) for name in ("samples", "dreg") if name in changes}
    if args.smoke:
        changes["batch_size"] = 64
    options = {**({} if args.smoke else NETWORK), "objective": objective}
    config = recipe_config("mnist-resnet-flow-elbo", args, **changes, compile=args.compile, options=options)
    probe = speed(replace(config, epochs=1000), "recorded", 0.2 if args.smoke else 1.5)
    report.add(f"stage {number + 1} speed", probe)
    release_memory()
    dataset = load_dataset(config)
    total_passes = 0.9 * (end - time.monotonic()) * probe["images_per_second"] / len(dataset.train)
    passes = max(1, round(min(EPOCH_SECONDS * probe["images_per_second"] / len(dataset.train), total_passes / 4)))
    epochs = max(1, int(total_passes / passes))
    if args.smoke:
        passes, epochs = 2, 2
    history: list[dict[str, Any]] = []

    def report_epoch(record: dict[str, Any]) -> None:
        validation = {name: round(value, 3) for name, value in record["validation"].items()}
        history.append({"epoch": record["epoch"], "loss": round(record["train"]["loss"], 3), **validation})
        report.add(f"stage {number + 1} history", history)
        if time.monotonic() > end + 8 and record["epoch"] < epochs:
            raise TimeIsUp

    dataset = replace(dataset, train=repeat_split(dataset.train, passes))
    config = replace(config, epochs=epochs, init=None if init is None else str(init))
    cut_short = False
    with mock.patch.object(launch, "_load_dataset", lambda *_: dataset), step_mode("recorded", args.device):
        try:
            train_quietly(config, out, on_epoch=report_epoch)
        except TimeIsUp:
            cut_short = True
    return {"epochs": epochs, "passes_in_each": passes, "cut_short": cut_short}


def repeat_split(split: Split, passes: int) -> Split:
    """Repeat the images of a split, so that one epoch of the engine is several passes over them."""
    labels = None if split.labels is None else np.tile(split.labels, passes)
    return replace(split, images=np.tile(split.images[:], (passes, 1, 1, 1)), labels=labels)


def export_and_archive(run: Path, path: Path) -> list[str]:
    from cvae.exporters.onnx import export  # here, so that a missing package does not cost the training

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
