"""Leave one digit out: train on the nine others, and see how well `cvae detect` finds the tenth among the test images.

    python benchmarks/anomaly_mnist.py --out anomaly.json            # with the labels of the nine digits
    python benchmarks/anomaly_mnist.py --out anomaly.json --plain    # without

A digit that has its figures in the file already is passed over, so that a stopped benchmark goes on; with --runs the
models stay, and another time are only scored. AUROC and AUPRC count the held-out digit as positive; the thresholds come
from validation images of the nine digits.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sklearn.metrics import average_precision_score, roc_auc_score

import cvae
from cvae.atomic import write_file
from cvae.config import DataConfig, TrainConfig
from cvae.data import load_dataset
from cvae.detection.detector import Detector
from cvae.detection.scores import measure
from cvae.engine import resume
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.exporters.onnx import export
from cvae.run import DECODER, is_run

DIGITS = ("1", "4", "5", "7", "9")
"""Those that are hardest for a plain VAE, on which papers report."""

MODEL = TrainConfig(
    data="mnist",
    arch="resnet",
    latent_dim=8,
    validation=0.05,
    epochs=12,
    lr=2e-3,
    warmup=100,
    ema=0.999,
    trackers=("none",),
    options={"arch": {"width": 16, "patch": 2, "smallest": 7}},
)


def figures(asked: TrainConfig, digit: str, folder: Path) -> dict[str, Any]:
    """Train without a digit, and score the whole test set."""
    run = folder / f"{digit}-{asked.epochs}-epochs"
    if not (run / DECODER).exists():
        export(resume(run) if is_run(run) else cvae.train(asked, run))
    scorer = ExportedScorer(cvae.load(run))
    normal, everything = load_dataset(asked), load_dataset(DataConfig(data="mnist", data_dir=asked.data_dir))
    assert normal.validation is not None and everything.test is not None and everything.classes is not None
    detector = Detector.fit(scorer, normal.validation.images[:], data="mnist", quantile=0.95)
    scores = detector.scores(measure(scorer, everything.test.images))
    positive = everything.test.labels == everything.classes.index(digit)
    found: dict[str, Any] = {}
    for name, score in scores.items():
        above = score > detector.facts.thresholds[name]
        found[name] = {
            "auroc": roc_auc_score(positive, score),
            "auprc": average_precision_score(positive, score),
            "found": float(above[positive].mean()),
            "false_alarms": float(above[~positive].mean()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to add to")
    parser.add_argument("--plain", action="store_true", help="models without labels, with a normal prior")
    parser.add_argument("--runs", type=Path, help="folder to keep the models in [a temporary one]")
    parser.add_argument("--data-dir", help="where MNIST is")
    parser.add_argument("--epochs", type=int, default=MODEL.epochs)
    parser.add_argument("--digits", nargs="+", default=DIGITS)
    asked = parser.parse_args()
    results = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    kind = "plain" if asked.plain else "labels"
    for digit in asked.digits:
        if digit in results.setdefault(kind, {}):
            continue
        flags = {"without": (digit,), "data_dir": asked.data_dir, "epochs": asked.epochs}
        kind_of_model = {"prior": "normal"} if asked.plain else {"conditional": True}
        with tempfile.TemporaryDirectory() as temporary:
            folder = asked.runs / kind if asked.runs else Path(temporary)
            results[kind][digit] = figures(replace(MODEL, **flags, **kind_of_model), digit, folder)
        write_file(asked.out, json.dumps(results, indent=2) + "\n")
        for name, found in results[kind][digit].items():
            print(f"{kind} without {digit}  {name:15} " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()))


if __name__ == "__main__":
    main()
