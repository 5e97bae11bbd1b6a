"""Measurements of a decoder in each runtime, for `runtimes.py`: cold start, memory, and time per batch."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from cvae.exporters.web import export
from cvae.run import DECODER
from cvae.runtime.session import read_spec

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 30
"""Number of timed calls in a warm process. The median of their times is reported."""

MAX_SECONDS = 10
"""Number of seconds after which JavaScript starts no other timed call."""


class Measurement(NamedTuple):
    """The measurements of one runtime in one round. None stands for a quantity that was not measured."""

    cold_start: float  # seconds until the first image
    single: float | None = None  # seconds for one image
    batch: float | None = None  # seconds for a batch of 64 images
    memory: float | None = None  # peak resident memory in megabytes


# -- Python ------------------------------------------------------------------------------------------------------------

MEDIAN_TIME = f"""
import statistics, sys, time
def median_time(decode):
    times = []
    for _ in range({REPEATS}):
        start = time.perf_counter()
        decode()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
"""

PYTHON = """
model = cvae.load(sys.argv[1])
for n in 1, 64:
    noise = model.noise(n, seed=0)
    print(median_time(lambda: model.decode(noise, 7)))
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
        print(median_time(lambda: model.decode(noise, label)))
"""

LAUNCHER = """
import os, sys, time
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - start, usage.ru_maxrss / 1e3)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measure_process(*command: object) -> Measurement:
    """Run a command to completion, and measure its time and peak resident memory.

    A small process launches the command, because the peak memory of a child process includes the memory of its parent.
    """
    program = shutil.which(str(command[0])) or str(command[0])
    arguments = [sys.executable, "-I", "-S", "-c", LAUNCHER, program, *map(str, command[1:])]
    result = subprocess.run(arguments, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{program} failed: {result.stderr}")
    seconds, megabytes = map(float, result.stdout.split())
    return Measurement(seconds, memory=megabytes)


def measure_warm(program: str, source: Path) -> list[float]:
    """Return the seconds for one image and for a batch of 64 in a warm Python process."""
    command = [sys.executable, "-c", MEDIAN_TIME + "import cvae\n" + program, str(source)]
    return [float(line) for line in subprocess.check_output(command, text=True).split()]


def measure_command(source: Path, folder: Path, cvae: Path) -> Measurement:
    """Measure a cold start of `cvae generate`, and decoding with the library in a warm process."""
    cold = measure_process(cvae, "generate", source, "--label", 7, "--out", folder / "seven.png")
    single, batch = measure_warm(PYTHON, source)
    return cold._replace(single=single, batch=batch)


def measure_help(source: Path, folder: Path, cvae: Path) -> Measurement:
    return measure_process(cvae, "--help")


def measure_torch(source: Path, folder: Path) -> Measurement:
    cold = measure_process(sys.executable, "-c", TORCH_COLD, source, folder / "seven.png")
    single, batch = measure_warm(TORCH, source)
    return cold._replace(single=single, batch=batch)


def measure_torch_import(source: Path, folder: Path) -> Measurement:
    """Measure a script that only imports torch, as a lower bound for scripts that use torch."""
    return measure_process(sys.executable, "-c", "import torch; torch.nn.Linear(1, 1)(torch.zeros(1, 1))")


# -- HTTP --------------------------------------------------------------------------------------------------------------


def measure_http(source: Path, folder: Path) -> Measurement:
    """Measure examples/fastapi: the time from its start to the first image, then requests for 1 and for 64 images."""
    with socket.socket() as probe:  # find a port that is not in use
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "CVAE_MODEL": str(source)}
    arguments = ["-m", "uvicorn", "--app-dir", ROOT / "examples" / "fastapi", "app:app", "--port", port]
    start = time.perf_counter()
    server = subprocess.Popen([sys.executable, *map(str, arguments), "--log-level", "error"], env=environment)
    try:

        def request(n: int) -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/images.png?label=7&n={n}&enlarge=false") as response:
                response.read()

        while True:
            try:
                request(1)
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit(
                        "the server exited; check that its packages are installed: pip install fastapi uvicorn"
                    ) from None
                time.sleep(0.005)
        cold_start = time.perf_counter() - start
        return Measurement(cold_start, *(median_time(partial(request, n)) for n in (1, 64)))
    finally:
        server.terminate()
        server.wait()


