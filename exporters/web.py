"""Export to a static web page that runs a model in the browser: no code on the server, no other host. Free of torch."""

import json
from pathlib import Path

import numpy as np

from cvae.atomic import atomic_folder
from cvae.errors import UsageError
from cvae.exporters import onnxruntime_web
from cvae.exporters.base import read_exported
from cvae.run import DECODER, ENCODER, exported_file
from cvae.runtime import Model, load
from cvae.runtime.find import find

PAGE = ("index.html", "style.css", "app.js", "cvae.js")
"""Files of the page, in the folder `page`. It reads the spec from the exported files."""

MANIFEST = "model.json"
"""What the exported files do not say: whether there is an encoder, and the order of the dimensions."""

DECODINGS = 1024
"""Approximate number of images that are decoded to rank the dimensions."""


def export(model: str | Path, *, out: str | Path = "web") -> list[Path]:
    """Write a page that generates images with an exported model into a new folder, all files or none.

    It works under any path of a static server. If the model has an encoder, the page also redraws a visitor's own
    drawings and pictures.

    Args:
        model: Folder of exported files, path of a decoder, or name of a run or zoo model.
        out: Folder to create.

    Returns:
        The paths of the files.

    Raises:
        UsageError: Something exists at `out` already, or the encoder has other weights.
        CvaeError: A file is missing, damaged or refused, or the files of onnxruntime can't be fetched.
    """
    out = Path(out)
    if out.exists():
        raise UsageError(f"{str(out)!r} exists already; choose another --out")
    decoder = exported_file(find(model), DECODER)
    exported = read_exported(decoder, encoder=decoder.with_name(ENCODER).is_file())
    files = {name: Path(__file__).with_name("page").joinpath(name).read_bytes() for name in PAGE}
    files |= {f"{role}.onnx": file.data for role, file in exported.items()}
    ranking = np.argsort(-measure_effects(load(decoder)), kind="stable")
    manifest = {"encoder": ENCODER in files, "dimensions": ranking.tolist()}
    files |= {MANIFEST: json.dumps(manifest).encode(), **onnxruntime_web.files()}
    with atomic_folder(out) as temporary_path:
        for name, data in files.items():
            (temporary_path / name).write_bytes(data)
    return [out / name for name in files]


def measure_effects(model: Model) -> np.ndarray:
    """Return how much each dimension of the noise changes the image: (Z,), in squared pixel values.

    This is the mean squared difference between the images at -1 and +1 of that dimension, over random codes. `cvae
    plot` ranks dimensions by their rate instead, for which it needs data.
    """
    latent_dim, classes = model.spec.latent_dim, model.spec.classes
    count = max(1, DECODINGS // (2 * latent_dim))
    codes = model.noise(count, seed=0)  # (N, Z)
    labels = None if classes is None else np.arange(count).repeat(2) % len(classes)
    changes = []
    for dimension in range(latent_dim):
        ends = codes.repeat(2, axis=0)  # (N, Z) -> (2 * N, Z)
        ends[:, dimension] = np.tile([-1, 1], count)
        images = model.decode(ends, label_index=labels)
        changes.append(np.square(images[1::2] - images[::2]).mean())
    return np.array(changes)
