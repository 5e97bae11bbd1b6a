"""Time and digit quality of the run that a new user starts: `cvae train --arch resnet --conditional`.

    python benchmarks/default_run.py [--data mnist --data-dir DIR] [--json] [--smoke] [-- FLAGS]

The time covers the whole process, including the export of the model. The bound is measured on the test images. The
accuracy is the fraction of 1,000 generated digits, 100 per class, that the bundled classifier assigns to their label.
It is measured for each of three seeds. FLAGS are passed on to `cvae train`.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _timing import parse_args, report

import cvae
from cvae.evaluation.feature_extractor import load_feature_extractor
from cvae.run import read_config, read_metrics

SEEDS = range(3)
IMAGES_PER_CLASS = 100
TARGETS = {
    "mnist-small": {"seconds": "at most 100 s", "bound": "at most 108", "accuracy": "at least 97 %"},
    "mnist": {"seconds": "a fifth of the former", "bound": "at most 90", "accuracy": "at least 98 %"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=TARGETS, default="mnist-small", help="Data set of digits.")
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets.")
    parser.add_argument("flags", nargs="*", metavar="FLAGS", help="Flags of `cvae train`, after --.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--smoke", action="store_true", help="Train for one epoch on 300 images.")
    args = parse_args(parser)
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["train", "--arch", "resnet", "--conditional", "--data", args.data, "--out", str(run), *args.flags]
        command += ["--data-dir", args.data_dir] if args.data_dir else []
        command += ["--epochs", "1", "--limit", "300"] if args.smoke else []
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cvae", *command], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        training = read_config(run).training
        bound = read_metrics(run)[-1]["test"]["bound"]
        accuracies = [label_accuracy(run, seed) for seed in SEEDS]
    targets = TARGETS[args.data]
    metrics = {"seconds": seconds, "bound": bound, "accuracy": accuracies}
    table = [
        ("", "measured", "target"),
        ("whole process", f"{seconds:.0f} s", targets["seconds"]),
        ("test bound", f"{bound:.2f} nats", targets["bound"]),
        (
            "digits recognized as their label, by seed",
            ", ".join(f"{accuracy:.1%}" for accuracy in accuracies),
            targets["accuracy"],
        ),
    ]
    report(
        args.json, metrics, table, [f"{training.epochs} epochs, batches of {training.batch_size}, {training.precision}"]
    )


def label_accuracy(run: Path, seed: int) -> float:
    """Return the fraction of generated digits that the classifier assigns to their label."""
    predict = load_feature_extractor("mnist-small").predict
    assert predict is not None
    labels = np.repeat(np.arange(10), IMAGES_PER_CLASS)
    images = cvae.load(run).generate(len(labels), seed=seed, label_index=labels)
    return float((predict(np.asarray(images)) == labels).mean())


if __name__ == "__main__":
    main()
