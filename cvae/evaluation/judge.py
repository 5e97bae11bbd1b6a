"""A frozen classifier that comes with cvae: what it takes an image for, and the features it does so by. Torch-free."""

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cvae.errors import CvaeError, UsageError, near
from cvae.runtime import protobuf

KEY = "cvae-classifier"
"""The key of the ONNX metadata entry that holds a classifier's facts."""

SHIPPED = {"mnist": ("mnist-classifier.onnx", "3e62da9e39c7024654a841c0b45b39ce20c7cf4f3555e3f182e9b499dd36639e")}
"""Name -> file beside this one, and its SHA-256."""

CHUNK = 500


@dataclass(frozen=True)
class Judge:
    """Features of images and, of a classifier, the classes.

    `name` names the protocol in a report; `features` maps images (N, C, H, W) float32 in [0, 1] to (N, D). `classes`
    and `accuracy`, on real test images, are those of a classifier; `predict` gives (N,).
    """

    name: str
    features: Callable[[np.ndarray], np.ndarray]
    predict: Callable[[np.ndarray], np.ndarray] | None = None
    classes: tuple[str, ...] | None = None
    accuracy: float | None = None


def judge(name: str) -> Judge:
    """A shipped classifier by its name, or `module:callable`, which maps images (N, C, H, W) to features (N, D).

    Raises:
        UsageError: there is no such classifier, module or callable.
        CvaeError: the classifier's file is damaged.
    """
    if name in SHIPPED:
        return _shipped(name)
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"--features {name!r}: {near(name, SHIPPED)}; or MODULE:CALLABLE for features of your own")
    try:
        features = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--features {name!r} can't be imported: {error}") from error
    return Judge(name=name, features=features)


def _shipped(name: str) -> Judge:
    file, sha256 = SHIPPED[name]
    path = Path(__file__).parent / file
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CvaeError(f"{str(path)!r} is damaged: install cvae-onnx again")
    facts = json.loads(protobuf.metadata(data, str(path))[KEY])
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(output: str, images: np.ndarray) -> np.ndarray:
        parts = (images[i : i + CHUNK] for i in range(0, len(images), CHUNK))
        return np.concatenate([session.run([output], {"image": part})[0] for part in parts])

    return Judge(
        name=f"{file}, sha256 {sha256[:12]}",
        features=lambda images: run("features", images),
        predict=lambda images: run("logits", images).argmax(1),
        classes=tuple(facts["classes"]),
        accuracy=facts["accuracy"],
    )
