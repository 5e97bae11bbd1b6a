"""A decoder in each host: size on disk, cold start, latency of one image, images a second in batches of 64.

    python benchmarks/hosts.py [--hosts python torch] [--model RUN] [--rounds 5]

Prints the rows of the table in docs/deploy.md. Cold start is from the process's or the page's begin to the picture
of a seven in a file, or in sight. Each round goes through all hosts; figures are medians. `command` is `cvae generate`,
`torch` the shortest script that does the same with torch, also without anything else that cvae imports.

`cpp` needs a compiler and `--ort`, a folder with onnxruntime's `include` and `lib`; `node` npm; `browser` Chromium, npm
and `pip install playwright`; `http` uvicorn and FastAPI; `torch` the extra `train`.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from _timing import interleaved, ratios, spread

from cvae.exporters.web import export
from cvae.model_zoo import DEFAULT, model
from cvae.run import DECODER
from cvae.runtime.session import read_spec

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 30
"""Calls in a process that is warm, of which the median counts."""


class Found(NamedTuple):
    """One round in one host: seconds, and megabytes where they were seen."""

    cold: float
    one: float | None = None
    many: float | None = None  # a batch of 64
    resident: float | None = None


# -- Python ------------------------------------------------------------------------------------------------------------

TIMED = f"""
import statistics, sys, time
def timed(decode):
    times = []
    for _ in range({REPEATS}):
        began = time.perf_counter()
        decode()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
"""

PYTHON = """
model = cvae.load(sys.argv[1])
for n in 1, 64:
    noise = model.noise(n, seed=0)
    print(timed(lambda: model.decode(noise, 7)))
"""

TORCH_COLD = """
import sys, torch, cvae
from PIL import Image
with torch.inference_mode():
    model, _ = cvae.load_model(sys.argv[1])
    image = model.eval().decode(torch.randn(1, model.latent_dim), torch.tensor([7]))
Image.fromarray((image[0, 0] * 255).round().byte().numpy()).save(sys.argv[2])
"""

TORCH = """
import torch
model = cvae.load_model(sys.argv[1])[0].eval()
for n in 1, 64:
    noise, label = torch.randn(n, model.latent_dim), torch.full((n,), 7)
    with torch.inference_mode():
        print(timed(lambda: model.decode(noise, label)))
"""


LAUNCHED = """
import os, sys, time
began = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - began, usage.ru_maxrss / 1e3)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def spent(*command: object) -> Found:
    """Run a command to its end: seconds, and the most megabytes that it had resident.

    A small process starts it: a child's figure begins with the size of the one that it was forked from.
    """
    program = shutil.which(str(command[0])) or str(command[0])
    words = [sys.executable, "-I", "-S", "-c", LAUNCHED, program, *map(str, command[1:])]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program} failed: {done.stderr}")
    seconds, megabytes = map(float, done.stdout.split())
    return Found(seconds, resident=megabytes)


def warm(program: str, source: Path) -> list[float]:
    command = [sys.executable, "-c", TIMED + "import cvae\n" + program, str(source)]
    return [float(line) for line in subprocess.check_output(command, text=True).split()]


def by_command(source: Path, folder: Path, cvae: Path) -> Found:
    found = spent(cvae, "generate", source, "--label", 7, "--out", folder / "seven.png")
    return found._replace(**dict(zip(("one", "many"), warm(PYTHON, source), strict=True)))


def by_help(source: Path, folder: Path, cvae: Path) -> Found:
    return spent(cvae, "--help")


def by_torch(source: Path, folder: Path) -> Found:
    cold = spent(sys.executable, "-c", TORCH_COLD, source, folder / "seven.png")
    return cold._replace(**dict(zip(("one", "many"), warm(TORCH, source), strict=True)))


def by_torch_alone(source: Path, folder: Path) -> Found:
    """What no script that uses torch can do without."""
    return spent(sys.executable, "-c", "import torch; torch.nn.Linear(1, 1)(torch.zeros(1, 1))")


def installed(*names: str) -> float:
    """Megabytes of distributions and of all that they need, as installed here."""
    sizes: dict[str, float] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another system, or an extra's
            continue
        files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
        sizes[name] = size(*(file for file in files if file.suffix != ".pyc"))
        needed = [line for line in distribution.requires or () if "extra ==" not in line]
        waiting += [line.replace("(", " ").split()[0].rstrip(";").split("[")[0] for line in map(bare, needed)]
    return sum(sizes.values())


