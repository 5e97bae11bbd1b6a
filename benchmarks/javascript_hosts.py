"""A decoder in a browser and in Node: size on disk, cold start, latency of one image, images a second in batches of 64.

    python benchmarks/javascript_hosts.py

Needs Chromium, npm and `pip install playwright`. Prints the rows of the table in docs/embedding.md: the quickest of the
runs, since a neighbour on the machine only adds. Cold start is from the page's or the process's begin to the first
image; the page comes from a plain server on this machine.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cvae.exporters.web import export
from cvae.model_zoo import DEFAULT, model

ROOT = Path(__file__).resolve().parents[1]
RUNS = 5

MEASURE = """async (model) => {
    const { latent_dim, classes } = model.spec;
    const result = [];
    for (const count of [1, 64]) {
        const times = [];
        for (let i = 0; i < 30; i++) {
            const began = performance.now();
            await model.decode(new Float32Array(count * latent_dim).fill(0.1), Array(classes ? count : 0).fill(0));
            times.push(performance.now() - began);
        }
        result.push(times.sort((a, b) => a - b)[15]);
    }
    return result;
}"""

NODE = f"""
const {{ readFile }} = await import("node:fs/promises");
const ort = await import("onnxruntime-node");
const {{ load, normal }} = await import("./cvae.js");
const model = await load(ort, await readFile(process.argv[2]));
await model.decode(normal(0, model.spec.latent_dim), model.spec.classes ? [0] : []);
const cold = performance.now(); // since the process began
console.log(JSON.stringify([cold, ...(await ({MEASURE})(model))]));
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def size(*paths: Path) -> float:
    """Megabytes of files and folders."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e6


def browser(source: Path, folder: Path) -> tuple[float, list[list[float]]]:
    """Size in MB, and for each run milliseconds: cold, of one image, of 64."""
    from playwright.sync_api import sync_playwright

    export(source, out=folder / "site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = []
    with sync_playwright() as playwright:
        for _ in range(RUNS):
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = chromium.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_selector("body.ready", timeout=60_000)
            cold = page.evaluate("performance.getEntriesByName('first image')[0].startTime")
            page.wait_for_timeout(500)
            rest = page.evaluate(f"import('./app.js').then(({{ model }}) => ({MEASURE})(model))")
            found.append([cold, *rest])
            chromium.close()
    server.shutdown()
    return size(folder / "site"), found


def node(source: Path, folder: Path) -> tuple[float, list[list[float]]]:
    """The same in Node; the size is that of the file, the example and onnxruntime for one system."""
    example = shutil.copytree(
        ROOT / "examples" / "node", folder / "node", ignore=shutil.ignore_patterns("node_modules")
    )
    subprocess.run("npm install --silent", shell=True, cwd=example, check=True)
    (example / "measure.js").write_text(NODE)
    command = ["node", "measure.js", str(source / "decoder.onnx")]
    found = [json.loads(subprocess.check_output(command, cwd=example, text=True)) for _ in range(RUNS)]
    (system,) = (example / "node_modules" / "onnxruntime-node" / "bin").glob("*/linux/x64")
    return size(source / "decoder.onnx", example / "cvae.js", example / "generate.js", system), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=model(DEFAULT), help="a run folder that was exported")
    source = parser.parse_args().model
    print("| host | size | cold start | one image | images a second |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in {"browser (Chromium, one thread)": browser, "Node": node}.items():
            megabytes, found = measure(source, Path(folder))
            cold, one, many = (min(times) for times in zip(*found, strict=True))
            print(f"| {name} | {megabytes:.0f} MB | {cold / 1000:.2f} s | {one:.1f} ms | {64_000 / many:,.0f} |")


if __name__ == "__main__":
    main()
