"""What the speed benchmarks share: a training run timed from within and from without, interleaved rounds, a table."""

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

    images_per_second: float  # the engine's own figure: the median over its epochs but the first
    by_outer_clock: float | None  # the same, by the moments at which the optimizer stepped, where they can be seen
    parameters: int
    config: Config  # as run: the precision that "auto" became is in it
    records: list[dict[str, Any]]  # metrics.jsonl


def train(asked: TrainConfig) -> Run:
    """Train through the real engine into a temporary folder. The first epoch is warm-up; at least 2 are needed."""
    moments: list[float] = []

    def stepped(*_: object) -> None:
        at_edge = len(moments) % steps in (0, steps - 1)
        if at_edge and torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()  # or it would be the moment at which the step was asked for
        moments.append(time.perf_counter())

    if asked.epochs is None or asked.limit is None:
        raise ValueError("say how many epochs and images")
    steps = max(1, asked.limit // asked.batch_size)
    hook = register_optimizer_step_post_hook(stepped)
    try:
        with TemporaryDirectory() as folder:
            out = cvae.train(asked, Path(folder) / "run", quiet=True)
            records = read_metrics(out)
            config = read_config(out)
    finally:
        hook.remove()
    speeds = [record["images_per_second"] for record in records if "images_per_second" in record][1:]
    outer = None
    if len(moments) == steps * asked.epochs and steps > 1:
        # From the end of an epoch's first step to the end of its last.
        spans = [moments[first + steps - 1] - moments[first] for first in range(steps, len(moments), steps)]
        outer = statistics.median((steps - 1) * asked.batch_size / span for span in spans)
    parameters = sum(parameter.numel() for parameter in build(config.model).parameters())
    return Run(statistics.median(speeds), outer, parameters, config, records)


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a module in a process of its own, so that no side inherits threads, caches or settings."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def interleaved(rounds: int, **sides: Callable[[], Any]) -> dict[str, list[Any]]:
    """Call each side once a round, A B A B ..., telling a terminal."""

    def tell(what: str) -> None:
        if sys.stderr.isatty():
            print(what.ljust(60), end="\r", file=sys.stderr, flush=True)

    results: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, measure in sides.items():
            tell(f"round {number}/{rounds}: {name}")
            results[name].append(measure())
    tell("")
    return results


def ratios(above: list[float], below: list[float]) -> list[float]:
    """The ratio of each round: the noise of a busy machine is largely common to both sides of one."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: list[float], digits: int = 0) -> str:
    """'median (least to most)'."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def machine() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text("utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def parser(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data-dir", help="where MNIST lies, or is downloaded to")
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--json", action="store_true", help="print JSON, every round's figure in it")
    return made


def data_root(data_dir: str | None) -> Path:
    """The folder that the engine reads, for peers that read it with torchvision."""
    return Path(data_dir or os.environ.get("CVAE_DATA_DIR") or "~/.cache/cvae").expanduser()


def report(as_json: bool, figures: dict[str, Any], table: list[tuple[str, ...]], notes: list[str]) -> None:
    """Print either the figures as JSON or a table, its first row the heads, and notes below."""
    if as_json:
        print(json.dumps({"machine": machine(), **figures}, indent=2))
        return
    print(machine())
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for note in notes:
        print(note)
