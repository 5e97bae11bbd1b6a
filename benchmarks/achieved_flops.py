"""Hardware utilization: FLOP/s of training relative to the measured peak FLOP/s of matrix products.

    python benchmarks/achieved_flops.py [--arch resnet] [--precision auto|fp32|bf16] [--data-dir DIR] [--rounds 5]
        [--images 6400] [--batch-size 128] [--compile] [--json] [--smoke]

Square matrix products of a few sizes are timed in the training precision, and the fastest one defines the peak. The
table also shows the peak in the other precision. torch's FlopCounterMode counts the FLOPs of a training step of the
conditional MNIST network of default size: the matrix products and convolutions of the forward and backward pass, with
two FLOPs per multiply-add. Elementwise operations, such as those of the KL term, and the optimizer are not counted. The
images per second are those that the engine reports, without the first epoch. The peak and the training speed are
measured in turn, A B A B, in one process. Target: at least 35 % of the peak for `resnet`.
"""

import statistics
import time
from functools import partial

import torch
from _timing import Run, format_range, make_parser, parse_args, ratios, report, run_rounds, train
from torch.utils.flop_counter import FlopCounterMode

from cvae.config import Config, TrainConfig
from cvae.models import build

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure_peak(dtype: torch.dtype, sizes: tuple[int, ...], device: str, seconds: float = 1.0) -> float:
    """Return the FLOP/s of the fastest matrix product.

    Each size is tried at least 3 times, and for at least `seconds`.
    """
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        tries, first_start = 0, time.perf_counter()
        while tries < 3 or time.perf_counter() - first_start < seconds:
            start = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
            tries += 1
    return best


def count_flops(config: Config, batch: int = 128) -> float:
    """Return the FLOPs per image of a forward and backward pass. They do not depend on the precision."""
    model = build(config.model)
    image = torch.rand(batch, *config.model.image_shape)
    label = None if config.model.classes is None else torch.zeros(batch, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        distortion, rate, *_ = model(image, label)
        (distortion.mean() + rate.sum(1).mean()).backward()
    return counter.get_total_flops() / batch


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--arch", default="resnet", metavar="NAME", help="Architecture.")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="Training precision.")
    parser.add_argument("--images", type=int, default=6400, metavar="N", help="Number of images per epoch.")
    parser.add_argument(
        "--epochs", type=int, default=2, metavar="N", help="Number of timed epochs, after one warm-up epoch."
    )
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="Batch size.")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1024, 2048, 4096], metavar="N", help="Sizes of the square matrices."
    )
    parser.add_argument("--compile", action="store_true", help="Compile the network.")
    args = parse_args(parser, arch="mlp", images=256, epochs=1, sizes=[128], rounds=1)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    data, seconds = ("digits", 0.01) if args.smoke else ("mnist", 1.0)
    train_config = TrainConfig(
        arch=args.arch, conditional=True, data=data, data_dir=args.data_dir, limit=args.images, validation=0.0,
        epochs=1 + args.epochs, batch_size=args.batch_size, precision=args.precision, device=device,
        optimizer="adam", options={"objective": {"antithetic": False}},
        **({"compile": True} if args.compile else {}),
    )  # fmt: skip
    peaks = {name: partial(measure_peak, dtype, tuple(args.sizes), device, seconds) for name, dtype in DTYPES.items()}
    results = run_rounds(args.rounds, training=partial(train, train_config), **peaks)
    runs: list[Run] = results["training"]
    config = runs[0].config
    precision = config.training.precision
    per_image = count_flops(config)
    speeds = [run.images_per_second for run in runs]
    achieved = [speed * per_image for speed in speeds]
    shares = ratios(achieved, results[precision])

    def format_giga(values: list[float]) -> str:
        return format_range([value / 1e9 for value in values])

    metrics = {
        "arch": args.arch,
        "precision": precision,
        "flops_per_image": per_image,
        "images_per_second": speeds,
        "flops": achieved,
        "peak": {name: results[name] for name in DTYPES},
        "share": statistics.median(shares),
        "shares": shares,
    }
    table = [
        ("quantity", "median (min to max)"),
        ("matrix products in fp32, GFLOP/s", format_giga(results["fp32"])),
        ("matrix products in bf16, GFLOP/s", format_giga(results["bf16"])),
        (f"{args.arch} in {precision}, images/s", format_range(speeds)),
        ("FLOPs per image, forward and backward", f"{per_image / 1e6:,.1f} million"),
        ("achieved, GFLOP/s", format_giga(achieved)),
        (f"achieved, % of the {precision} peak", format_range([100 * share for share in shares], 1)),
    ]
    report(args.json, metrics, table, [])


if __name__ == "__main__":
    main()
