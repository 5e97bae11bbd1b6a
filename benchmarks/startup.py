"""How long from `cvae train` to the first optimizer step, against `import torch`.

    python benchmarks/startup.py [--arch mlp] [--data mnist] [--data-dir DIR] [--rounds 5] [--json] [-- FLAGS]

Two child processes in turn, A B A B, both on the parent's clock from just before the spawn: one imports torch and
says so; the other runs the command `cvae train --epochs 1` with a hook on torch's optimizers that says when the first
step is done. Both end there at once. A first round, not counted, fills the disk's cache and downloads the data if need
be. FLAGS are more flags of `cvae train`. Target: a difference of at most 2 s.
"""

import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from _timing import interleaved, parser, report, spread

SAY = "import os; say = lambda *_: (os.write({fd}, b'.'), os._exit(0))\n"
IMPORT = SAY + "import torch; say()"
TRAIN = SAY + (
    "from torch.optim.optimizer import register_optimizer_step_post_hook as hook; hook(say)\n"
    "import sys; sys.argv = ['cvae', *sys.argv[1:]]\n"
    "from cvae.__main__ import main; sys.exit(main())"
)


def until_said(program: str, *arguments: str) -> float:
    """Seconds from the spawn of a Python program until it says that it has come to the point."""
    reader, writer = os.pipe()
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", program.format(fd=writer), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[writer],
    )  # fmt: skip
    os.close(writer)
    said = os.read(reader, 1)  # nothing, once the child is gone without a word
    seconds = time.perf_counter() - started
    os.close(reader)
    _, errors = child.communicate()
    if not said:
        raise SystemExit(f"the child ended before its first step: {errors.decode(errors='replace').strip()}")
    return seconds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--arch", default="mlp")
    options.add_argument("--data", default="mnist")
    options.add_argument("flags", nargs="*", help="of cvae train")
    args = options.parse_args()

    def command() -> float:
        with TemporaryDirectory() as folder:
            flags = ["--arch", args.arch, "--data", args.data, "--epochs", "1", "--out", str(Path(folder) / "run")]
            flags += ["--data-dir", args.data_dir] if args.data_dir else []
            return until_said(TRAIN, "train", *flags, *args.flags)

    sides = {"import torch": partial(until_said, IMPORT), "cvae train": command}
    interleaved(1, **sides)
    results = interleaved(args.rounds, **sides)
    torch, train = results["import torch"], results["cvae train"]
    differences = [b - a for a, b in zip(torch, train, strict=True)]
    figures = {
        "import_torch": torch,
        "first_step": train,
        "differences": differences,
        "difference": statistics.median(differences),
        "ratio": statistics.median(train) / statistics.median(torch),
    }
    table = [
        ("from the spawn to", "seconds, median (least to most)"),
        ("torch imported", spread(torch, 2)),
        (f"first step of {args.arch} on {args.data}", spread(train, 2)),
        ("difference", spread(differences, 2)),
        ("ratio", f"{figures['ratio']:.2f}"),
    ]
    report(args.json, figures, table, [])


if __name__ == "__main__":
    main()