def bare(requirement: str) -> str:
    """'numpy>=1.2; python_version ...' -> 'numpy'."""
    for mark in "<>=!~;":
        requirement = requirement.partition(mark)[0]
    return requirement


# -- HTTP --------------------------------------------------------------------------------------------------------------


def by_http(source: Path, folder: Path) -> Found:
    """examples/fastapi: cold from its start to the first picture; then pictures of one and of 64 images."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "CVAE_MODEL": str(source)}
    words = ["-m", "uvicorn", "--app-dir", ROOT / "examples" / "fastapi", "app:app", "--port", port]
    began = time.perf_counter()
    server = subprocess.Popen([sys.executable, *map(str, words), "--log-level", "error"], env=environment)
    try:

        def ask(n: int) -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/images.png?label=7&n={n}") as answer:
                answer.read()

        while True:
            try:
                ask(1)
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("the server ended; pip install fastapi uvicorn") from None
                time.sleep(0.005)
        cold = time.perf_counter() - began
        return Found(cold, *(median_of(partial(ask, n)) for n in (1, 64)))
    finally:
        server.terminate()
        server.wait()


def median_of(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


# -- C++ ---------------------------------------------------------------------------------------------------------------

# Programs in C++ and Node inherit ORT_DISABLE_TELEMETRY, which importing cvae has set here.
CPP = r"""
#include <onnxruntime_cxx_api.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <vector>
int main(int, char** argv) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "measure");
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const int64_t latent = std::stoll(argv[2]);
  const bool labelled = session.GetInputCount() > 1;
  const char* names[] = {"noise", "label"};
  const char* output = "image";
  for (int64_t n : {1, 64}) {
    std::vector<float> noise(n * latent, 0.1f);
    std::vector<int64_t> label(n, 7);
    std::array<int64_t, 2> noise_shape = {n, latent};
    std::vector<Ort::Value> inputs;
    inputs.push_back(Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), noise_shape.data(), 2));
    if (labelled) inputs.push_back(Ort::Value::CreateTensor<int64_t>(memory, label.data(), n, &n, 1));
    std::vector<double> times;
    for (int i = 0; i < 30; ++i) {
      auto began = std::chrono::steady_clock::now();
      session.Run(Ort::RunOptions{}, names, inputs.data(), inputs.size(), &output, 1);
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    }
    std::sort(times.begin(), times.end());
    std::printf("%g\n", times[15]);
  }
}
"""


def compiled(source: Path, program: Path, ort: Path) -> Path:
    if not program.exists():
        links = [f"-I{ort}/include", f"-L{ort}/lib", "-lonnxruntime", f"-Wl,-rpath,{ort}/lib"]
        subprocess.run(["g++", "-std=c++17", "-O2", source, *links, "-o", program], check=True)
    return program


def by_cpp(source: Path, folder: Path, ort: Path) -> Found:
    """examples/cpp, and a loop of its call."""
    decoder = source / DECODER
    generate = compiled(ROOT / "examples" / "cpp" / "generate.cpp", folder / "generate", ort)
    (folder / "measure.cpp").write_text(CPP)
    measure = compiled(folder / "measure.cpp", folder / "measure", ort)
    latent = read_spec(decoder)[0].latent_dim
    cold = spent(generate, decoder, folder / "seven.pgm", "--label", 7, "--seed", 1)
    one, many = map(float, subprocess.check_output([measure, decoder, str(latent)], text=True).split())
    return cold._replace(one=one, many=many)


# -- JavaScript --------------------------------------------------------------------------------------------------------

MEASURE = """async (model) => {
    const { latent_dim, classes } = model.spec;
    const result = [];
    for (const count of [1, 64]) {
        const times = [];
        for (let i = 0; i < 30; i++) {
            const began = performance.now();
            await model.decode(new Float32Array(count * latent_dim).fill(0.1), Array(classes ? count : 0).fill(0));
            times.push((performance.now() - began) / 1000);
        }
        result.push(times.sort((a, b) => a - b)[15]);
    }
    return result;
}"""

NODE = f"""
const {{ readFile }} = await import("node:fs/promises");
const ort = await import("onnxruntime-node");
const {{ load }} = await import("./cvae.js");
const model = await load(ort, await readFile(process.argv[2]));
console.log(JSON.stringify(await ({MEASURE})(model)));
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def size(*paths: Path) -> float:
    """Megabytes of files and folders."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e6


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def by_browser(source: Path, folder: Path) -> Found:
    from playwright.sync_api import sync_playwright

    with served(site(source, folder)) as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page()
        page.goto(address)
        page.wait_for_selector("body.ready", timeout=60_000)
        cold = page.evaluate("performance.getEntriesByName('first image')[0].startTime / 1000")
        page.wait_for_timeout(500)
        rest = page.evaluate(f"import('./app.js').then(({{ model }}) => ({MEASURE})(model))")
        chromium.close()
    return Found(cold, *rest)


def site(source: Path, folder: Path) -> Path:
    if not (folder / "site").exists():
        export(source, out=folder / "site")
    return folder / "site"


def example(folder: Path) -> Path:
    """examples/node with its package installed."""
    copy = folder / "node"
    if not copy.exists():
        shutil.copytree(ROOT / "examples" / "node", copy, ignore=shutil.ignore_patterns("node_modules"))
        subprocess.run("npm install --silent", shell=True, cwd=copy, check=True)
        (copy / "measure.js").write_text(NODE)
    return copy


def by_node(source: Path, folder: Path) -> Found:
    node, decoder = example(folder), source / DECODER
    cold = spent("node", node / "generate.js", decoder, "--label", 7, "--out", folder / "seven.png")
    one, many = json.loads(subprocess.check_output(["node", "measure.js", decoder], cwd=node, text=True))
    return cold._replace(one=one, many=many)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["command", "help", "http", "cpp", "node", "browser", "torch", "import torch"]
    parser.add_argument("--hosts", nargs="+", choices=names, default=names)
    parser.add_argument("--model", type=Path, default=model(DEFAULT), help="a run folder that was exported")
    beside = Path(sys.executable).with_name("cvae")
    parser.add_argument("--command", type=Path, default=beside, help="cvae to run, as that of a base install")
    parser.add_argument("--ort", type=Path, help="onnxruntime's include and lib, for cpp")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if "cpp" in args.hosts and args.ort is None:
        args.hosts.remove("cpp")
    source = args.model.resolve()
    decoder = size(source / DECODER)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        hosts: dict[str, tuple[str, Callable[[Path, Path], Found], Callable[[], float]]] = {
            "command": (
                "Python: `cvae`",
                partial(by_command, cvae=args.command),
                lambda: decoder + installed("cvae-onnx"),
            ),
            "help": ("`cvae --help`", partial(by_help, cvae=args.command), lambda: installed("cvae-onnx")),
            "http": ("FastAPI", by_http, lambda: decoder + installed("cvae-onnx", "fastapi", "uvicorn")),
            "cpp": ("C++", partial(by_cpp, ort=args.ort), lambda: decoder + size((args.ort / "lib").resolve())),
            "node": ("Node", by_node, lambda: decoder + size(*node_files(folder))),
            "browser": ("browser (Chromium, one thread)", by_browser, lambda: size(folder / "site")),
            "torch": ("torch, eager", by_torch, lambda: decoder + installed("torch", "safetensors", "pillow")),
            "import torch": ("`import torch` alone", by_torch_alone, lambda: installed("torch")),
        }
        sides = {name: partial(hosts[name][1], source, folder) for name in args.hosts}
        interleaved(1, **sides)  # fills the disk's cache
        found: dict[str, list[Found]] = interleaved(args.rounds, **sides)
        print("| host | size | cold start | memory | one image | images a second |\n|---|---|---|---|---|---|")
        for name, rounds in found.items():
            cold, one, many, resident = map(median, zip(*rounds, strict=True))
            cells = [hosts[name][0], f"{hosts[name][2]():,.0f} MB", f"{cold:.2f} s"]
            cells += [f"{resident:.0f} MB" if resident else "", f"{one * 1000:.2f} ms" if one else ""]
            print("| " + " | ".join([*cells, f"{64 / many:,.0f}" if many else ""]) + " |")
        if {"command", "torch"} <= found.keys():
            cold_starts = ([each.cold for each in found[side]] for side in ("command", "torch"))
            print(f"cold start, command / torch: {spread(ratios(*cold_starts), 2)}")


def median(values: tuple[float | None, ...]) -> float | None:
    seen = [value for value in values if value is not None]
    return statistics.median(seen) if seen else None


def node_files(folder: Path) -> list[Path]:
    """The example, and onnxruntime for one system."""
    (system,) = (folder / "node" / "node_modules" / "onnxruntime-node" / "bin").glob("*/linux/x64")
    return [folder / "node" / "cvae.js", folder / "node" / "generate.js", system]


if __name__ == "__main__":
    main()
