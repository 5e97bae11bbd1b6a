"""Benchmark of training on a data set that can be larger than memory: peak resident memory and images per second.

    python benchmarks/large_set.py [--gigabytes 6] [--steps 100] [--arch resnet] [--batch-size 128] [--dir DIR]
        [--smoke]

The benchmark writes an .npy file of 64x64 colour images to a temporary folder under DIR (by default the current working
directory), trains in a child process on images from all parts of the file, and removes the folder, even after an error.
Before training, the file is dropped from the page cache, so that the images are read from the disk.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _timing import add_smoke, parse_args

from cvae.run import read_metrics

SHAPE = (3, 64, 64)
IMAGE_BYTES = 3 * 64 * 64


def write_images(path: Path, count: int) -> None:
    """Write `count` different images that consist of 8x8 tiles in random colours."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, count, 1024):
            tiles = rng.integers(0, 256, (min(1024, count - first), 3, 8, 8), np.uint8)
            file.write(tiles.repeat(8, 2).repeat(8, 3).tobytes())  # (n, 3, 8, 8) -> (n, 3, 64, 64)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train(path: Path, count: int, args: argparse.Namespace) -> None:
    """Train for one epoch of `args.steps` steps on images from all parts of the file. Runs in the child process."""
    import cvae
    from cvae.config import TrainConfig

    config = TrainConfig(
        data=f"npz:{path}",
        arch=args.arch,
        batch_size=args.batch_size,
        limit=args.steps * args.batch_size,
        validation=args.batch_size / count,
        epochs=1,
        optimizer="adam",
        options={"objective": {"antithetic": False}},
    )
    cvae.train(config, path.parent / "run", export=False, quiet=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6, metavar="N", help="Size of the data set in GB.")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="Number of training steps.")
    parser.add_argument("--arch", default="resnet", metavar="NAME", help="Architecture.")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="Batch size.")
    parser.add_argument("--dir", type=Path, default=Path(), metavar="PATH", help="Folder for the temporary files.")
    parser.add_argument("--train-on", type=Path, help=argparse.SUPPRESS)
    add_smoke(parser)
    args = parse_args(parser, gigabytes=0.004, steps=2, arch="mlp", batch_size=32)

    count = int(args.gigabytes * 1e9 / IMAGE_BYTES)
    if count < (args.steps + 1) * args.batch_size:
        parser.error(f"--gigabytes {args.gigabytes:g} is only {count:,} images, too few for {args.steps} steps")
    if args.train_on:
        train(args.train_on, count, args)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is removed
    with TemporaryDirectory(dir=args.dir, prefix="large-set-") as folder:
        path = Path(folder).resolve() / "images.npy"
        write_images(path, count)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--train-on", path], check=True)
        record = read_metrics(path.parent / "run")[-1]
        # RUSAGE_CHILDREN covers all children, but there is only one. Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(f"data set       {path.stat().st_size / 1e9:8.2f} GB, {count:,} images {'x'.join(map(str, SHAPE))}")
        print(f"peak resident  {peak / 1e9:8.2f} GB")
        print(
            f"images/s       {record['images_per_second']:8,.0f}, {args.arch}, {args.steps} steps of {args.batch_size}"
        )


if __name__ == "__main__":
    main()
