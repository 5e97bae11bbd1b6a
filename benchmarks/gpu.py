"""Everything that only a GPU can show: speed of the recorded training step, equal bytes, bounds, time to quality.

    python benchmarks/gpu.py --out FILE.json [--device cuda|cpu] [--data-dir DIR] [--minutes 5]
        [--only PART,...] [--smoke]

    capture     images/s of training: launch by launch and recorded as a CUDA graph, fp32 and bf16, compiled or not, at
                two batch sizes, against a plain loop over a DataLoader with 4 workers
    bytes       whether the same command twice, and a run resumed in mid-epoch, give the same weights
    export      export after a training on the device, bounds in fp32 and bf16, images from the exported file
    quality     seconds of the whole process to 85 and 80 nats (K = 100, MNIST test, dynamic binarization)
    likelihood  the longest training that fits into --minutes, in three stages, with its bounds; only by --only

Each part runs in a process of its own with a time limit. The JSON is written after every measurement. --data-dir is a
folder that holds MNIST/raw, whose files may be gzipped. `--device cpu --smoke` runs all of it in about two minutes, to
test this script.
"""

import argparse
import gc
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "model_zoo" / "recipes"

SHARES = {"capture": 0.36, "bytes": 0.18, "export": 0.16, "quality": 0.3}
"""Of the time, for each part that runs by default."""

SAMPLES = 100
"""K of the bound that is the target of `quality`."""

QUALITY: dict[str, dict[str, Any]] = {
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
"""Settings on top of the recipe mnist-resnet-flow-elbo, tried in this order while time is left."""

NETWORK = {
    "arch": {"width": 32, "max_width": 96, "blocks": 2, "patch": 2, "smallest": 7},
    "prior": {"couplings": 16, "hidden": 192},
}
"""The network of `likelihood`: 1.55 M weights, an image takes 1.9 times as long to decode as by mnist-resnet-flow."""

STAGES: list[tuple[float, dict[str, Any]]] = [
    (0.35, {"batch_size": 256, "lr": 2e-3, "warmup": 200, "weight_decay": 0.03, "objective": "elbo"}),
    (0.25, {"batch_size": 256, "lr": 1e-3, "weight_decay": 0.05, "objective": "iwae", "samples": 5}),
    (0.40, {"batch_size": 128, "lr": 5e-4, "weight_decay": 0.1, "objective": "iwae", "samples": 20, "dreg": True}),
]
"""Shares of the training time, and what each stage is trained with."""

EPOCH_SECONDS = 6.0
"""About how long an epoch of `likelihood` takes: passes over the set are put together, so that saving costs little."""


class Report:
    """The measurements of one part, written to a file after each of them."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.end = path, time.monotonic() + seconds
        self.results: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds until the part should be done."""
        return self.end - time.monotonic()

    def measure(self, name: str, function: Callable[..., Any], *args: Any, needs: float = 0.0, **options: Any) -> Any:
        """Record what a function returns, or how it failed; skip it where fewer than `needs` seconds are left."""
        if self.left < needs:
            self.add(name, f"skipped: {self.left:.0f} s left, {needs:.0f} needed")
            return None
        started = time.monotonic()
        try:
            result = function(*args, **options)
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()
            self.add(name, {"error": f"{type(error).__name__}: {error}"[:500], "traceback": lines[-12:]})
            return None
        finally:
            release()
        if isinstance(result, dict):
            result = {**result, "took": round(time.monotonic() - started, 2)}
        self.add(name, result)
        return result

    def add(self, name: str, result: Any) -> None:
        self.results[name] = result
        write(self.path, self.results)
        latest = result[-1] if name.endswith("history") else result
        print(f"  {name}: {json.dumps(latest, default=str)[-300:]}", flush=True)


def write(path: Path, data: Any) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1, default=str), "utf-8")
    partial.replace(path)


