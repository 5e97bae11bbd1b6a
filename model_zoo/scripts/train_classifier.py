"""Train the bundled classifier, which is used to evaluate generated MNIST images.

    python model_zoo/scripts/train_classifier.py [--data-dir DIR] [--out FILE]

Training takes a few minutes. The script writes one ONNX file, and prints the classifier's accuracy and the hash to
paste into cvae/evaluation/feature_extractor.py. A classifier that is trained on a different machine has different
weights, and metrics that are computed with different classifiers are not comparable.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch

from cvae.conditions import label_condition
from cvae.config import DataConfig
from cvae.data import load_dataset
from cvae.evaluation.feature_extractor import METADATA_KEY
from cvae.evaluation.run_scorer.classifier import fit, predict
from cvae.exporters.onnx.graph import trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", metavar="PATH", help="Folder of the data sets.")
    parser.add_argument(
        "--out", type=Path, default=Path("mnist-classifier.onnx"), metavar="PATH", help="File to write."
    )
    args = parser.parse_args()

    dataset = load_dataset(DataConfig(data="mnist", data_dir=args.data_dir, validation=0.0))
    train, test, classes = dataset.train, dataset.test, dataset.classes
    assert classes is not None and train.labels is not None and test is not None and test.labels is not None
    model = fit(train.images[:], train.labels, label_condition(classes))
    accuracy = float((predict(model, test.images[:]).argmax(1) == test.labels).mean())
    graph = trace(model, {"image": torch.rand(2, *train.images.shape[1:])}, ("logits", "features"))
    metadata = {"name": "mnist", "data": "mnist", "classes": classes, "accuracy": accuracy}
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    data = graph.SerializeToString(deterministic=True)
    args.out.write_bytes(data)
    print(
        f"accuracy {accuracy:.2%} on real test images, {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}"
    )


if __name__ == "__main__":
    main()
