"""A million images on all cores, or all machines, with Ray Data: Parquet files of id, label and PNG.

    python bulk.py --n 1000000 --out images [--model NAME] [--seed 0]

Image i is drawn from (seed, i), of class i modulo the number of classes, whatever machine draws it and in whatever
batch. On a cluster the model is a path that all machines see, or hf://owner/name.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

BATCH = 256


class Draw:
    """Ids (N,) -> ids, labels and PNG files. Made once for each worker: the model is loaded once."""

    def __init__(self, model: str | None, seed: int) -> None:
        import cvae

        self.model = cvae.load(model, threads=1)  # Ray runs a worker for each core
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
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("images"))
    parser.add_argument("--model", help="a run, an exported file, a zoo model, hf://owner/name")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    if args.out.exists():
        parser.error(f"{str(args.out)!r} exists already; choose another --out")
    model = str(Path(args.model).resolve()) if args.model and Path(args.model).exists() else args.model
    workers = (1, int(ray.cluster_resources()["CPU"]))  # at least, and at most
    images = ray.data.range(args.n).map_batches(
        Draw, fn_constructor_args=(model, args.seed), batch_size=BATCH, concurrency=workers
    )
    images.write_parquet(str(args.out.resolve()))


if __name__ == "__main__":
    ray.init(logging_level="warning")
    main()