def median_time(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# -- C++ ---------------------------------------------------------------------------------------------------------------

# C++ and Node programs inherit ORT_DISABLE_TELEMETRY, which importing cvae sets in this process.
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
      auto start = std::chrono::steady_clock::now();
      session.Run(Ort::RunOptions{}, names, inputs.data(), inputs.size(), &output, 1);
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    std::printf("%g\n", times[15]);
  }
}
"""


def compile_cpp(source: Path, program: Path, ort: Path) -> Path:
    if not program.exists():
        flags = [f"-I{ort}/include", f"-L{ort}/lib", "-lonnxruntime", f"-Wl,-rpath,{ort}/lib"]
        subprocess.run(["g++", "-std=c++17", "-O2", source, *flags, "-o", program], check=True)
    return program


def measure_cpp(source: Path, folder: Path, ort: Path) -> Measurement:
    """Measure a cold start of examples/cpp, and repeated decoding in a second C++ program."""
    decoder = source / DECODER
    generate = compile_cpp(ROOT / "examples" / "cpp" / "generate.cpp", folder / "generate", ort)
    (folder / "measure.cpp").write_text(CPP)
    measure = compile_cpp(folder / "measure.cpp", folder / "measure", ort)
    latent_dim = read_spec(decoder)[0].latent_dim
    cold = measure_process(generate, decoder, folder / "seven.pgm", "--label", 7, "--seed", 1)
    single, batch = map(float, subprocess.check_output([measure, decoder, str(latent_dim)], text=True).split())
    return cold._replace(single=single, batch=batch)


# -- JavaScript --------------------------------------------------------------------------------------------------------

JS_MEASURE = f"""async (decoder, {{ latent_dim, classes }}) => {{
    const result = [];
    for (const count of [1, 64]) {{
        const times = [];
        const end = performance.now() + {1000 * MAX_SECONDS};
        while (times.length < {REPEATS} && performance.now() < end) {{
            const start = performance.now();
            await decoder.decode(new Float32Array(count * latent_dim).fill(0.1), Array(classes ? count : 0).fill(0));
            times.push((performance.now() - start) / 1000);
        }}
        result.push(times.sort((a, b) => a - b)[times.length >> 1]);
    }}
    return result;
}}"""
"""Function that measures a decoder with a spec in JavaScript."""

NODE = f"""
const {{ readFile }} = await import("node:fs/promises");
const ort = await import("onnxruntime-node");
const {{ load }} = await import("./cvae.js");
const model = await load(ort, await readFile(process.argv[2]));
console.log(JSON.stringify(await ({JS_MEASURE})(model, model.spec)));
"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def measure_browser(source: Path, folder: Path, *, webgpu: bool = False) -> Measurement:
    """Measure an exported web page in Chromium, on WebAssembly or WebGPU.

    Raises:
        SystemExit: If Chromium does not decode with WebGPU.
    """
    from playwright.sync_api import sync_playwright

    site = folder / ("webgpu" if webgpu else "site")
    if not site.exists():
        export(source, out=site, webgpu=webgpu)
    args = ["--no-sandbox", *["--enable-unsafe-webgpu", "--enable-features=Vulkan"] * webgpu]
    with serve_folder(site) as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=args)
        page = chromium.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{address}?runtime={'webgpu' if webgpu else 'wasm'}")
        page.wait_for_selector("body.ready")
        cold_start = page.evaluate("performance.getEntriesByName('first image')[0].startTime / 1000")
        page.wait_for_timeout(500)
        is_webgpu = page.evaluate("import('./app.js').then(({ decoder, model }) => decoder !== model)")
        if is_webgpu != webgpu:
            raise SystemExit(page.locator("#alert p").text_content())
        single, batch = page.evaluate(
            f"import('./app.js').then(({{ decoder, model }}) => ({JS_MEASURE})(decoder, model.spec))"
        )
        chromium.close()
    return Measurement(cold_start, single, batch)


def install_node_example(folder: Path) -> Path:
    """Copy examples/node into a folder, and install the npm package that it needs."""
    copy = folder / "node"
    if not copy.exists():
        shutil.copytree(ROOT / "examples" / "node", copy, ignore=shutil.ignore_patterns("node_modules"))
        subprocess.run("npm install --silent", shell=True, cwd=copy, check=True)
        (copy / "measure.js").write_text(NODE)
    return copy


def measure_node(source: Path, folder: Path) -> Measurement:
    node, decoder = install_node_example(folder), source / DECODER
    cold = measure_process("node", node / "generate.js", decoder, "--label", 7, "--out", folder / "seven.png")
    single, batch = json.loads(subprocess.check_output(["node", "measure.js", decoder], cwd=node, text=True))
    return cold._replace(single=single, batch=batch)
