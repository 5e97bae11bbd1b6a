"""Bulk generation with Ray Data on all cores or machines. The Parquet files have the columns id, label and png.

    python bulk.py --n 1000000 --out images [--model NAME] [--seed 0] [--condition age=40]

The noise of image i depends only on (seed, i), and its class is i modulo the number of classes, so an image does not
depend on the machine or the batch. With `--condition`, all images have these values instead, and conditions that are
left out are unknown. On a cluster, the model must be a path that all machines can read, or hf://owner/name. To try the
script, use `--n 2`, which takes seconds.
"""

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

import cvae
from cvae.imaging import to_pil
from cvae.runtime.conditions import condition_rows

BATCH_SIZE = 256


class Generator:
    """Worker that loads the model once, and maps ids (N,) to ids, labels and PNG files."""

    def __init__(self, model: str | None, seed: int, values: Mapping[str, str], extrapolate: bool) -> None:
        self.model = cvae.load(model, threads=1)  # Ray runs one worker per core
        self.seed, self.values, self.extrapolate = seed, values, extrapolate

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        ids, spec = batch["id"], self.model.spec
        noise = np.stack(
            [np.random.default_rng([self.seed, i]).standard_normal(spec.latent_dim, np.float32) for i in ids]
        )  # (N, Z)
        labels = None if spec.classes is None or self.values else ids % len(spec.classes)
        rows = condition_rows(spec, len(ids), None, labels, self.values, extrapolate=self.extrapolate)
        images = self.model.decode_rows(noise, rows)
        files = [io.BytesIO() for _ in ids]
        for image, file in zip(images, files, strict=True):
            to_pil(image).save(file, "PNG")
        names = images.labels or [""] * len(ids)
        return {"id": ids, "label": np.array(names), "png": [file.getvalue() for file in files]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, metavar="N", help="Number of images.")
    parser.add_argument("--out", type=Path, default=Path("images"), metavar="PATH", help="Folder for Parquet files.")
    parser.add_argument("--model", metavar="MODEL", help="Run folder, exported file, zoo model or hf://owner/name.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the noise.")
    parser.add_argument(
        "--condition", action="append", default=[], metavar="NAME=VALUE", help="Value of a condition; may be repeated."
    )
    parser.add_argument("--extrapolate", action="store_true", help="Accept numbers beyond the training data.")
    args = parser.parse_args()

    if args.out.exists():
        parser.error(f"{str(args.out)!r} already exists; choose a different --out")
    values = {}
    for flag in args.condition:
        name, equals, values[name] = flag.partition("=")
        if not equals:
            parser.error(f"--condition {flag!r} is not NAME=VALUE")
    model = str(Path(args.model).resolve()) if args.model and Path(args.model).exists() else args.model
    arguments = (model, args.seed, values, args.extrapolate)
    try:  # before any worker starts
        Generator(*arguments)({"id": np.array([0])})
    except cvae.CvaeError as error:
        parser.error(str(error))
    workers = (1, int(ray.cluster_resources()["CPU"]))  # minimum and maximum
    images = ray.data.range(args.n).map_batches(
        Generator, fn_constructor_args=arguments, batch_size=BATCH_SIZE, concurrency=workers
    )
    images.write_parquet(str(args.out.resolve()))


if __name__ == "__main__":
    ray.init(logging_level="warning")
    main()
