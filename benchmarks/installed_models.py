"""Comparison of the original zoo models with those of an installed package, which stores large weights in 16 bits.

    python benchmarks/installed_models.py [--images 10000] [--data-dir DIR] [--json] [--smoke]

For each model, the output contains the total size of its two exported files; the largest pixel difference over as many
generated images as there are test images; the largest difference in the posterior's mean and in its standard deviation
over the test images; and the bound in nats per image, with its change. Both versions of a model get the same noise.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import cvae
from cvae import model_zoo
from cvae.data import load_dataset
from cvae.evaluation.bounds import as_float, bounds
from cvae.evaluation.exported_scorer import ExportedScorer
from cvae.evaluation.generation import subsample
from cvae.run import DECODER, ENCODER, read_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from setup import halve

FILES = (DECODER, ENCODER)

MODELS = ("mnist-ladder", "mnist-resnet-conditional", "mnist-resnet-flow")
"""Models whose exported files are in the wheel."""


def compare(name: str, folder: Path, images: int, data_dir: str | None) -> dict[str, Any]:
    """Compare a model with a copy that stores large weights in 16 bits and is written to `folder`."""
    source = model_zoo.model(name)
    for file in FILES:
        (folder / file).write_bytes(halve((source / file).read_bytes()))
    full, half = cvae.load(source), cvae.load(folder)

    noise, classes = full.noise(images, seed=0), full.spec.classes
    indices = None if classes is None else np.arange(images) % len(classes)
    pixels, halved_pixels = (model.decode(noise, label_index=indices) for model in (full, half))

    data = replace(read_config(source).training.data_config, data_dir=data_dir)
    test = load_dataset(data).test
    assert test is not None
    test = subsample(test, images)
    labels = None if classes is None else test.labels
    codes, halved_codes = (model.encode(as_float(test.images[:]), label_index=labels) for model in (full, half))
    nats, halved_nats = (
        float(bounds(ExportedScorer(model), test.images, labels, samples=1).bound.mean()) for model in (full, half)
    )
    return {
        "bytes": sum((source / file).stat().st_size for file in FILES),
        "halved_bytes": sum((folder / file).stat().st_size for file in FILES),
        "pixel_difference": float(np.abs(pixels - halved_pixels).max()),
        "mean_difference": float(np.abs(codes[0] - halved_codes[0]).max()),
        "std_difference": float(np.abs(codes[1] - halved_codes[1]).max()),
        "bound": nats,
        "bound_difference": halved_nats - nats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="Number of test and generated images.")
    parser.add_argument("--data-dir", metavar="DIR", help="Folder of the data sets.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--smoke", action="store_true", help="Use 64 images.")
    args = parser.parse_args()
    report = {}
    for name in MODELS:
        with TemporaryDirectory() as folder:
            report[name] = compare(name, Path(folder), 64 if args.smoke else args.images, args.data_dir)
    if args.json:
        print(json.dumps(report))
        return
    print("| model | MB | MB installed | pixel | posterior mean | posterior std | bound, nats | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in report.items():
        sizes = [f"{row[key] / 1e6:.2f}" for key in ("bytes", "halved_bytes")]
        differences = [f"{row[f'{key}_difference']:.1e}" for key in ("pixel", "mean", "std")]
        nats = [f"{row['bound']:.2f}", f"{row['bound_difference']:+.4f}"]
        print("|", " | ".join([f"`{name}`", *sizes, *differences, *nats]), "|")


if __name__ == "__main__":
    main()