def release() -> None:
    """Free the memory of what the last measurement left."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def recipe(name: str, args: argparse.Namespace, **changes: Any) -> Any:
    """A recipe of the zoo as a TrainConfig, with `changes`; the options among them are added to the recipe's."""
    from cvae.config import TrainConfig
    from cvae.recipes import read_recipe
    from cvae.serialization import from_dict

    values = read_recipe(RECIPES / f"{name}.toml")
    options = {**values.pop("options", {}), **changes.pop("options", {})}
    fixed = {"data_dir": args.data_dir, "device": args.device, "trackers": ["none"], "likelihood": "bernoulli"}
    fixed["compile"] = False
    if args.smoke:
        fixed |= {"limit": 512, "validation": 0.1}
        if values["arch"] == "resnet":
            options |= {"arch": {"width": 4, "max_width": 8, "patch": 4, "smallest": 7}}
            options |= {"prior": {"couplings": 2, "hidden": 8}} if values["prior"] == "flow" else {}
    return from_dict(TrainConfig, {**values, **fixed, **changes, "options": options})


@contextmanager
def way(name: str, device: str) -> Iterator[None]:
    """Take training steps "recorded" as a graph, by the same code "launched" without one, or in the "eager" way."""
    from cvae.engine import trainer
    from cvae.engine.step import RecordedStep

    with mock.patch.object(
        RecordedStep, "prepare", (lambda self, step: None) if name == "launched" else RecordedStep.prepare
    ):
        if name == "eager":
            with mock.patch.object(trainer, "can_record", lambda *_: False):
                yield
        elif device == "cpu":  # no graph there, but the rest of the way
            with mock.patch.object(trainer, "can_record", lambda *_: True):
                yield
        else:
            yield


def train_silently(config: Any, out: Path, **options: Any) -> Path:
    from cvae.engine import train

    return train(config, out, quiet=True, **options)


# -- capture ---------------------------------------------------------------------------------------------------------


@contextmanager
def training_step(config: Any, how: str) -> Iterator[tuple[Any, Any]]:
    """A trainer that has not begun, and its training step."""
    from cvae.data import load_dataset
    from cvae.engine import trainer
    from cvae.engine.processes import join_processes
    from cvae.engine.resolve import configure

    with TemporaryDirectory() as folder, way(how, config.device):
        dataset = load_dataset(config)
        accelerator = join_processes(config)
        run = trainer.Trainer(configure(config, dataset), dataset, Path(folder) / "run", accelerator, quiet=True)
        run.training_step.model.train()
        yield run, run.training_step


def numbered(step: Any) -> Iterator[tuple[int, Any]]:
    """The steps of a run without end: the number of each, and its batch."""
    number = 0
    for epoch in count():
        for batch in step.shuffled(epoch, 0):
            yield number, batch
            number += 1


