"""Accuracy of bf16: bounds after training in bf16 and in fp32 with the same seeds, data and epochs.

    python benchmarks/precision.py [--arch resnet] [--epochs 3] [--rounds 1] [--images 54000] [--unconditional]
        [--data-dir DIR] [--json] [--smoke]

The benchmark trains on MNIST in fp32 and bf16 in turn. Each round has a new seed, so more rounds show how much of a
difference is due to chance. For comparison, the range of the fp32 bounds over the seeds is printed. The best weights of
each run are evaluated on the validation and test images. Bounds are in nats per image; negative differences favour
bf16. Images per second are measured without the first epoch. Target: bounds that differ by at most 0.3 nats.
"""

import itertools
import statistics
from functools import partial
from typing import Any

from _timing import (
    Run,
    format_range,
    make_parser,
    parse_args,
    ratios,
    report,
    run_in_subprocess,
    run_rounds,
    train,
)

from cvae.config import TrainConfig


def read_best_bounds(runs: list[Run]) -> dict[str, list[float]]:
    """Return the validation and test bounds of each run's best weights: those with the lowest validation bound."""

    def best(run: Run, split: str) -> float:
        return min(record[split]["bound"] for record in run.records if split in record)

    return {split: [best(run, split) for run in runs] for split in ("validation", "test")}


def main() -> None:
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--arch", default="resnet", metavar="NAME", help="Architecture.")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="Number of epochs.")
    parser.add_argument(
        "--images", type=int, default=54_000, metavar="N", help="Number of training images, at most 54,000."
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="Number of images per step.")
    parser.add_argument("--unconditional", action="store_true", help="Train without labels.")
    parser.add_argument("--device", default="auto", metavar="NAME", help="Torch device.")
    args = parse_args(parser, arch="mlp", epochs=2, images=256)
    data = "digits" if args.smoke else "mnist"
    if args.epochs < 2:
        parser.error("--epochs must be at least 2, because the first epoch is not timed")

    def make_side(precision: str) -> Any:
        seeds = itertools.count()
        make_config = partial(
            TrainConfig, arch=args.arch, conditional=not args.unconditional, data=data, data_dir=args.data_dir,
            limit=args.images, epochs=args.epochs, batch_size=args.batch_size, precision=precision, device=args.device,
            optimizer="adam", options={"objective": {"antithetic": False}},
        )  # fmt: skip
        return lambda: run_in_subprocess(train, make_config(seed=next(seeds)))

    runs = run_rounds(args.rounds, fp32=make_side("fp32"), bf16=make_side("bf16"))
    best_bounds = {precision: read_best_bounds(runs[precision]) for precision in runs}
    speeds = {precision: [run.images_per_second for run in runs[precision]] for precision in runs}
    differences = {
        split: [b - a for a, b in zip(best_bounds["fp32"][split], best_bounds["bf16"][split], strict=True)]
        for split in ("validation", "test")
    }
    speedups = ratios(speeds["bf16"], speeds["fp32"])
    metrics = {
        "arch": args.arch,
        "epochs": args.epochs,
        "images": args.images,
        "bounds": best_bounds,
        "differences": differences,
        "difference": {split: statistics.median(values) for split, values in differences.items()},
        "images_per_second": speeds,
        "ratio": statistics.median(speedups),
    }
    table = [("quantity", "fp32", "bf16", "bf16 - fp32")]
    for split, values in differences.items():
        columns = (best_bounds["fp32"][split], best_bounds["bf16"][split], values)
        table.append((f"{split} bound, nats", *(format_range(column, 2) for column in columns)))
    speed_cells = (format_range(speeds[precision]) for precision in ("fp32", "bf16"))
    table.append(("images/s", *speed_cells, f"{statistics.median(speedups):.2f} times"))
    note = f"{args.arch}, {args.epochs} epochs of {args.images:,} images, median (min to max) of {args.rounds} seeds"
    report(args.json, metrics, table, [note])


if __name__ == "__main__":
    main()
