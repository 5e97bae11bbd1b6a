"""A model repository for Triton Inference Server, and for what serves such a folder: KServe, Ray Serve. Torch-free.

Layout: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
Fields: `ModelConfig` in https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

import json
import re
from pathlib import Path

from cvae.atomic import atomic_folder
from cvae.errors import UsageError
from cvae.exporters.exported import read_exported
from cvae.runtime.session import CHUNK
from cvae.spec import Spec

MAX_DELAY = 1000
"""Microseconds that a request may wait for others to share a batch with."""

CONFIG = "config.pbtxt"


def export(run: str | Path, *, out: str = "model_repository", encoder: bool = False) -> list[Path]:
    """Write an exported model into the model repository `out`, as NAME and, with `encoder`, NAME-encoder too.

    Each is a folder of a config.pbtxt and of 1/model.onnx, the bytes of the exported file. Other models that are in
    the repository stay there.

    Args:
        run: a run's folder, or an exported decoder.

    Raises:
        UsageError: the repository has a model of that name, or the encoder has other weights.
        CvaeError: the run was not exported yet, a file is damaged or refused, or the repository can't be written.
    """
    models = {}
    for role, (spec, data) in read_exported(Path(run), encoder=encoder).items():
        target = Path(out) / (folder_name(spec.name) + "-encoder" * (role == "encoder"))
        if target.exists():
            raise UsageError(f"{str(target)!r} exists already; remove it, or choose another --out")
        models[target] = spec, data
    for target, (spec, data) in models.items():
        with atomic_folder(target) as temporary_path:
            (temporary_path / CONFIG).write_text(config(spec, target.name), "utf-8")
            (temporary_path / "1").mkdir()
            (temporary_path / "1" / "model.onnx").write_bytes(data)
    return [target / name for target in models for name in (CONFIG, "1/model.onnx")]


def folder_name(name: str) -> str:
    """A model's name as that of a folder and in a URL, whatever a file from elsewhere calls itself."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"


def config(spec: Spec, name: str) -> str:
    """The text of a config.pbtxt. The label, (B,) to the graph, is (B, 1) to clients: Triton wants a dimension."""
    noise = _tensor("noise", "FP32", spec.latent_dim)
    image = _tensor("image", "FP32", *spec.image_shape)
    label = [] if spec.classes is None else [_tensor("label", "INT64", 1, more=" reshape { shape: [ ] }")]
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
# What the file says of itself, for clients: class names, shapes, terms.
parameters {{ key: "cvae" value {{ string_value: {json.dumps(spec.to_json())} }} }}
"""


def _tensor(name: str, kind: str, *dims: int, more: str = "") -> str:
    return f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ {", ".join(map(str, dims))} ]{more} }}'


def _lines(tensors: list[str]) -> str:
    return ",".join(f"\n  {tensor}" for tensor in tensors)