def speed(config: Any, how: str, seconds: float) -> dict[str, Any]:
    """Images per second of training steps alone, and the device's memory."""
    import torch

    cuda = config.device == "cuda"
    with training_step(config, how) as (run, step):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        remark = step.prepare(0)
        batches = numbered(step)
        for number, batch in islice(batches, 3):
            step(number, *batch)
        synchronize()
        preparation = time.monotonic() - started
        done, started = 0, time.monotonic()
        for number, batch in batches:
            step(number, *batch)
            done += 1
            if time.monotonic() - started > seconds:
                break
        host = time.monotonic() - started
        synchronize()
        elapsed = time.monotonic() - started
        total = step.sums[0].item() / max(1.0, step.sums[3].item())
    result = {
        "images_per_second": round(done * run.batches.batch_size / elapsed),
        "ms_per_step": round(1000 * elapsed / done, 3),
        "host_ms_per_step": round(1000 * host / done, 3),
        "steps": done,
        "preparation_seconds": round(preparation, 2),
        "mean_loss": round(total, 2),
        "way": f"{type(step).__name__}, {'graph' if getattr(step, 'graph', None) else 'launches'}",
    }
    if cuda:
        result["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return {**result, "remark": remark} if remark else result


def capture(args: argparse.Namespace, report: Report) -> None:
    networks = {
        "mlp": recipe("pytorch-vae", args, binarize="dynamic", ema=0.999),
        "resnet-flow": recipe("mnist-resnet-flow-elbo", args),
        "resnet": without_prior(recipe("mnist-resnet-flow-elbo", args)),
        "ladder": recipe("mnist-ladder", args),
        "mlp-flow": recipe("pytorch-vae", args, binarize="dynamic", ema=0.999, prior="flow", latent_dim=32),
    }
    usual, large, larger = (32, 64, 128) if args.smoke else (128, 1024, 4096)
    seconds = 0.1 if args.smoke else 1.0
    plans = [(name, usual, f"{how} bf16") for name in networks for how in ("recorded", "eager")]
    plans += [(name, large, "recorded bf16") for name in networks]
    plans += [("resnet-flow", usual, "profile"), ("mlp", usual, "profile"), ("resnet-flow", large, "profile")]
    plans += [("resnet-flow", usual, "plain loop"), ("mlp", usual, "plain loop")]
    plans += [("mlp", larger, "recorded bf16"), ("resnet-flow", larger, "recorded bf16")]
    plans += [(name, usual, f"{how} fp32") for name in ("resnet-flow", "mlp") for how in ("recorded", "eager")]
    plans += [("resnet-flow", usual, "recorded bf16 compiled"), ("resnet-flow", large, "recorded bf16 compiled")]
    plans += [("mlp", large, "recorded bf16 compiled"), ("resnet-flow", usual, "eager bf16 compiled")]
    plans += [(name, large, "eager bf16") for name in networks]
    for name, batch, what in plans:
        compile = what.endswith("compiled")
        precision = next((word for word in what.split() if word in ("bf16", "fp32")), "auto")
        config = replace(networks[name], batch_size=batch, precision=precision, compile=compile, epochs=1000)
        label = f"{name} batch {batch} {what}"
        if compile and args.smoke:
            report.add(label, "skipped: on the CPU it takes a minute")
        elif what == "profile":
            report.measure(label, profile, config, needs=8)
        elif what == "plain loop":
            report.measure(label, plain_loop, config, args, needs=15)
        else:
            report.measure(label, speed, config, what.split()[0], seconds, needs=45 if compile else 4)
            if compile:
                import torch

                torch._dynamo.reset()


def profile(config: Any) -> dict[str, Any]:
    """The kernels of a recorded step and their time, the longest first."""
    import torch

    steps = 5
    with training_step(config, "recorded") as (_, step):
        step.prepare(0)
        batches = numbered(step)
        for number, batch in islice(batches, 5):
            step(number, *batch)
        synchronize()
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CUDA if config.device == "cuda" else activity.CPU]) as trace:
            for number, batch in islice(batches, steps):
                step(number, *batch)
            synchronize()
    events = trace.key_averages()
    timed = sorted(
        ((getattr(e, "self_device_time_total", 0) / steps, e.count / steps, e.key) for e in events), reverse=True
    )
    return {
        "kernels_in_a_step": sum(times for _, times, _ in timed),
        "microseconds_in_a_step": round(sum(duration for duration, *_ in timed)),
        "longest": [f"{duration:.0f} us, {times:.0f} times: {key[:90]}" for duration, times, key in timed[:25]],
    }


def without_prior(config: Any) -> Any:
    return replace(config, prior="normal", options={**config.options, "prior": {}})


