"""Bulk generation with Ray Data on all cores or machines. The Parquet files have the columns id, label and png.

    python bulk.py --n 1000000 --out images [--model NAME] [--seed 0]

The noise of image i depends only on (seed, i), and its class is i modulo the number of classes, so an image does not
depend on the machine or the batch. On a cluster, the model must be a path that all machines can read, or
hf://owner/name. To try the script, use `--n 2`, which takes seconds.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

BATCH_SIZE = 256


class Generator:
    """Worker that loads the model once, and maps ids (N,) to ids, labels and PNG files."""

    def __init__(self, model: str | None, seed: int) -> None:
        import cvae

        self.model = cvae.load(model, threads=1)  # Ray runs one worker per core
        self.seed = seed

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        from cvae.imaging import to_pil

        ids, spec = batch["id"], self.model.spec
        noise = np.stack(
            [np.random.default_rng([self.seed, i]).standard_normal(spec.latent_dim, np.float32) for i in ids]
        )  # (N, Z)
        labels = None if spec.classes is None else ids % len(spec.classes)
        files = [io.BytesIO() for _ in ids]
        for image, file in zip(self.model.decode(noise, label_index=labels), files, strict=True):
            to_pil(image).save(file, "PNG")
        names = [""] * len(ids) if spec.classes is None else [spec.classes[label] for label in labels]
        return {"id": ids, "label": np.array(names), "png": [file.getvalue() for file in files]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, metavar="N", help="Number of images.")
    parser.add_argument("--out", type=Path, default=Path("images"), metavar="PATH", help="Folder for Parquet files.")
    parser.add_argument("--model", metavar="MODEL", help="Run folder, exported file, zoo model or hf://owner/name.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the noise.")
    args = parser.parse_args()

    if args.out.exists():
        parser.error(f"{str(args.out)!r} already exists; choose a different --out")
    model = str(Path(args.model).resolve()) if args.model and Path(args.model).exists() else args.model
    workers = (1, int(ray.cluster_resources()["CPU"]))  # minimum and maximum
    images = ray.data.range(args.n).map_batches(
        Generator, fn_constructor_args=(model, args.seed), batch_size=BATCH_SIZE, concurrency=workers
    )
    images.write_parquet(str(args.out.resolve()))


if __name__ == "__main__":
    ray.init(logging_level="warning")
    main()
