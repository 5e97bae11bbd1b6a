"""Training on a GPU: speed of the recorded step, reproducibility, bounds, and time to quality.

    python benchmarks/gpu.py --out FILE.json [--device cuda|cpu] [--data-dir DIR] [--minutes 5]
        [--only PART,...] [--network resnet|ladder] [--variant NAME] [--init RUN] [--smoke]

    capture     training speed in images/s at several batch sizes: launched kernel by kernel or recorded as a CUDA
                graph, in fp32 and bf16, compiled or not; for comparison, a plain loop over a DataLoader with 4 workers
    bytes       whether a run that is repeated, or is resumed within an epoch, has the same weights as the first run
    export      export of a run trained on the device, bounds in fp32 and bf16, images from the exported file
    quality     seconds that a complete process takes to reach 85 and 80 nats (K = 100, MNIST test images, dynamic
                binarization)
    likelihood  bounds of a run that fills --minutes: it is trained in stages, from random weights or from those of
                --init, and short trials choose its settings against overfitting; only with --only
    target      seconds that a complete process takes to reach 80 nats, training for as long as --minutes allows (at
                most 96 s); then those measurements that `bytes` makes last; only with --only

Each part runs in its own process with a time limit, and has a module in `_gpu`. The JSON is written after every
measurement. `--device cpu --smoke` runs all parts in about two minutes, to test this script.
"""

import argparse
import gzip
import importlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _gpu.report import Report, write_json

ROOT = Path(__file__).resolve().parents[1]

PARTS = ("capture", "bytes", "export", "quality", "likelihood", "target")

TIME_SHARES = {"capture": 0.36, "bytes": 0.18, "export": 0.16, "quality": 0.3}
"""Share of the total time for each part that runs by default."""

PACKAGES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "accelerate", "safetensors", "typer", "rich",
    "PIL", "numpy", "skimage", "sklearn", "matplotlib", "optuna", "psutil", "huggingface_hub",
)  # fmt: skip
"""Packages that cvae imports, by import name."""

Reading = tuple[float, float, float]
"""Utilization (%), memory (MiB) and power (W) of the GPU."""


def describe_environment(device: str) -> dict[str, Any]:
    """Return the versions of Python and the packages ("missing" if not installed), the number of cores, and the GPU."""
    versions = {}
    for name in PACKAGES:
        package = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}.get(name, name)
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "without metadata" if importlib.util.find_spec(name) else "missing"
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions,
        "gpu": query_gpu("name,driver_version,memory.total") if device == "cuda" else None,
    }


def query_gpu(fields: str) -> str | None:
    """Return fields that nvidia-smi reports, separated by commas, or None if it fails."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


@contextmanager
def watch_gpu(readings: list[Reading]) -> Iterator[None]:
    """Append a reading to `readings` twice a second while the context is open."""
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.5):
            text = query_gpu("utilization.gpu,memory.used,power.draw")
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


def unpack_data(folder: str | None, target: Path) -> str | None:
    """Return a folder that contains MNIST/raw. Gzipped files are first unpacked into `target`."""
    if folder is None:
        return None
    archives = [*Path(folder).rglob("*-ubyte.gz")]
    if any(Path(folder).glob("MNIST/raw/*-ubyte")) or not archives:
        return folder
    raw = target / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives:
        with gzip.open(archive) as source, (raw / archive.stem).open("wb") as file:
            shutil.copyfileobj(source, file)
    return str(target)


def run_part(name: str, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run a part in its own process, and return its measurements."""
    part_out = args.out.with_name(f"{name}-part-{args.out.name}")
    part_out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--child", name, "--out", str(part_out), "--device", args.device]
    command += ["--seconds", str(seconds), *(f"--{flag}" for flag in ("smoke", "compile") if getattr(args, flag))]
    command += ["--data-dir", args.data_dir] if args.data_dir else []
    command += ["--network", args.network]
    command += ["--init", str(args.init)] if args.init else []
    command += ["--variant", args.variant] if args.variant else []
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    readings: list[Reading] = []
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": python_path},
        start_new_session=True,  # so that the processes that it starts can be killed with it
    )
    with watch_gpu(readings) if args.device == "cuda" else nullcontext():
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
        utilization, memory, power = zip(*readings, strict=True)
        about["mean_utilization"] = round(sum(utilization) / len(utilization), 1)
        about["largest_utilization"], about["largest_memory_MiB"] = max(utilization), max(memory)
        about["largest_power_W"] = max(power)
    return {"about": about, **results}


def format_results(results: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each measurement."""
    for part, measurements in results.items():
        for name, result in measurements.items() if isinstance(measurements, dict) else ():
            if isinstance(result, dict):
                text = "  ".join(f"{k} {v:,.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
            else:
                text = str(result)
            if not name.endswith(("history", "profile")):
                yield f"{part:8} {name:36} {text[:110]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write. Archives are written next to it.")
    parser.add_argument("--data-dir", help="Folder that contains MNIST/raw. The files may be gzipped.")
    parser.add_argument("--minutes", type=float, default=5.0, help="Total time for all parts, in minutes.")
    parser.add_argument("--only", help="Parts to run, separated by commas.")
    parser.add_argument(
        "--network",
        choices=("resnet", "ladder"),
        default="resnet",
        help="Network for the part likelihood. With --init, it is that of the run.",
    )
    parser.add_argument(
        "--variant", help="Settings against overfitting for the part likelihood. By default, short trials choose them."
    )
    parser.add_argument("--init", type=Path, help="Run whose weights the part likelihood starts from.")
    parser.add_argument("--compile", action="store_true", help="Compile the network in the part likelihood.")
    parser.add_argument("--smoke", action="store_true", help="Use tiny networks and few images, to test this script.")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        report = Report(args.out, args.seconds)
        importlib.import_module(f"_gpu.{args.child}").measure(args, report)
        return
    args.out = args.out.resolve()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    names = args.only.split(",") if args.only else list(TIME_SHARES)
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; choose from {', '.join(PARTS)}")
    results: dict[str, Any] = {"environment": describe_environment(args.device)}
    print(json.dumps(results["environment"]), flush=True)
    with TemporaryDirectory() as folder:
        args.data_dir = unpack_data(args.data_dir, Path(folder))
        for i, name in enumerate(names):
            shares = [TIME_SHARES.get(other, 1.0) for other in names[i:]]
            seconds = (end - time.monotonic()) * shares[0] / sum(shares) - 3  # a part may exceed its time by up to 3 s
            if seconds < 10:
                results[name] = {"about": {"exit": f"skipped: {seconds:.0f} s left"}}
                continue
            print(f"{name} (up to {seconds:.0f} s)", flush=True)
            results[name] = run_part(name, args, seconds)
            write_json(args.out, results)
            print(f"{name}: {json.dumps(results[name]['about'])}", flush=True)
    write_json(args.out, results)
    print("\n".join(format_results(results)))


if __name__ == "__main__":
    main()
