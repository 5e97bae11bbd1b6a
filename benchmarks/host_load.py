"""Load on the FastAPI example: memory of the service, latency of `/health`, and responses per second.

    python benchmarks/host_load.py [--clients 100] [--seconds 120] [--model RUN] [--json] [--smoke]

By default, the model generates images of 3x256x256 pixels with random weights. Half of the clients read the response as
fast as they can, a quarter read it slowly, and a quarter disconnect before they have read it. A client that gets the
status 503 waits for as long as the service asks. Another process requests `/health` five times per second.

Targets: the memory in the last quarter of the time is that in the second quarter, and 99 % of the responses from
`/health` take less than 100 ms.
"""

import asyncio
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from _timing import make_parser, parse_args, report

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "fastapi"
SHAPE = (3, 256, 256)

KINDS = ("reading", "slow", "reading", "cancelling")
"""What the clients do, in turn."""

PATHS = ("/images.png?n=5", "/images?n=2")


def export_model(folder: Path) -> None:
    """Export an untrained model of large colour images."""
    import torch

    from cvae.config import Config, TrainConfig
    from cvae.engine.checkpoint import save_weights
    from cvae.exporters.onnx import export
    from cvae.model_config import ModelConfig, Part
    from cvae.models import build
    from cvae.run import CONFIG, WEIGHTS

    torch.manual_seed(0)
    config = ModelConfig(
        image_shape=SHAPE,
        latent_dim=32,
        conditions=(),
        architecture=Part(name="conv"),
        conditioning=None,
        likelihood=Part(name="bernoulli"),
        prior=Part(name="normal"),
    )
    folder.mkdir()
    training = TrainConfig(arch="conv", prior="normal")
    content = Config(cvae_version="0", data_license="none", model=config, training=training)
    (folder / CONFIG).write_text(content.to_json())
    save_weights(folder / WEIGHTS, build(config).state_dict())
    export(folder)


class Load:
    """Clients of a service, and the number of responses of each kind."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()

    async def run(self, clients: int) -> None:
        await asyncio.gather(*(self._repeat(KINDS[i % len(KINDS)], random.Random(i)) for i in range(clients)))

    async def _repeat(self, kind: str, rng: random.Random) -> None:
        while time.monotonic() < self.end:
            try:
                await self._request(kind, rng)
            except (OSError, asyncio.IncompleteReadError):
                self.counts["failed"] += 1
                await asyncio.sleep(0.1)

    async def _request(self, kind: str, rng: random.Random) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            path = rng.choice(PATHS)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            if kind == "cancelling":
                await asyncio.sleep(rng.uniform(0, 0.5))
                self.counts["cancelled"] += 1
                return
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split()[1].decode()
            while await reader.read(2**14 if kind == "slow" else 2**20):
                if time.monotonic() > self.end:
                    return
                if kind == "slow":
                    await asyncio.sleep(0.1)
            self.counts[status] += 1
            if status == "503":
                await asyncio.sleep(float(head.lower().partition(b"retry-after:")[2].split()[0]))
        finally:
            writer.close()


def probe_health(port: int, seconds: float, pipe: Connection) -> None:
    """Send the latencies of `/health` in seconds. This function runs in a process of its own."""
    latencies, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).read()
        latencies.append(time.perf_counter() - start)
        time.sleep(0.2)
    pipe.send(latencies)


async def sample_memory(pid: int, end: float) -> list[float]:
    """Return the resident memory of a process in MB, once per second."""
    samples = []
    while time.monotonic() < end:
        status = Path(f"/proc/{pid}/status").read_text()
        samples.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
        await asyncio.sleep(min(1, max(0, end - time.monotonic())))
    return samples


def start_service(model: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the example, and wait until it responds."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLE), "app:app", "--port", str(port)]
    command += ["--log-level", "critical"]
    service = subprocess.Popen(command, env={**os.environ, "CVAE_MODEL": str(model)})
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
            return service
        except OSError:
            if service.poll() is not None:
                raise SystemExit("the service exited; install its packages: pip install fastapi uvicorn") from None
            time.sleep(0.05)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--clients", type=int, default=100, metavar="N", help="Number of clients.")
    parser.add_argument("--seconds", type=float, default=120, metavar="S", help="Duration in seconds.")
    parser.add_argument("--model", type=Path, metavar="RUN", help="Exported model.")
    args = parse_args(parser, clients=8, seconds=2)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with TemporaryDirectory() as folder:
        if args.model is None:
            args.model = Path(folder) / "run"
            export_model(args.model)
        service = start_service(args.model, port)
        receiver, sender = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("spawn")
        try:
            probe = context.Process(target=probe_health, args=(port, args.seconds, sender))
            probe.start()
            load = Load(port, args.seconds)

            async def run() -> list[float]:
                return (await asyncio.gather(sample_memory(service.pid, load.end), load.run(args.clients)))[0]

            memory = asyncio.run(run())
            latencies = sorted(receiver.recv())
            probe.join()
        finally:
            service.terminate()
            service.wait()

    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[quarter : 2 * quarter] or memory), statistics.median(memory[-quarter:])
    metrics = {
        "memory_mb": memory,
        "health_median": statistics.median(latencies),
        "health_99": latencies[int(0.99 * (len(latencies) - 1))],
        "health_max": latencies[-1],
        "responses": dict(load.counts),
        "responses_per_second": load.counts["200"] / args.seconds,
    }
    table = [
        ("", "result"),
        ("memory in the second quarter, MB", f"{early:.0f}"),
        ("memory in the last quarter, MB", f"{late:.0f}"),
        ("memory, from start to end, MB", " ".join(f"{value:.0f}" for value in memory[:: max(1, len(memory) // 12)])),
        ("memory, maximum, MB", f"{max(memory):.0f}"),
        ("/health, median, ms", f"{1000 * metrics['health_median']:.1f}"),
        ("/health, 99 %, ms", f"{1000 * metrics['health_99']:.1f}"),
        ("/health, maximum, ms", f"{1000 * metrics['health_max']:.1f}"),
        ("responses per second", f"{metrics['responses_per_second']:.1f}"),
        ("responses, all", f"{load.counts['200']:,}"),
        ("status 503", f"{load.counts['503']:,}"),
        ("cancelled by the client", f"{load.counts['cancelled']:,}"),
        ("failed", f"{load.counts['failed']:,}"),
    ]
    report(args.json, metrics, table, [])


if __name__ == "__main__":
    main()