def plain_loop(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The peer: a loop over a DataLoader with 4 workers, the loss read every step, without augmentation or average."""
    from training_speed import plain_loop

    rate, parameters = plain_loop(config, 512 if args.smoke else 12_800, 1, own_network=False)
    return {"images_per_second": round(rate), "parameters": parameters}


# -- bytes -----------------------------------------------------------------------------------------------------------


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def difference(a: Path, b: Path) -> float:
    """The largest absolute difference between the weights of two runs."""
    from safetensors.torch import load_file

    ours, theirs = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def short(args: argparse.Namespace, **changes: Any) -> Any:
    """A training of a few seconds."""
    size = {"limit": 512, "batch_size": 64} if args.smoke else {"limit": 12_800, "batch_size": 128}
    return recipe("mnist-resnet-flow-elbo", args, **{"epochs": 2, "ema": 0.99, "warmup": 20, **size, **changes})


def command(config: Any, out: Path) -> float:
    """Train by the command line in a process of its own; return its seconds."""
    path = out.with_name(out.name + ".toml")
    from cvae.tuning.search_space import to_recipe

    path.write_text(to_recipe(config), "utf-8")
    started = time.monotonic()
    line = [sys.executable, "-m", "cvae", "train", "--recipe", str(path), "--out", str(out)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])
    return time.monotonic() - started


def interrupted(config: Any, out: Path, at: int) -> Path:
    """Stop a run after step `at` as a signal does, and resume it."""
    from cvae.engine import resume
    from cvae.engine.trainer import Trainer
    from cvae.errors import Interrupted

    step = Trainer._train_step

    def stopping(self: Trainer, *batch: Any) -> None:
        step(self, *batch)
        if self.state.step == at:
            self.stop.signals.add(signal.SIGTERM)

    with mock.patch.object(Trainer, "_train_step", stopping):
        try:
            train_silently(config, out)
        except Interrupted:
            return resume(out, quiet=True)
    raise AssertionError("the run was not interrupted")


def bytes_(args: argparse.Namespace, report: Report) -> None:
    batch_norm = {"arch": {"width": 8, "patch": 2, "smallest": 7, "batch_norm": True}}
    configs = {
        "resnet-flow": short(args),
        "iwae": short(args, objective="iwae", options={"objective": {"samples": 5, "dreg": True}}),
        "mlp": replace(short(args), arch="mlp", options={}, latent_dim=20),
        "batch norm fp32": short(args, precision="fp32", options=batch_norm),
    }
    plans = ["recorded", "recorded again", "recorded resumed", "launched", "eager", "eager again", "eager resumed"]
    if args.device == "cuda":
        report.measure("random numbers", random_numbers)
    with TemporaryDirectory() as name:
        for network, config in configs.items():
            folder = Path(name) / network.replace(" ", "-")
            for plan in plans if network == "resnet-flow" else plans[:4]:
                report.measure(f"{network} {plan}", train_as, plan, config, args, folder, needs=4)
            if network == "resnet-flow" and args.device == "cuda":
                report.measure(f"{network} by the command line", train_apart, config, folder, needs=15)


def random_numbers() -> dict[str, Any]:
    """Whether a graph draws what the seed set before its replay draws without it."""
    import torch

    drawn, graph = torch.zeros(1000, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn.copy_(torch.randn(1000, device="cuda") + torch.rand(1000, device="cuda"))
    equal = []
    for seed in (1, 2, 2**62 + 3, 1):
        torch.cuda.manual_seed(seed)
        graph.replay()
        torch.cuda.manual_seed(seed)
        expected = torch.randn(1000, device="cuda") + torch.rand(1000, device="cuda")
        equal.append(torch.equal(drawn, expected))
    return {"equal": equal}


def train_as(plan: str, config: Any, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train in a way, perhaps interrupted, and compare the weights with those of the first run in this way."""
    how = plan.split()[0]
    out = folder / plan.replace(" ", "-")
    with way(how, args.device):
        if "resumed" in plan:
            interrupted(config, out, config.limit // config.batch_size + 7)
        else:
            train_silently(config, out)
    return {
        "sha256": digest(out)[:16],
        "same_as_first": digest(out) == digest(folder / how),
        "difference_from_first": difference(out, folder / how),
        "difference_from_recorded": difference(out, folder / "recorded"),
        "bound": last_bound(out),
    }


def train_apart(config: Any, folder: Path) -> dict[str, Any]:
    out = folder / "command-line"
    seconds = command(config, out)
    return {"same_as_in_process": digest(out) == digest(folder / "recorded"), "seconds": round(seconds, 1)}


def last_bound(run: Path) -> float:
    return json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])["test"]["bound"]


