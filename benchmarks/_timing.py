"""Helpers for the speed benchmarks: timed training runs, interleaved rounds, and reports."""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import cvae
from cvae.config import Config, TrainConfig
from cvae.models import build
from cvae.run import read_config, read_metrics


class Run(NamedTuple):
    """A finished training run."""

    images_per_second: float  # median over all epochs but the first, as the engine reports it
    clocked_images_per_second: float | None  # the same, timed after each optimizer step; None if steps were missed
    parameters: int
    config: Config  # resolved, with the chosen precision instead of "auto"
    records: list[dict[str, Any]]  # metrics.jsonl


def train(config: TrainConfig) -> Run:
    """Train with the engine in a temporary folder. The config needs at least two epochs; the first is a warm-up."""
    times: list[float] = []

    def record_time(*_: object) -> None:
        is_edge = len(times) % steps in (0, steps - 1)
        if is_edge and torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()  # otherwise the clock would only see the launch of the kernels
        times.append(time.perf_counter())

    if config.epochs is None or config.limit is None or config.batch_size is None:
        raise ValueError("the config must set epochs, limit and batch_size")
    steps = max(1, config.limit // config.batch_size)
    hook = register_optimizer_step_post_hook(record_time)
    try:
        with TemporaryDirectory() as folder:
            out = cvae.train(config, Path(folder) / "run", export=False, quiet=True).path
            records = read_metrics(out)
            run_config = read_config(out)
    finally:
        hook.remove()
    speeds = [record["images_per_second"] for record in records if "images_per_second" in record][1:]
    clocked = None
    if len(times) == steps * config.epochs and steps > 1:
        # Each span lasts from the end of an epoch's first step to the end of its last step.
        spans = [times[first + steps - 1] - times[first] for first in range(steps, len(times), steps)]
        clocked = statistics.median((steps - 1) * config.batch_size / span for span in spans)
    parameters = sum(parameter.numel() for parameter in build(run_config.model).parameters())
    return Run(statistics.median(speeds), clocked, parameters, run_config, records)


def run_in_subprocess(function: Callable[..., Any], *args: Any) -> Any:
    """Call a module-level function in a new process, which inherits no threads, caches or settings."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def run_rounds(rounds: int, **sides: Callable[[], Any]) -> dict[str, list[Any]]:
    """Call each function in `sides` once per round, in the order A B A B ..., and return its results by name."""

    def show(status: str) -> None:
        if sys.stderr.isatty():
            print(status.ljust(60), end="\r", file=sys.stderr, flush=True)

    results: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, measure in sides.items():
            show(f"round {number}/{rounds}: {name}")
            results[name].append(measure())
    show("")
    return results


def ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    """Return the ratio for each round. Within a round, the noise of a busy machine largely cancels out."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def format_range(values: list[float], digits: int = 0) -> str:
    """Format values as 'median (min to max)'."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def describe_machine() -> str:
    """Return the names of the CPU and the GPU, the number of threads, and the version of torch."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text("utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def make_parser(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets.")
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help="Number of rounds.")
    parser.add_argument("--json", action="store_true", help="Print JSON with the results of every round.")
    add_smoke(parser)
    return parser


def add_smoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smoke", action="store_true", help="Run a tiny version, to check that the benchmark works.")


def parse_args(parser: argparse.ArgumentParser, **smoke: Any) -> argparse.Namespace:
    """Parse the command line. With --smoke, the values in `smoke` override the other flags."""
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(smoke)
    return args


def data_root(data_dir: str | None) -> Path:
    """Return the folder where the engine keeps its data sets, so that other projects can read the same files."""
    return Path(data_dir or os.environ.get("CVAE_DATA_DIR") or "~/.cache/cvae").expanduser()


def report(as_json: bool, metrics: dict[str, Any], table: list[tuple[str, ...]], notes: list[str]) -> None:
    """Print either the metrics as JSON, or a table and notes. The first row of the table is its header."""
    if as_json:
        print(json.dumps({"machine": describe_machine(), **metrics}, indent=2))
        return
    print(describe_machine())
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for note in notes:
        print(note)
