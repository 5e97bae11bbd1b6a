"""Time and digit quality of the run that a new user starts: `cvae train --arch resnet --conditional`.

    python benchmarks/default_run.py [--precision fp32] [--json] [--smoke]

The time covers the whole process, including the export of the model. The bound is measured on the 2,000 test images
of mnist-small. The accuracy is the fraction of 1,000 generated digits, 100 per class, that the bundled classifier
assigns to their label. It is measured for each of three seeds.
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
TARGETS = {"seconds": 100, "bound": 108, "accuracy": 0.97}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="auto", help="Precision of the networks.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--smoke", action="store_true", help="Train for one epoch on 300 images.")
    args = parse_args(parser)
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["train", "--arch", "resnet", "--conditional", "--precision", args.precision, "--out", str(run)]
        command += ["--epochs", "1", "--limit", "300"] if args.smoke else []
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cvae", *command], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        training = read_config(run).training
        bound = read_metrics(run)[-1]["test"]["bound"]
        accuracies = [label_accuracy(run, seed) for seed in SEEDS]
    metrics = {"seconds": seconds, "bound": bound, "accuracy": accuracies}
    table = [
        ("", "measured", "target"),
        ("whole process", f"{seconds:.0f} s", f"at most {TARGETS['seconds']} s"),
        ("test bound", f"{bound:.2f} nats", f"at most {TARGETS['bound']}"),
        (
            "digits recognized as their label, by seed",
            ", ".join(f"{accuracy:.1%}" for accuracy in accuracies),
            f"at least {TARGETS['accuracy']:.0%}",
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