# -- bounds ----------------------------------------------------------------------------------------------------------


def importance_weighted(
    run: Path, args: argparse.Namespace, samples: int, *, images: int | None = None, seconds: float = 1e9
) -> dict[str, Any]:
    """The importance-weighted bound of a run on test images in fp32, and the single-sample one.

    As `cvae evaluate` (Burda et al. 2015, eq. 8), with the noise drawn on the device.
    """
    import math

    import torch

    from cvae.config import Config
    from cvae.data import load_dataset
    from cvae.engine import load_model

    torch.backends.cudnn.allow_tf32 = False
    model, _ = load_model(run)
    model = model.to(args.device)
    config = replace(Config.read(run / "config.json").training, data_dir=args.data_dir, limit=None)
    split = load_dataset(config).test
    assert split is not None
    pixels = torch.from_numpy(split.images[:images])
    together = 8 if args.smoke else 100
    portion = min(samples, 100)
    torch.manual_seed(0)
    bounds, weighted = [], []
    started = time.monotonic()
    with torch.inference_mode():
        for start in range(0, len(pixels), together):
            image = pixels[start : start + together].to(args.device).float() / 255
            features = model.encoder(image, None)
            parts, singles = [], []
            for _ in range(0, samples, portion):
                noise = torch.randn(len(image) * portion, model.latent_dim, device=args.device)
                terms = model.terms(image, None, features, noise)
                parts.append((-terms.distortion.double() - terms.log_ratio.double()).view(len(image), portion))
                singles.append((terms.distortion.double() + terms.rate.double().sum(1)).view(len(image), portion))
            weighted.append(math.log(samples) - torch.cat(parts, 1).logsumexp(1))
            bounds.append(torch.cat(singles, 1).mean(1))
            if time.monotonic() - started > seconds:
                break
    every = torch.cat(weighted)
    torch.backends.cudnn.allow_tf32 = True
    return {
        "samples": samples,
        "nats": every.mean().item(),
        "standard_error": every.std().item() / math.sqrt(len(every)),
        "single_sample": torch.cat(bounds).mean().item(),
        "images": len(every),
        "seconds": round(time.monotonic() - started, 1),
    }


def export(args: argparse.Namespace, report: Report) -> None:
    import numpy as np
    import onnxruntime

    import cvae
    from cvae.config import Config
    from cvae.data import load_dataset
    from cvae.evaluation.bounds import bounds
    from cvae.evaluation.run_scorer import RunScorer

    few, samples = (32, 5) if args.smoke else (500, 50)
    report.add("onnxruntime", {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()})
    with TemporaryDirectory() as name:
        run = Path(name) / "run"
        report.measure("training", train_silently, short(args), run)
        config = replace(Config.read(run / "config.json").training, data_dir=args.data_dir)
        split = load_dataset(config).test
        assert split is not None
        images = split.images[:few]

        def bound(device: str, precision: str) -> dict[str, Any]:
            found = bounds(RunScorer(run, device, precision), images, None, samples=samples)
            return {"nats": float(found.bound.mean()), "importance_weighted": float(found.importance_weighted.mean())}

        report.measure("bounds cpu fp32", bound, "cpu", "fp32", needs=10)
        for precision in ("fp32", "bf16"):
            report.measure(f"bounds {args.device} {precision}", bound, args.device, precision, needs=5)
        report.measure("bounds of this script", importance_weighted, run, args, samples, images=few, needs=5)

        def parity() -> dict[str, Any]:
            from cvae.exporters.onnx import export
            from cvae.runtime.session import read_spec

            files = export(run)
            onnx = [path for path in files if path.suffix == ".onnx"]
            return {path.name: read_spec(path)[0].agreement for path in onnx}

        report.measure("export", parity, needs=10)

        def generated() -> dict[str, Any]:
            line = [sys.executable, "-m", "cvae", "generate", str(run), "--out", str(Path(name) / "digits.png")]
            done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                raise RuntimeError(done.stderr[-800:])
            images = cvae.load(str(run)).generate(64, seed=0)
            return {"said": done.stderr[-200:], "mean_pixel": float(np.mean(images)), "shape": list(images.shape)}

        report.measure("generate", generated, needs=5)


