"""Export to a model repository for Triton Inference Server, KServe and Ray Serve. Does not import torch.

Layout: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
Fields: `ModelConfig` in https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from cvae.atomic import atomic_folder, read_at_most
from cvae.conditions import graph_inputs
from cvae.errors import CvaeError, UsageError
from cvae.exporters.base import read_exported
from cvae.runtime.session import CHUNK
from cvae.spec import Spec

MAX_DELAY = 1000
"""Maximum time in microseconds that a request waits for other requests to join its batch."""

TYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}
"""Names of types in Triton."""

CONFIG, MODEL = "config.pbtxt", "1/model.onnx"
"""Files of a model in a repository."""


def export(model: str | Path, *, out: str = "model_repository", encoder: bool = False) -> list[Path]:
    """Add an exported model to a model repository as NAME, and its encoder as NAME-encoder if `encoder` is True.

    Each of them is a folder with config.pbtxt and 1/model.onnx, a copy of the exported file. Other models in the
    repository do not change. Folders that an earlier export of the same files has written are kept.

    Args:
        model: folder of exported files, or path of a decoder.
        out: folder of the model repository.
        encoder: whether to add the encoder too, as a second model.

    Returns:
        The paths of the files.

    Raises:
        UsageError: If the repository has a different model of the same name, or the encoder and the decoder were
            exported from different weights.
        CvaeError: If a file is missing, damaged or rejected, or the repository can't be written.
    """
    models: dict[Path, dict[str, bytes]] = {}
    for role, (spec, data) in read_exported(Path(model), encoder=encoder).items():
        target = Path(out) / (make_folder_name(spec.name) + "-encoder" * (role == "encoder"))
        models[target] = {CONFIG: format_config(spec, target.name).encode(), MODEL: data}
    # Folders with the same files stay: an earlier export may have been killed between its two folders.
    missing = [target for target, files in models.items() if not _has_files(target, files)]
    for target in missing:
        if target.exists():
            raise UsageError(f"{str(target)!r} already exists; remove it, or choose a different --out")
    with ExitStack() as stack:  # the folders are renamed when the stack closes, after all have been written
        for target in missing:
            folder = stack.enter_context(atomic_folder(target))
            (folder / MODEL).parent.mkdir()
            for name, content in models[target].items():
                (folder / name).write_bytes(content)
    return [target / name for target, files in models.items() for name in files]


def _has_files(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Return whether a folder contains these files with the same content."""
    try:
        return all(read_at_most(folder / name, len(content)) == content for name, content in files.items())
    except CvaeError:
        return False


def make_folder_name(name: str) -> str:
    """Return a folder name that is safe in paths and URLs. The name of a model may come from an untrusted file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"


def format_config(spec: Spec, name: str) -> str:
    """Return the text of a model's config.pbtxt.

    A category or a number has shape (B,) in the graph and (B, 1) for clients, because Triton requires a dimension
    besides the batch.
    """
    noise = _format_tensor("noise", "FP32", spec.latent_dim)
    image = _format_tensor("image", "FP32", *spec.image_shape)
    conditions = [
        _format_tensor(name, TYPES[dtype], columns or 1, suffix="" if columns else " reshape { shape: [ ] }")
        for name, (dtype, columns) in graph_inputs(spec.conditions).items()
    ]
    if spec.role == "decoder":
        inputs, outputs = [noise, *conditions], [image]
    else:
        inputs = [image, *conditions]
        outputs = [_format_tensor(name, "FP32", spec.latent_dim) for name in ("mean", "std")]
    return f"""name: {json.dumps(name)}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {CHUNK}
input [{_join_lines(inputs)}
]
output [{_join_lines(outputs)}
]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY} }}
# The spec of the exported file, for clients: conditions, shapes, license.
parameters {{ key: "cvae" value {{ string_value: {json.dumps(spec.to_json())} }} }}
"""


def _format_tensor(name: str, dtype: str, *dims: int, suffix: str = "") -> str:
    return f'{{ name: "{name}" data_type: TYPE_{dtype} dims: [ {", ".join(map(str, dims))} ]{suffix} }}'


def _join_lines(tensors: list[str]) -> str:
    return ",".join(f"\n  {tensor}" for tensor in tensors)
