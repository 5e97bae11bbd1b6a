"""The arithmetic in use: FLOP/s of training over the machine's measured matrix-product peak.

    python benchmarks/achieved_flops.py [--arch resnet] [--precision auto|fp32|bf16] [--data-dir DIR] [--rounds 5]
        [--images 6400] [--batch-size 128] [--compile] [--json]

The peak is the fastest square matrix product of a few sizes, in the precision that training runs in (the other one is
shown beside it). The FLOPs of a step are those of its matrix products and convolutions, forward and backward, counted
by torch's FlopCounterMode on the conditional MNIST network at its default size: two for a multiplication and addition,
nothing for what is elementwise, the prior's normal terms, or the optimizer. The images per second are the engine's,
first epoch left out. Peak and training are measured in turn, A B A B, in one process.
Target: at least 35 % for `resnet`.
"""

import statistics
import time
from functools import partial

import torch
from _timing import Run, interleaved, parser, ratios, report, spread, train
from torch.utils.flop_counter import FlopCounterMode

from cvae.config import Config, TrainConfig
from cvae.models import build

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_peak(dtype: torch.dtype, sizes: tuple[int, ...], device: str, seconds: float = 1.0) -> float:
    """FLOP/s of the fastest product, each size tried at least 3 times and for `seconds`."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        tries, began = 0, time.perf_counter()
        while tries < 3 or time.perf_counter() - began < seconds:
            started = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
            tries += 1
    return best


def flops_per_image(config: Config, batch: int = 128) -> float:
    """Of a forward and backward pass, by torch's count. No precision changes it."""
    model = build(config.model)
    image = torch.rand(batch, *config.model.image_shape)
    label = None if config.model.classes is None else torch.zeros(batch, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        distortion, rate, *_ = model(image, label)
        (distortion.mean() + rate.sum(1).mean()).backward()
    return counter.get_total_flops() / batch


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--arch", default="resnet")
    options.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    options.add_argument("--images", type=int, default=6400, help="of an epoch")
    options.add_argument("--epochs", type=int, default=2, help="that count, after one of warm-up")
    options.add_argument("--batch-size", type=int, default=128)
    options.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096], help="of the matrices")
    options.add_argument("--compile", action="store_true")
    args = options.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    asked = TrainConfig(
        arch=args.arch, conditional=True, data="mnist", data_dir=args.data_dir, limit=args.images, validation=0.0,
        epochs=1 + args.epochs, batch_size=args.batch_size, precision=args.precision, device=device,
        **({"compile": True} if args.compile else {}),
    )  # fmt: skip
    peaks = {name: partial(matmul_peak, dtype, tuple(args.sizes), device) for name, dtype in DTYPES.items()}
    results = interleaved(args.rounds, training=partial(train, asked), **peaks)
    runs: list[Run] = results["training"]
    config = runs[0].config
    precision = config.training.precision
    per_image = flops_per_image(config)
    speeds = [run.images_per_second for run in runs]
    achieved = [speed * per_image for speed in speeds]
    shares = ratios(achieved, results[precision])

    def giga(values: list[float]) -> str:
        return spread([value / 1e9 for value in values])

    figures = {
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
        ("what", "median (least to most)"),
        ("matrix products in fp32, GFLOP/s", giga(results["fp32"])),
        ("matrix products in bf16, GFLOP/s", giga(results["bf16"])),
        (f"{args.arch} in {precision}, images/s", spread(speeds)),
        ("FLOPs of an image, forward and backward", f"{per_image / 1e6:,.1f} million"),
        ("achieved, GFLOP/s", giga(achieved)),
        (f"achieved, % of the {precision} peak", spread([100 * share for share in shares], 1)),
    ]
    report(args.json, figures, table, [])


if __name__ == "__main__":
    main()