# -- time to quality -------------------------------------------------------------------------------------------------


START = """
import time
at = [time.perf_counter()]
def tell(what):
    at.append(time.perf_counter()); print(f"{what} {at[-1] - at[-2]:.2f}")
import torch; tell("torch")
torch.zeros(1, device=DEVICE); tell("device")
import cvae.cli.train, cvae.engine; tell("engine")
torch.nn.Conv2d(1, 8, 3).to(DEVICE)(torch.zeros(1, 1, 9, 9, device=DEVICE)).sum().item(); tell("first convolution")
"""


def start(device: str) -> dict[str, Any]:
    """Seconds of the parts of a process's start."""
    line = [sys.executable, "-c", START.replace("DEVICE", repr(device))]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    return {"parts": done.stdout.split("\n"), "error": done.stderr[-300:]}


def quality(args: argparse.Namespace, report: Report) -> None:
    report.measure("start", start, args.device)
    with TemporaryDirectory() as name:
        for label, setting in QUALITY.items():
            changes = dict(setting)
            target = changes.pop("target")
            if args.smoke:
                changes |= {"epochs": 1, "batch_size": 64}
            config = recipe("mnist-resnet-flow-elbo", args, **changes)
            out = Path(name) / label.replace(" ", "-").replace(",", "")
            needs = 0 if args.smoke else 65 if target == 80 else 30
            report.measure(label, train_to, target, config, args, out, needs=needs)


