"""Anomaly detection on MNIST with the scores of `cvae detect`: train on nine digits, and detect the tenth.

    python benchmarks/anomaly_mnist.py --out anomaly.json            # with the labels of the nine digits
    python benchmarks/anomaly_mnist.py --out anomaly.json --plain    # without labels

Digits whose metrics are already in the file are skipped, so an interrupted benchmark can be resumed. With --runs, the
models are kept, and running the benchmark again scores them without retraining. For AUROC and AUPRC, the held-out digit
is the positive class. The thresholds come from validation images of the nine digits. --smoke uses small images and
takes seconds.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from _timing import add_smoke, parse_args
from sklearn.metrics import average_precision_score, roc_auc_score

import cvae
from cvae.atomic import write_file
from cvae.config import DataConfig, TrainConfig
from cvae.data import load_dataset
from cvae.detection.detector import Detector
from cvae.detection.scores import measure
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.run import DECODER, is_run

DIGITS = ("1", "4", "5", "7", "9")
"""Digits that are hardest to detect with a plain VAE, according to the literature."""

MODEL = TrainConfig(
    data="mnist",
    arch="resnet",
    latent_dim=8,
    validation=0.05,
    epochs=12,
    optimizer="adam",
    lr=2e-3,
    warmup=100,
    ema=0.999,
    trackers=("none",),
    options={"arch": {"width": 16, "patch": 2, "smallest": 7}, "objective": {"antithetic": False}},
)

SMOKE = replace(MODEL, data="digits", arch="mlp", options={})


def measure_digit(config: TrainConfig, digit: str, folder: Path) -> dict[str, Any]:
    """Train a model on all digits but one, and return the detection metrics of each score on the complete test set."""
    run = folder / f"{digit}-{config.epochs}-epochs"
    if not (run / DECODER).exists():
        cvae.resume(run) if is_run(run) else cvae.train(config, run)
    scorer = ExportedScorer(cvae.load(run))
    normal, complete = load_dataset(config), load_dataset(DataConfig(data=config.data, data_dir=config.data_dir))
    assert normal.validation is not None and complete.test is not None and complete.classes is not None
    detector = Detector.fit(scorer, normal.validation.images[:], data=config.data, quantile=0.95)
    scores = detector.scores(measure(scorer, complete.test.images))
    positive = complete.test.labels == complete.classes.index(digit)
    metrics: dict[str, Any] = {}
    for name, score in scores.items():
        above = score > detector.metadata.thresholds[name]
        metrics[name] = {
            "auroc": roc_auc_score(positive, score),
            "auprc": average_precision_score(positive, score),
            "detected": float(above[positive].mean()),
            "false_alarms": float(above[~positive].mean()),
        }
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="JSON file to add the metrics to.")
    parser.add_argument("--plain", action="store_true", help="Train models without labels and with a normal prior.")
    parser.add_argument(
        "--runs", type=Path, metavar="PATH", help="Folder for the models. [default: a temporary folder]"
    )
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets.")
    parser.add_argument("--epochs", type=int, default=MODEL.epochs, metavar="N", help="Number of epochs.")
    parser.add_argument(
        "--digits",
        nargs="+",
        default=DIGITS,
        metavar="N",
        help="Digits to detect. For each of them, a model is trained on the other nine.",
    )
    add_smoke(parser)
    args = parse_args(parser, epochs=1, digits=["1"])
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    variant = "plain" if args.plain else "labels"
    for digit in args.digits:
        if digit in results.setdefault(variant, {}):
            continue
        flags = {"without": (digit,), "data_dir": args.data_dir, "epochs": args.epochs}
        options = {"prior": "normal"} if args.plain else {"conditional": True}
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.runs / variant if args.runs else Path(temporary)
            results[variant][digit] = measure_digit(
                replace(SMOKE if args.smoke else MODEL, **flags, **options), digit, folder
            )
        write_file(args.out, json.dumps(results, indent=2) + "\n")
        for name, metrics in results[variant][digit].items():
            print(f"{variant} without {digit}  {name:15} " + "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()))


if __name__ == "__main__":
    main()
