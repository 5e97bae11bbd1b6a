"""Does bf16 reach the bound of fp32? The same seed, data and epochs in both precisions.

    python benchmarks/precision.py [--arch resnet] [--epochs 3] [--rounds 1] [--images 54000] [--unconditional]
        [--data-dir DIR] [--json]

Trains on MNIST in fp32 and bf16 by turns; each round has the next seed, so that more rounds show how much of a
difference is chance (the spread of fp32 over seeds is printed beside it). Bounds are those of the kept weights, on the
validation and test images, in nats per image; negative differences favour bf16. Images per second leave the first
epoch out. Target: bounds within 0.3 nats.
"""

import itertools
import statistics
from functools import partial
from typing import Any

from _timing import Run, alone, interleaved, parser, ratios, report, spread, train

from cvae.config import TrainConfig


def bounds(runs: list[Run]) -> dict[str, list[float]]:
    """The bounds of the kept weights: those of the least validation bound, scored on the test images at the end."""

    def of(run: Run, split: str) -> float:
        return min(record[split]["bound"] for record in run.records if split in record)

    return {split: [of(run, split) for run in runs] for split in ("validation", "test")}


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--arch", default="resnet")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--images", type=int, default=54_000, help="to train on, of the 54,000 that validation leaves")
    options.add_argument("--unconditional", action="store_true")
    options.add_argument("--device", default="auto")
    args = options.parse_args()
    if args.epochs < 2:
        options.error("--epochs: at least 2, the first is no measure of speed")

    def side(precision: str) -> Any:
        seeds = itertools.count()
        asked = partial(
            TrainConfig, arch=args.arch, conditional=not args.unconditional, data="mnist", data_dir=args.data_dir,
            limit=args.images, epochs=args.epochs, precision=precision, device=args.device,
        )  # fmt: skip
        return lambda: alone(train, asked(seed=next(seeds)))

    runs = interleaved(args.rounds, fp32=side("fp32"), bf16=side("bf16"))
    reached = {precision: bounds(runs[precision]) for precision in runs}
    speeds = {precision: [run.images_per_second for run in runs[precision]] for precision in runs}
    differences = {
        split: [b - a for a, b in zip(reached["fp32"][split], reached["bf16"][split], strict=True)]
        for split in ("validation", "test")
    }
    faster = ratios(speeds["bf16"], speeds["fp32"])
    figures = {
        "arch": args.arch, "epochs": args.epochs, "images": args.images, "bounds": reached, "differences": differences,
        "difference": {split: statistics.median(values) for split, values in differences.items()},
        "images_per_second": speeds, "ratio": statistics.median(faster),
    }  # fmt: skip
    table = [("what", "fp32", "bf16", "bf16 - fp32")]
    table += [
        (
            f"{split} bound, nats", spread(reached["fp32"][split], 2), spread(reached["bf16"][split], 2),
            spread(differences[split], 2),
        )
        for split in differences
    ]  # fmt: skip
    table.append(("images/s", spread(speeds["fp32"]), spread(speeds["bf16"]), f"{statistics.median(faster):.2f} times"))
    note = f"{args.arch}, {args.epochs} epochs of {args.images:,} images, median (least to most) of {args.rounds} seeds"
    report(args.json, figures, table, [note])


if __name__ == "__main__":
    main()
