"""Semi-supervised training: digits as requested, from a model that is told only a few labels of its training images.

    python benchmarks/few_labels.py runs/few-labels --labels 100 --data-dir DIR

The model is a conditional `resnet` that is trained with `--impute` on all 60,000 images of MNIST, of which only as many
labels are known, equally many of each digit. Digits of each class are generated, and the bundled MNIST classifier says
whether they are as requested. Target: 95 % with 100 labels.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from _timing import report

import cvae
from cvae.config import DataConfig
from cvae.data import load_dataset
from cvae.evaluation.feature_extractor import load_feature_extractor

TARGET = 0.95
"""Share of digits as requested to reach."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="RUN", help="Folder of the run to create.")
    parser.add_argument("--labels", type=int, default=100, metavar="N", help="Number of known labels.")
    parser.add_argument("--data", default="mnist", metavar="NAME", help="Data set of digits.")
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets.")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="Number of epochs.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the known labels and the training.")
    parser.add_argument("--samples", type=int, default=10_000, metavar="N", help="Number of digits to generate.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    args = parser.parse_args()

    dataset = load_dataset(DataConfig(data=args.data, data_dir=args.data_dir, conditional=True, validation=0.0))
    images, labels = dataset.train.images[:], dataset.train.labels
    assert labels is not None
    known = choose_known(labels, args.labels, np.random.default_rng(args.seed))
    started = time.monotonic()
    run = cvae.train(
        images=images,
        conditions={"label": [int(label) if is_known else None for label, is_known in zip(labels, known, strict=True)]},
        condition=["label:category"],
        impute=True,
        arch="resnet",
        epochs=args.epochs,
        optimizer="adam",
        options={"objective": {"antithetic": False}},
        validation=0,
        seed=args.seed,
        trackers=["none"],
        out=args.out,
    )
    minutes = (time.monotonic() - started) / 60
    requested = np.arange(args.samples) % 10
    digits = run.load().generate(args.samples, label=requested, seed=args.seed)
    share = float((load_feature_extractor("mnist").predict(digits) == requested).mean())
    table = [
        ("known labels", "digits as requested", "target", "minutes"),
        (f"{known.sum()} of {len(labels):,}", f"{share:.2%}", f"{TARGET:.0%}", f"{minutes:.1f}"),
    ]
    report(args.json, {"labels": int(known.sum()), "as_requested": share, "minutes": minutes}, table, [])


def choose_known(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return which labels are known, (N,) bool: equally many of each digit."""
    known = np.zeros(len(labels), bool)
    for digit in range(10):
        known[rng.choice(np.flatnonzero(labels == digit), count // 10, replace=False)] = True
    return known


if __name__ == "__main__":
    main()
