"""Time of `cvae train` until the first optimizer step, and time of `cvae generate --digit 7`.

    python benchmarks/startup.py [--arch mlp] [--data mnist] [--data-dir DIR] [--rounds 5] [--json] [--smoke]
        [-- FLAGS]

Two programs run in turn, A B A B, each time in a new child process. The parent measures the time from just before it
spawns the child until the child writes a byte to a pipe. Program A writes the byte after importing torch. Program B
runs `cvae train --epochs 1`, with a hook on torch's optimizers that writes the byte after the first step. A first
round, which is not counted, fills the page cache, and downloads the data if necessary. FLAGS are passed on to
`cvae train`. Target: a difference of at most 2 s.

The first digit is timed in the same way: `python -c "import numpy, onnxruntime"` and `cvae generate --digit 7` run in
turn in an empty folder, from their spawn until their exit, 2 N + 1 times for N rounds. Target: a ratio of at most 1.7.
"""

import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from _timing import format_range, make_parser, parse_args, ratios, report, run_rounds

NOTIFY = "import os; notify = lambda *_: (os.write({fd}, b'.'), os._exit(0))\n"
IMPORT = NOTIFY + "import torch; notify()"
TRAIN = NOTIFY + (
    "from torch.optim.optimizer import register_optimizer_step_post_hook as hook; hook(notify)\n"
    "import sys; sys.argv = ['cvae', *sys.argv[1:]]\n"
    "from cvae.__main__ import main; sys.exit(main())"
)
DIGIT = {
    "import numpy, onnxruntime": ["-c", "import numpy, onnxruntime"],
    "cvae generate --digit 7": ["-m", "cvae", "generate", "--digit", "7"],
}
"""Arguments of Python for the first digit, and for what it is compared with."""


def time_until_exit(*arguments: str) -> float:
    """Run Python in an empty folder, and return the seconds from its spawn until its exit."""
    # Without this variable, the modules of a checkout are compiled only once, like those of an installed package.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=True)
        return time.perf_counter() - start


def time_until_byte(program: str, *arguments: str) -> float:
    """Run a Python program, and return the seconds from its spawn until it writes a byte to a pipe."""
    reader, writer = os.pipe()
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", program.format(fd=writer), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[writer],
    )  # fmt: skip
    os.close(writer)
    byte = os.read(reader, 1)  # empty if the child exits without writing
    seconds = time.perf_counter() - start
    os.close(reader)
    _, errors = child.communicate()
    if not byte:
        raise SystemExit(f"the child failed before it wrote a byte: {errors.decode(errors='replace').strip()}")
    return seconds


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--arch", default="mlp", metavar="NAME", help="Architecture.")
    parser.add_argument("--data", default="mnist", metavar="NAME", help="Data set.")
    parser.add_argument("flags", nargs="*", help="Flags for cvae train.")
    args = parse_args(parser, data="digits", rounds=1)

    def time_command() -> float:
        with TemporaryDirectory() as folder:
            flags = ["--arch", args.arch, "--data", args.data, "--epochs", "1", "--out", str(Path(folder) / "run")]
            flags += ["--data-dir", args.data_dir] if args.data_dir else []
            return time_until_byte(TRAIN, "train", *flags, *args.flags)

    sides = {"import torch": partial(time_until_byte, IMPORT), "cvae train": time_command}
    run_rounds(1, **sides)
    results = run_rounds(args.rounds, **sides)
    torch, train = results["import torch"], results["cvae train"]
    differences = [b - a for a, b in zip(torch, train, strict=True)]
    metrics = {
        "import_torch": torch,
        "first_step": train,
        "differences": differences,
        "difference": statistics.median(differences),
        "ratio": statistics.median(train) / statistics.median(torch),
    }
    sides = {name: partial(time_until_exit, *arguments) for name, arguments in DIGIT.items()}
    run_rounds(1, **sides)
    imports, digit = run_rounds(2 * args.rounds + 1, **sides).values()
    digit_ratios = ratios(digit, imports)
    metrics |= {"import_onnxruntime": imports, "first_digit": digit, "digit_ratio": statistics.median(digit_ratios)}
    table = [
        ("time from the spawn until", "seconds, median (min to max)"),
        ("torch is imported", format_range(torch, 2)),
        (f"{args.arch} takes its first step on {args.data}", format_range(train, 2)),
        ("difference", format_range(differences, 2)),
        ("ratio", f"{metrics['ratio']:.2f}"),
        ("python imports NumPy and onnxruntime, and exits", format_range(imports, 2)),
        ("cvae generate --digit 7 exits", format_range(digit, 2)),
        ("ratio of the first digit", format_range(digit_ratios, 2)),
    ]
    report(args.json, metrics, table, [])


if __name__ == "__main__":
    main()
