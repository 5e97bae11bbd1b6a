"""Comparison of runtimes for a decoder: size on disk, cold start, memory, latency of one image, images per second.

    python benchmarks/runtimes.py [--runtimes command torch] [--model RUN] [--rounds 5] [--smoke]

The output is the table in docs/deploy.md. A cold start lasts from the start of the process or page until an image of a
seven has been written or is visible. Images per second are measured with batches of 64. Each round measures all
runtimes once; the results are medians over the rounds. `command` is `cvae generate`, `torch` is the shortest script
that does the same with torch, and `import torch` only imports torch.

`cpp` needs a compiler and `--ort`, a folder with onnxruntime's `include` and `lib`; `node` needs npm; `browser` needs
Chromium, npm and `pip install playwright`; `http` needs uvicorn and FastAPI; `torch` needs the extra `train`. `webgpu`
is `browser` on a GPU, and measured only on request. --smoke measures `command` only.
"""

import argparse
import importlib.metadata
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from _runtimes import (
    Measurement,
    measure_browser,
    measure_command,
    measure_cpp,
    measure_help,
    measure_http,
    measure_node,
    measure_torch,
    measure_torch_import,
)
from _timing import add_smoke, format_range, parse_args, ratios, run_rounds

from cvae.model_zoo import DEFAULT, model
from cvae.run import DECODER


class Runtime(NamedTuple):
    """A runtime: its title in the table, a function that measures one round, and one that returns its size in MB."""

    title: str
    measure: Callable[[Path, Path], Measurement]
    size: Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["command", "help", "http", "cpp", "node", "browser", "torch", "import torch"]
    parser.add_argument("--runtimes", nargs="+", choices=[*names, "webgpu"], default=names, help="Runtimes to measure.")
    parser.add_argument(
        "--model", type=Path, default=model(DEFAULT), metavar="RUN", help="Run folder with an exported decoder."
    )
    command = Path(sys.executable).with_name("cvae")
    command_help = "Path of the `cvae` command to measure, such as one in an environment with only the base install."
    parser.add_argument("--command", type=Path, default=command, metavar="PATH", help=command_help)
    ort_help = "Folder with onnxruntime's include and lib, for cpp."
    parser.add_argument("--ort", type=Path, metavar="PATH", help=ort_help)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="Number of rounds.")
    add_smoke(parser)
    args = parse_args(parser, runtimes=["command"], rounds=1)
    if "cpp" in args.runtimes and args.ort is None:
        args.runtimes.remove("cpp")
    source = args.model.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runtimes = make_runtimes(source / DECODER, folder, args)
        sides = {name: partial(runtimes[name].measure, source, folder) for name in args.runtimes}
        run_rounds(1, **sides)  # a first round, which is not counted, fills the page cache
        results: dict[str, list[Measurement]] = run_rounds(args.rounds, **sides)
        print("| runtime | size | cold start | memory | one image | images per second |\n|---|---|---|---|---|---|")
        for name, rounds in results.items():
            print(format_row(runtimes[name], rounds))
        if {"command", "torch"} <= results.keys():
            cold_starts = ([round_.cold_start for round_ in results[side]] for side in ("command", "torch"))
            print(f"cold start, command / torch: {format_range(ratios(*cold_starts), 2)}")


def make_runtimes(decoder: Path, folder: Path, args: argparse.Namespace) -> dict[str, Runtime]:
    decoder_size = measure_size(decoder)
    return {
        "command": Runtime(
            "Python: `cvae`",
            partial(measure_command, cvae=args.command),
            lambda: decoder_size + measure_installed_size("cvae-onnx"),
        ),
        "help": Runtime(
            "`cvae --help`", partial(measure_help, cvae=args.command), lambda: measure_installed_size("cvae-onnx")
        ),
        "http": Runtime(
            "FastAPI", measure_http, lambda: decoder_size + measure_installed_size("cvae-onnx", "fastapi", "uvicorn")
        ),
        "cpp": Runtime(
            "C++",
            partial(measure_cpp, ort=args.ort),
            lambda: decoder_size + measure_size((args.ort / "lib").resolve()),
        ),
        "node": Runtime("Node", measure_node, lambda: decoder_size + measure_size(*list_node_files(folder))),
        "browser": Runtime("browser (Chromium, one thread)", measure_browser, lambda: measure_size(folder / "site")),
        "webgpu": Runtime(
            "browser (Chromium, WebGPU)",
            partial(measure_browser, webgpu=True),
            lambda: measure_size(folder / "webgpu"),
        ),
        "torch": Runtime(
            "torch, eager",
            measure_torch,
            lambda: decoder_size + measure_installed_size("torch", "safetensors", "pillow"),
        ),
        "import torch": Runtime("`import torch` alone", measure_torch_import, lambda: measure_installed_size("torch")),
    }


def format_row(runtime: Runtime, rounds: list[Measurement]) -> str:
    """Format the medians of a runtime's rounds as a row of a Markdown table."""
    cold_start, single, batch, memory = map(median, zip(*rounds, strict=True))
    cells = [runtime.title, f"{runtime.size():,.0f} MB", f"{cold_start:.2f} s"]
    cells += [f"{memory:.0f} MB" if memory else "", f"{single * 1000:.2f} ms" if single else ""]
    return "| " + " | ".join([*cells, f"{64 / batch:,.0f}" if batch else ""]) + " |"


def median(values: tuple[float | None, ...]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.median(numbers) if numbers else None


def measure_size(*paths: Path) -> float:
    """Return the total size, in megabytes, of files and folders."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e6


def measure_installed_size(*names: str) -> float:
    """Return the size, in megabytes, of installed distributions and all their dependencies."""
    sizes: dict[str, float] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in sizes:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # a dependency for a different system
            continue
        files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
        sizes[name] = measure_size(*(file for file in files if file.suffix != ".pyc"))
        queue += [parse_project_name(line) for line in distribution.requires or () if "extra ==" not in line]
    return sum(sizes.values())


def parse_project_name(requirement: str) -> str:
    """Return the project name in a requirement such as 'numpy>=1.2; python_version < "4"'."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def list_node_files(folder: Path) -> list[Path]:
    """Return the files of the Node example, with the onnxruntime binaries for Linux on x64 only."""
    (system,) = (folder / "node" / "node_modules" / "onnxruntime-node" / "bin").glob("*/linux/x64")
    return [folder / "node" / "cvae.js", folder / "node" / "generate.js", system]


if __name__ == "__main__":
    main()
