"""Decoding speed of an exported file in onnxruntime, compared with the same decoder in eager torch.

    python benchmarks/decoding_speed.py [--archs mlp conv resnet] [--batches 1 64] [--rounds 15] [--json] [--smoke]

A barely trained decoder for 28x28 grey images is exported and loaded with `cvae.load`. The two sides take turns,
A B A B, on all cores. Each side has its own process, so that the threads of one side do not disturb the other.

Targets for onnxruntime: at batch size 1, at least 2.5 times as fast as torch; at batch size 64, 1.5 times as fast for
`conv`, twice as fast for `resnet`, and not slower for `mlp`.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from _timing import format_range, make_parser, parse_args, ratios, report, run_rounds

TARGETS = {
    ("mlp", 1): 2.5,
    ("conv", 1): 2.5,
    ("resnet", 1): 2.5,
    ("mlp", 64): 1.0,
    ("conv", 64): 1.5,
    ("resnet", 64): 2,
}
"""Target speedups over torch, by architecture and batch size."""

SECONDS = 0.3
"""Duration of each side's part of a round, in seconds."""


def serve(pipe: Connection, side: str, run: Path, batch: int) -> None:
    """Answer each True from `pipe` with the images per second of one round, and stop at False.

    This function runs in a process of its own.
    """
    decode = {"torch": open_torch_decoder, "onnxruntime": open_onnxruntime_decoder}[side](run, batch)
    for _ in range(5):
        decode()
    pipe.send(None)
    while pipe.recv():
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            decode()
            count += batch
        pipe.send(count / (time.perf_counter() - start))


def open_torch_decoder(run: Path, batch: int) -> Callable[[], object]:
    import torch

    import cvae

    model = cvae.load_model(run)[0].eval()
    noise = torch.randn(batch, model.latent_dim)

    def decode() -> object:
        with torch.inference_mode():
            return model.decode(noise, None)

    return decode


def open_onnxruntime_decoder(run: Path, batch: int) -> Callable[[], object]:
    import cvae

    model = cvae.load(run)
    noise = model.noise(batch, seed=0)
    return lambda: model.decode(noise)


class Side:
    """Process that decodes with one of the runtimes. Calling this object returns the images per second of one round."""

    def __init__(self, side: str, run: Path, batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=serve, args=(child_pipe, side, run, batch), daemon=True)
        self.process.start()
        self.pipe.recv()  # wait until the process is ready

    def __call__(self) -> float:
        self.pipe.send(True)
        return self.pipe.recv()

    def stop(self) -> None:
        self.pipe.send(False)
        self.process.join()


def export(arch: str, run: Path) -> Path:
    """Train a model for one short epoch, and export it to the run folder."""
    import cvae

    config = cvae.TrainConfig(arch=arch, size=28, epochs=1, limit=128, prior="normal", trackers=("none",))
    return cvae.train(config, run, quiet=True).path


def main() -> None:
    parser = make_parser(__doc__, rounds=15)
    parser.add_argument("--archs", nargs="+", default=["mlp", "conv", "resnet"], metavar="NAME", help="Architectures.")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64], metavar="N", help="Batch sizes.")
    args = parse_args(parser, archs=["mlp"], batches=[1], rounds=1)
    table, metrics = [("decoder", "batch", "torch, images/s", "onnxruntime", "ratio", "target")], {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in args.archs:
            run = export(arch, Path(folder) / arch)
            for batch in args.batches:
                sides = {side: Side(side, run, batch) for side in ("torch", "onnxruntime")}
                speeds = run_rounds(args.rounds, **sides)
                for side in sides.values():
                    side.stop()
                speedups = ratios(speeds["onnxruntime"], speeds["torch"])
                metrics[f"{arch}, batch {batch}"] = {**speeds, "ratio": statistics.median(speedups)}
                cells = [*(format_range(speeds[side]) for side in sides), format_range(speedups, 1)]
                table.append((arch, str(batch), *cells, str(TARGETS.get((arch, batch), ""))))
    report(args.json, metrics, table, [])


if __name__ == "__main__":
    main()
