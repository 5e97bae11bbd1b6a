"""Decoding by the exported file in onnxruntime, against the same decoder in eager torch.

    python benchmarks/decoding_speed.py [--archs mlp conv resnet] [--batches 1 64] [--rounds 15] [--json]

A decoder of random weights for 28x28 grey images is exported and loaded as `cvae.load` does; each side takes turns,
A B A B, on all cores, with a process of its own, so that neither's threads disturb the other. Targets: at batch 1 at
least 2.5 times as fast; at batch 64 1.5 times for `conv`, 2 for `resnet`, not slower for `mlp`.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from _timing import interleaved, parser, ratios, report, spread

WANTED = {("mlp", 1): 2.5, ("conv", 1): 2.5, ("resnet", 1): 2.5, ("mlp", 64): 1.0, ("conv", 64): 1.5, ("resnet", 64): 2}
SECONDS = 0.3
"""How long each side decodes in a round."""


def serve(pipe: Connection, side: str, run: Path, batch: int) -> None:
    """In a process of its own: at each message, decode for a while and answer with the images a second."""
    decode = {"torch": in_torch, "onnxruntime": in_onnxruntime}[side](run, batch)
    for _ in range(5):
        decode()
    pipe.send(None)
    while pipe.recv():
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            decode()
            count += batch
        pipe.send(count / (time.perf_counter() - started))


def in_torch(run: Path, batch: int) -> Callable[[], object]:
    import torch

    import cvae

    model = cvae.load_model(run)[0].eval()
    noise = torch.randn(batch, model.latent_dim)

    def decode() -> object:
        with torch.inference_mode():
            return model.decode(noise, None)

    return decode


def in_onnxruntime(run: Path, batch: int) -> Callable[[], object]:
    import cvae

    model = cvae.load(run)
    noise = model.noise(batch, seed=0)
    return lambda: model.decode(noise)


class Side:
    """One side's process."""

    def __init__(self, side: str, run: Path, batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, side, run, batch), daemon=True)
        self.process.start()
        self.pipe.recv()  # it is ready

    def __call__(self) -> float:
        self.pipe.send(True)
        return self.pipe.recv()

    def end(self) -> None:
        self.pipe.send(False)
        self.process.join()


def export(arch: str, run: Path) -> Path:
    """A run of one short epoch, exported."""
    import cvae
    from cvae.exporters.onnx import export

    asked = cvae.TrainConfig(arch=arch, size=28, epochs=1, limit=128, prior="normal", trackers=("none",))
    export(cvae.train(asked, run, quiet=True))
    return run


def main() -> None:
    options = parser(__doc__, rounds=15)
    options.add_argument("--archs", nargs="+", default=["mlp", "conv", "resnet"])
    options.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    args = options.parse_args()
    table, figures = [("decoder", "batch", "torch, images/s", "onnxruntime", "ratio", "wanted")], {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in args.archs:
            run = export(arch, Path(folder) / arch)
            for batch in args.batches:
                sides = {side: Side(side, run, batch) for side in ("torch", "onnxruntime")}
                speeds = interleaved(args.rounds, **sides)
                for side in sides.values():
                    side.end()
                each = ratios(speeds["onnxruntime"], speeds["torch"])
                figures[f"{arch}, batch {batch}"] = {**speeds, "ratio": statistics.median(each)}
                shown = [spread(speeds["torch"]), spread(speeds["onnxruntime"]), spread(each, 1)]
                table.append((arch, str(batch), *shown, str(WANTED.get((arch, batch), ""))))
    report(args.json, figures, table, [])


if __name__ == "__main__":
    main()
