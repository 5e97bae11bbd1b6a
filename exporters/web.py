"""A static folder to try a model in a browser: a page, the runtime, the exported files; no server code, no network."""

import json
from pathlib import Path

import numpy as np

from cvae.atomic import atomic_folder
from cvae.errors import UsageError
from cvae.exporters import onnxruntime_web
from cvae.exporters.exported import read_exported
from cvae.run import DECODER, ENCODER, exported_file
from cvae.runtime import Model, load
from cvae.runtime.find import find

PAGE = ("index.html", "style.css", "app.js", "cvae.js")
"""The page itself, which reads what it shows from the exported files."""

MANIFEST = "model.json"
"""What those do not say: whether there is an encoder, and the order of the dimensions."""

DECODINGS = 1024
"""About as many are made to rank the dimensions."""


def export(model: str | Path, *, out: str | Path = "web") -> list[Path]:
    """Write a page that draws with an exported model into the new folder `out`, whole or not at all.

    It works below any address of a plain static server. With an encoder, it redraws one's own drawings and pictures.

    Args:
        model: a run, or the name of a zoo model, or a decoder's file.

    Raises:
        UsageError: something is at `out` already, or the encoder has other weights.
        CvaeError: the model was not exported yet, a file is refused, or onnxruntime's files can't be fetched.
    """
    out = Path(out)
    if out.exists():
        raise UsageError(f"{str(out)!r} exists already; choose another --out")
    decoder = exported_file(find(model), DECODER)
    pair = read_exported(decoder, encoder=decoder.with_name(ENCODER).is_file())
    files = {name: Path(__file__).with_name("page").joinpath(name).read_bytes() for name in PAGE}
    files |= {f"{role}.onnx": file.data for role, file in pair.items()}
    ranking = np.argsort(-effects(load(decoder)), kind="stable")
    manifest = {"encoder": ENCODER in files, "dimensions": ranking.tolist()}
    files |= {MANIFEST: json.dumps(manifest).encode(), **onnxruntime_web.files()}
    with atomic_folder(out) as temporary_path:
        for name, data in files.items():
            (temporary_path / name).write_bytes(data)
    return [out / name for name in files]


def effects(model: Model) -> np.ndarray:
    """How much each dimension of the noise changes the image: (Z,), in squared pixel values.

    The mean squared difference of the images at -1 and at +1 of this dimension alone, over some codes. (`cvae plot`
    ranks by the rate instead, for which it needs data.)
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