def train_to(target: float, config: Any, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The seconds of a whole process of `cvae train`, and the bound of what it leaves, scored outside the clock."""
    seconds = command(config, out)
    bound = importance_weighted(out, args, 10, images=32) if args.smoke else importance_weighted(out, args, SAMPLES)
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()][:-1]
    return {
        "process_seconds": round(seconds, 2),
        "training_seconds": round(sum(record["seconds"] for record in epochs), 2),
        "images_per_second": [record["images_per_second"] for record in epochs][-1],
        "nats": bound["nats"],
        "single_sample": bound["single_sample"],
        "target": target,
        "met": bound["nats"] <= target,
    }


# -- likelihood ------------------------------------------------------------------------------------------------------


class TimeIsUp(Exception):
    """A stage has used its time; the weights of its best epoch are saved."""


def likelihood(args: argparse.Namespace, report: Report) -> None:
    work = args.out.parent / ".likelihood"
    shutil.rmtree(work, ignore_errors=True)
    after = 10.0 if args.smoke else 25.0 + 0.12 * report.left  # for the bounds and the export
    end_of_training = time.monotonic() + report.left - after
    report.add("plan", {"seconds": round(report.left), "after": round(after), "network": NETWORK})
    run: Path | None = None
    for number, (share, _) in enumerate(STAGES):
        seconds = (end_of_training - time.monotonic()) * share / sum(share for share, _ in STAGES[number:])
        out = work / f"stage-{number + 1}"
        report.measure(f"stage {number + 1}", stage, number, seconds, args, report, out, run)
        if not (out / "model.safetensors").exists():
            break  # the ones before are kept
        run = out
        keep(run, args.out.parent / "likelihood.tar.gz", ("config.json", "model.safetensors", "metrics.jsonl"))
        few = 32 if args.smoke else 1000
        report.measure(f"stage {number + 1} bound", importance_weighted, run, args, SAMPLES, images=few, seconds=5)
    if run is None:
        return
    for samples in (SAMPLES, 10 * SAMPLES):
        report.measure(
            f"bound K={samples}", importance_weighted, run, args, samples,
            images=32 if args.smoke else None, seconds=0.6 * max(report.left, 5.0),
        )  # fmt: skip

    def exported() -> list[str]:
        from cvae.exporters.onnx import export

        names = tuple(path.name for path in export(run))
        keep(run, args.out.parent / "likelihood-onnx.tar.gz", names)
        return list(names)

    report.measure("export", exported, needs=0 if args.smoke else 35)
    shutil.rmtree(work, ignore_errors=True)


def stage(
    number: int, seconds: float, args: argparse.Namespace, report: Report, out: Path, init: Path | None
) -> dict[str, Any]:
    """Train for about so many seconds, from the weights of the stage before; the speed is measured first."""
    from cvae.data import load_dataset
    from cvae.engine import launch

    end = time.monotonic() + seconds
    changes = dict(STAGES[number][1])
    objective = {name: changes.pop(name) for name in ("samples", "dreg") if name in changes}
    if args.smoke:
        changes["batch_size"] = 64
    network = {} if args.smoke else NETWORK
    config = recipe(
        "mnist-resnet-flow-elbo", args, **changes, compile=args.compile, options={**network, "objective": objective}
    )
    probe = speed(replace(config, epochs=1000), "recorded", 0.2 if args.smoke else 1.5)
    report.add(f"stage {number + 1} speed", probe)
    release()
    dataset = load_dataset(config)
    passes_left = 0.9 * (end - time.monotonic()) * probe["images_per_second"] / len(dataset.train)
    passes = max(1, round(min(EPOCH_SECONDS * probe["images_per_second"] / len(dataset.train), passes_left / 4)))
    epochs = max(1, int(passes_left / passes))
    if args.smoke:
        passes, epochs = 2, 2
    history: list[dict[str, Any]] = []

    def follow(record: dict[str, Any]) -> None:
        validation = record["validation"]
        rounded = {name: round(value, 3) for name, value in validation.items()}
        history.append({"epoch": record["epoch"], "loss": round(record["train"]["loss"], 3), **rounded})
        report.add(f"stage {number + 1} history", history)
        if time.monotonic() > end + 8 and record["epoch"] < epochs:
            raise TimeIsUp

    repeated = replace(dataset, train=repeat_split(dataset.train, passes))
    cut = False
    with mock.patch.object(launch, "_load_dataset", lambda *_: repeated), way("recorded", args.device):
        try:
            config = replace(config, epochs=epochs, init=None if init is None else str(init))
            train_silently(config, out, on_epoch=follow)
        except TimeIsUp:
            cut = True
    return {"epochs": epochs, "passes_in_each": passes, "cut_short": cut}


def repeat_split(split: Any, passes: int) -> Any:
    """The split `passes` times over, so that an epoch of the engine is so many."""
    import numpy as np

    labels = None if split.labels is None else np.tile(split.labels, passes)
    return replace(split, images=np.tile(split.images, (passes, 1, 1, 1)), labels=labels)


def keep(run: Path, archive: Path, names: tuple[str, ...]) -> None:
    """Put files of a run into an archive."""
    partial = archive.with_name(archive.name + ".partial")
    with tarfile.open(partial, "w:gz") as tar:
        for name in names:
            if (run / name).exists():
                tar.add(run / name, name)
    partial.replace(archive)


# -- the parts, one process each -------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[argparse.Namespace, Report], None]] = {
    "capture": capture,
    "bytes": bytes_,
    "export": export,
    "quality": quality,
    "likelihood": likelihood,
}


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Versions, the device, and which of the packages that cvae imports are missing."""
    import importlib.util
    import platform
    from importlib import metadata

    wanted = (
        "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "accelerate", "safetensors", "typer", "rich",
        "PIL", "numpy", "skimage", "sklearn", "matplotlib", "optuna", "psutil", "huggingface_hub",
    )  # fmt: skip
    versions = {}
    for name in wanted:
        package = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}.get(name, name)
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "without metadata" if importlib.util.find_spec(name) else "missing"
    query = "name,driver_version,memory.total"
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions,
        "gpu": smi(query) if args.device == "cuda" else None,
    }


def smi(query: str) -> str | None:
    line = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


