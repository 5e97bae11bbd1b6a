"""Export of a run that was trained on the device, and bounds of this run in several precisions."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the first import of onnxruntime

import onnxruntime

import cvae
from _gpu.bound import importance_weighted
from _gpu.report import Report
from _gpu.training import run_cvae, short_config, train_quietly
from cvae.config import Config
from cvae.data import load_dataset
from cvae.evaluation.bounds import bounds
from cvae.evaluation.run_scorer import RunScorer
from cvae.runtime.session import read_spec


def measure(args: argparse.Namespace, report: Report) -> None:
    count, samples = (32, 5) if args.smoke else (500, 50)
    report.add("onnxruntime", {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()})
    with TemporaryDirectory() as name:
        run = Path(name) / "run"
        report.measure("training", train_quietly, short_config(args), run)
        config = replace(Config.read(run / "config.json").training, data_dir=args.data_dir)
        split = load_dataset(config).test
        assert split is not None
        images = split.images[:count]
        report.measure("bounds cpu fp32", compute_bounds, run, images, samples, "cpu", "fp32", needs=10)
        for precision in ("fp32", "bf16"):
            label = f"bounds {args.device} {precision}"
            report.measure(label, compute_bounds, run, images, samples, args.device, precision, needs=5)
        report.measure("bounds of this script", importance_weighted, run, args, samples, images=count, needs=5)
        report.measure("export", measure_agreement, run, needs=10)
        report.measure("generate", generate_images, run, Path(name) / "digits.png", needs=5)


def compute_bounds(run: Path, images: np.ndarray, samples: int, device: str, precision: str) -> dict[str, Any]:
    """Return the single-sample and the importance-weighted bound that `cvae evaluate` computes."""
    result = bounds(RunScorer(run, device, precision), images, None, samples=samples)
    return {"nats": float(result.bound.mean()), "importance_weighted": float(result.importance_weighted.mean())}


def measure_agreement(run: Path) -> dict[str, Any]:
    """Export the run, and return the largest deviation of each file from torch, as recorded in the file."""
    from cvae.exporters.onnx import export  # here, so that only this measurement fails without the package

    return {path.name: read_spec(path)[0].agreement for path in export(run) if path.suffix == ".onnx"}


def generate_images(run: Path, out: Path) -> dict[str, Any]:
    """Generate images from the exported file, on the command line and in this process."""
    stderr = run_cvae("generate", str(run), "--out", str(out))
    images = cvae.load(str(run)).generate(64, seed=0)
    return {"stderr": stderr[-200:], "mean_pixel": float(np.mean(images)), "shape": list(images.shape)}
