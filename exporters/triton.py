"""Export to a model repository of Triton Inference Server, which KServe and Ray Serve read too. Free of torch.

Layout: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
Fields: `ModelConfig` in https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

import json
import re
from contextlib import ExitStack
from pathlib import Path

from cvae.atomic import atomic_folder
from cvae.errors import UsageError
from cvae.exporters.base import read_exported
from cvae.runtime.session import CHUNK
from cvae.spec import Spec

MAX_DELAY = 1000
"""Microseconds that a request may wait for others to join its batch."""

CONFIG = "config.pbtxt"


def export(model: str | Path, *, out: str = "model_repository", encoder: bool = False) -> list[Path]:
    """Add an exported model to a model repository, as NAME and, with `encoder`, NAME-encoder.

    Each is a folder with a config.pbtxt and 1/model.onnx, a copy of the exported file. Other models in the repository
    stay as they are.

    Args:
        model: Folder of exported files, or path of a decoder.
        out: Folder of the model repository.
        encoder: Add the encoder too, as a second model.

    Returns:
        The paths of the files.

    Raises:
        UsageError: The repository has a model of that name, or the encoder has other weights.
        CvaeError: A file is missing, damaged or refused, or the repository can't be written.
    """
    models = {}
    for role, (spec, data) in read_exported(Path(model), encoder=encoder).items():
        target = Path(out) / (folder_name(spec.name) + "-encoder" * (role == "encoder"))
        if target.exists():
            raise UsageError(f"{str(target)!r} exists already; remove it, or choose another --out")
        models[target] = spec, data
    with ExitStack() as stack:  # the folders get their names when it closes, after all are written
        for target, (spec, data) in models.items():
            folder = stack.enter_context(atomic_folder(target))
            (folder / CONFIG).write_text(config_text(spec, target.name), "utf-8")
            (folder / "1").mkdir()
            (folder / "1" / "model.onnx").write_bytes(data)
    return [target / name for target in models for name in (CONFIG, "1/model.onnx")]


def folder_name(name: str) -> str:
    """Return the name of a model in the form of a folder name, safe in paths and URLs; a file may claim any name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"


def config_text(spec: Spec, name: str) -> str:
    """Return the config.pbtxt of a model.

    The label has the shape (B,) in the graph and (B, 1) for clients, because Triton requires a dimension.
    """
    noise = _tensor("noise", "FP32", spec.latent_dim)
    image = _tensor("image", "FP32", *spec.image_shape)
    label = [] if spec.classes is None else [_tensor("label", "INT64", 1, suffix=" reshape { shape: [ ] }")]
    if spec.role == "decoder":
        inputs, outputs = [noise, *label], [image]
    else:
        inputs = [image, *label]
        outputs = [_tensor(name, "FP32", spec.latent_dim) for name in ("mean", "std")]
    return f"""name: {json.dumps(name)}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {CHUNK}
input [{_lines(inputs)}
]
output [{_lines(outputs)}
]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY} }}
# The spec of the exported file, for clients: class names, shapes, license.
parameters {{ key: "cvae" value {{ string_value: {json.dumps(spec.to_json())} }} }}
"""


def _tensor(name: str, dtype: str, *dims: int, suffix: str = "") -> str:
    return f'{{ name: "{name}" data_type: TYPE_{dtype} dims: [ {", ".join(map(str, dims))} ]{suffix} }}'


def _lines(tensors: list[str]) -> str:
    return ",".join(f"\n  {tensor}" for tensor in tensors)