@contextmanager
def watch_device(readings: list[tuple[float, float, float]]) -> Iterator[None]:
    """Read utilization (%), memory (MiB) and power (W) twice a second."""
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.5):
            text = smi("utilization.gpu,memory.used,power.draw")
            try:
                utilization, memory, power = (float(number) for number in (text or "").splitlines()[0].split(","))
            except (ValueError, IndexError):
                continue
            readings.append((utilization, memory, power))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5)


def find_data(folder: str | None, unpacked: Path) -> str | None:
    """Return a folder that holds MNIST/raw; where its files are gzipped they are unpacked first."""
    if folder is None:
        return None
    archives = [*Path(folder).rglob("*-ubyte.gz")]
    if any(Path(folder).glob("MNIST/raw/*-ubyte")) or not archives:
        return folder
    raw = unpacked / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives:
        with gzip.open(archive) as packed, (raw / archive.stem).open("wb") as file:
            shutil.copyfileobj(packed, file)
    return str(unpacked)


def run_part(name: str, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run a part in a process of its own, and return what it measured."""
    part_out = args.out.with_name(f".{name}-{args.out.name}")
    part_out.unlink(missing_ok=True)
    line = [sys.executable, __file__, "--child", name, "--out", str(part_out), "--device", args.device]
    line += ["--seconds", str(seconds), *(f"--{name}" for name in ("smoke", "compile") if getattr(args, name))]
    line += ["--data-dir", args.data_dir] if args.data_dir else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    readings: list[tuple[float, float, float]] = []
    started = time.monotonic()
    process = subprocess.Popen(line, env=environment, start_new_session=True)  # a group, so that its children end too
    with watch_device(readings) if args.device == "cuda" else mock.MagicMock():
        try:
            code: int | str = process.wait(seconds + 20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = "stopped at its time limit"
    results = json.loads(part_out.read_text("utf-8")) if part_out.exists() else {}
    part_out.unlink(missing_ok=True)
    about: dict[str, Any] = {"exit": code, "seconds": round(time.monotonic() - started, 1)}
    if readings:
        columns = list(zip(*readings, strict=True))
        about["mean_utilization"] = round(sum(columns[0]) / len(columns[0]), 1)
        about["largest_utilization"], about["largest_memory_MiB"] = max(columns[0]), max(columns[1])
        about["largest_power_W"] = max(columns[2])
    return {"about": about, **results}


def table(results: dict[str, Any]) -> Iterator[str]:
    for part, measurements in results.items():
        for name, result in measurements.items() if isinstance(measurements, dict) else ():
            if isinstance(result, dict):
                shown = "  ".join(f"{k} {v:,.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
            else:
                shown = str(result)
            if not name.endswith(("history", "profile")):
                yield f"{part:8} {name:36} {shown[:110]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; archives are written beside it")
    parser.add_argument("--data-dir", help="folder that holds MNIST/raw, gzipped or not")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all parts together")
    parser.add_argument("--only", help="parts, separated by commas")
    parser.add_argument("--compile", action="store_true", help="compile the network of likelihood")
    parser.add_argument("--smoke", action="store_true", help="tiny networks and few images, to test this script")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        PARTS[args.child](args, Report(args.out, args.seconds))
        return
    args.out = args.out.resolve()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    names = args.only.split(",") if args.only else list(SHARES)
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; choose from {', '.join(PARTS)}")
    results: dict[str, Any] = {"environment": environment(args)}
    print(json.dumps(results["environment"]), flush=True)
    with TemporaryDirectory() as unpacked:
        args.data_dir = find_data(args.data_dir, Path(unpacked))
        for i, name in enumerate(names):
            shares = [SHARES.get(other, 1.0) for other in names[i:]]
            seconds = (end - time.monotonic()) * shares[0] / sum(shares) - 3  # what it may be late by
            if seconds < 10:
                results[name] = {"about": {"exit": f"skipped: {seconds:.0f} s left"}}
                continue
            print(f"{name} (up to {seconds:.0f} s)", flush=True)
            results[name] = run_part(name, args, seconds)
            write(args.out, results)
            print(f"{name}: {json.dumps(results[name]['about'])}", flush=True)
    write(args.out, results)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
