"""Export to a static web page that runs a model in the browser. Does not import torch.

The page needs no code on its server, and loads nothing from other hosts.
"""

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

PAGE = (
    "index.html", "style.css", "app.js", "address.js", "animation.js", "conditions.js", "controls.js", "cvae.js",
    "dom.js", "image.js", "pad.js", "runtime.js",
)  # fmt: skip
"""Files of the page, in the folder `page`. The page reads the spec from the exported files."""

MANIFEST = "model.json"
"""File that tells the page which other files there are, and how much each dimension changes the image."""

DECODINGS = 1024
"""Approximate number of images to decode for the ranking of the dimensions."""


def export(model: str | Path, *, out: str | Path = "web", webgpu: bool = True) -> list[Path]:
    """Create a folder with a page that generates images with an exported model. Either all files are written or none.

    The page works under any path of a static server. If the model has an encoder, the page also reconstructs a
    visitor's drawings and images.

    Args:
        model: folder of exported files, path of a decoder, or name of a run or zoo model.
        out: folder to create.
        webgpu: also include onnxruntime for WebGPU (4.2 MB). A browser downloads it only if it may decode faster.

    Returns:
        The paths of the files.

    Raises:
        UsageError: If `out` already exists, or the encoder and the decoder were exported from different weights.
        CvaeError: If a file is missing, damaged or rejected, or the onnxruntime files can't be downloaded.
    """
    out = Path(out)
    if out.exists():
        raise UsageError(f"{str(out)!r} already exists; choose a different --out")
    source = find(model)
    decoder = exported_file(source, DECODER)
    exported = read_exported(source, encoder=decoder.with_name(ENCODER).is_file())
    files = {name: Path(__file__).with_name("page").joinpath(name).read_bytes() for name in PAGE}
    files |= {f"{role}.onnx": file.data for role, file in exported.items()}
    effects = measure_effects(load(decoder))
    ranking = np.argsort(-effects, kind="stable")
    manifest = {
        "encoder": ENCODER in files,
        "webgpu": webgpu,
        "dimensions": ranking.tolist(),
        "effects": effects[ranking].round(4).tolist(),  # in the order of "dimensions"
    }
    files |= {MANIFEST: json.dumps(manifest).encode(), **onnxruntime_web.load_files(webgpu=webgpu)}
    with atomic_folder(out) as temporary_path:
        for name, data in files.items():
            (temporary_path / name).write_bytes(data)
    return [out / name for name in files]


def measure_effects(model: Model) -> np.ndarray:
    """Return how much each dimension of the noise changes the image: (Z,), in pixel values.

    The effect of a dimension is the root mean square, over random codes, of the difference between the image with -1 in
    this dimension and the image with +1. `cvae plot` ranks dimensions by their rate instead, but needs data for this.
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
        changes.append(np.sqrt(np.square(images[1::2] - images[::2]).mean()))
    return np.array(changes, np.float64)
