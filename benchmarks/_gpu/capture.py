"""Speed of training steps, with and without a CUDA graph."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import training_speed

from _gpu.report import Report
from _gpu.training import recipe_config, step_mode
from cvae.config import TrainConfig
from cvae.data import load_dataset
from cvae.engine.processes import join_processes
from cvae.engine.resolve import configure
from cvae.engine.step import TrainingStep
from cvae.engine.trainer import Trainer


def measure(args: argparse.Namespace, report: Report) -> None:
    resnet_flow = recipe_config("mnist-resnet-flow-elbo", args)
    networks = {
        "mlp": recipe_config("pytorch-vae", args, binarize="dynamic", ema=0.999),
        "resnet-flow": resnet_flow,
        "resnet": replace(resnet_flow, prior="normal", options={**resnet_flow.options, "prior": {}}),
        "ladder": recipe_config("mnist-ladder-elbo", args, init=None),
        "mlp-flow": recipe_config("pytorch-vae", args, binarize="dynamic", ema=0.999, prior="flow", latent_dim=32),
    }
    seconds = 0.1 if args.smoke else 1.0
    for name, batch_size, plan in plans([*networks], smoke=args.smoke):
        compiled = plan.endswith("compiled")
        precision = next((word for word in plan.split() if word in ("bf16", "fp32")), "auto")
        config = replace(networks[name], batch_size=batch_size, precision=precision, compile=compiled, epochs=1000)
        label = f"{name} batch {batch_size} {plan}"
        if compiled and args.smoke:
            report.add(label, "skipped: compiling takes a minute on the CPU")
        elif plan == "profile":
            report.measure(label, profile_step, config, needs=8)
        elif plan == "plain loop":
            report.measure(label, measure_plain_loop, config, args, needs=15)
        else:
            report.measure(label, measure_speed, config, plan.split()[0], seconds, needs=45 if compiled else 4)
            if compiled:
                torch._dynamo.reset()


def plans(networks: list[str], *, smoke: bool) -> list[tuple[str, int, str]]:
    """Return the network, batch size and plan of each measurement, starting with the most important measurements."""
    small, large, largest = (32, 64, 128) if smoke else (128, 1024, 4096)
    plans = [(name, small, f"{mode} bf16") for name in networks for mode in ("recorded", "eager")]
    plans += [(name, large, "recorded bf16") for name in networks]
    plans += [("resnet-flow", small, "profile"), ("mlp", small, "profile"), ("resnet-flow", large, "profile")]
    plans += [("resnet-flow", small, "plain loop"), ("mlp", small, "plain loop")]
    plans += [("mlp", largest, "recorded bf16"), ("resnet-flow", largest, "recorded bf16")]
    plans += [(name, small, f"{mode} fp32") for name in ("resnet-flow", "mlp") for mode in ("recorded", "eager")]
    plans += [("resnet-flow", small, "recorded bf16 compiled"), ("resnet-flow", large, "recorded bf16 compiled")]
    plans += [("mlp", large, "recorded bf16 compiled"), ("resnet-flow", small, "eager bf16 compiled")]
    plans += [(name, large, "eager bf16") for name in networks]
    return plans


def measure_speed(config: TrainConfig, mode: str, seconds: float) -> dict[str, Any]:
    """Measure the speed of training steps alone, in images per second, and the peak memory of the device."""
    cuda = config.device == "cuda"
    with new_trainer(config, mode) as trainer:
        step = trainer.training_step
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        note = step.prepare(0)
        batches = endless_batches(step)
        for number, batch in islice(batches, 3):
            step(number, *batch)
        synchronize()
        preparation_seconds = time.monotonic() - started
        steps, started = 0, time.monotonic()
        for number, batch in batches:
            step(number, *batch)
            steps += 1
            if time.monotonic() - started > seconds:
                break
        launch_seconds = time.monotonic() - started  # the GPU may still be computing
        synchronize()
        elapsed = time.monotonic() - started
        mean_loss = step.sums[0].item() / max(1.0, step.sums[3].item())
    result = {
        "images_per_second": round(steps * trainer.batches.batch_size / elapsed),
        "ms_per_step": round(1000 * elapsed / steps, 3),
        "launch_ms_per_step": round(1000 * launch_seconds / steps, 3),
        "steps": steps,
        "preparation_seconds": round(preparation_seconds, 2),
        "mean_loss": round(mean_loss, 2),
        "step": f"{type(step).__name__}, {'graph' if getattr(step, 'graph', None) else 'launches'}",
    }
    if cuda:
        result["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return {**result, "note": note} if note else result


def profile_step(config: TrainConfig) -> dict[str, Any]:
    """Profile a recorded step, and list its kernels by duration, longest first."""
    steps = 5
    with new_trainer(config, "recorded") as trainer:
        step = trainer.training_step
        step.prepare(0)
        batches = endless_batches(step)
        for number, batch in islice(batches, 5):
            step(number, *batch)
        synchronize()
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CUDA if config.device == "cuda" else activity.CPU]) as trace:
            for number, batch in islice(batches, steps):
                step(number, *batch)
            synchronize()
    kernels = sorted(
        (
            (getattr(event, "self_device_time_total", 0) / steps, event.count / steps, event.key)
            for event in trace.key_averages()
        ),
        reverse=True,
    )
    return {
        "kernels_per_step": sum(calls for _, calls, _ in kernels),
        "microseconds_per_step": round(sum(duration for duration, *_ in kernels)),
        "longest": [f"{duration:.0f} us, {calls:.0f} times: {key[:90]}" for duration, calls, key in kernels[:25]],
    }


def measure_plain_loop(config: TrainConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a plain training loop that uses a DataLoader with 4 workers and reads the loss in every step.

    The loop has neither augmentation nor a moving average.
    """
    images = 512 if args.smoke else 12_800
    images_per_second, parameters = training_speed.train_in_plain_loop(config, images, epochs=1, use_example=False)
    return {"images_per_second": round(images_per_second), "parameters": parameters}


@contextmanager
def new_trainer(config: TrainConfig, mode: str) -> Iterator[Trainer]:
    """Yield a new trainer, before its first step."""
    with TemporaryDirectory() as folder, step_mode(mode, config.device):
        dataset = load_dataset(config)
        accelerator = join_processes(config)
        trainer = Trainer(configure(config, dataset), dataset, Path(folder) / "run", accelerator, quiet=True)
        trainer.training_step.model.train()
        yield trainer


def endless_batches(step: TrainingStep) -> Iterator[tuple[int, Any]]:
    """Yield the number and the batch of each step, epoch after epoch, without end."""
    number = 0
    for epoch in count():
        for batch in step.epoch_batches(epoch, 0):
            yield number, batch
            number += 1


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
