"""A frozen classifier that comes with cvae: what it takes an image for, and the features it does so by. Torch-free."""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cvae.errors import CvaeError, UsageError, near
from cvae.runtime.scan import protobuf

KEY = "cvae-classifier"
"""The key of the ONNX metadata entry that holds a classifier's facts."""

SHIPPED = {"mnist": ("mnist-classifier.onnx", "3e62da9e39c7024654a841c0b45b39ce20c7cf4f3555e3f182e9b499dd36639e")}
"""Name -> file beside this one, and its SHA-256."""

CHUNK = 500


@dataclass(frozen=True)
class FeatureExtractor:
    """Features of images and, of a classifier, the classes.

    `name` names the protocol in a report; `features` maps images (N, C, H, W) float32 in [0, 1] to (N, D). The rest is
    that of a classifier: the images it takes, `predict`, which gives (N,), and its accuracy on real test images.
    """

    name: str
    features: Callable[[np.ndarray], np.ndarray]
    predict: Callable[[np.ndarray], np.ndarray] | None = None
    image_shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    accuracy: float | None = None


def load_feature_extractor(name: str) -> FeatureExtractor:
    """A shipped classifier by its name, or `module:callable`, which maps images (N, C, H, W) to features (N, D).

    The module may lie in the working folder.

    Raises:
        UsageError: there is no such classifier, module or callable, or it gives something else.
        CvaeError: the classifier's file is damaged.
    """
    if name in SHIPPED:
        return _shipped(name)
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"--features {name!r}: {near(name, SHIPPED)}; or MODULE:CALLABLE for features of your own")
    if "" not in sys.path:
        sys.path.append("")  # the command's own folder stands there instead of the working folder
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the module is the user's, and may raise anything
        raise UsageError(f"--features {name!r} can't be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UsageError(f"--features {name!r} is no function: it should map images (N, C, H, W) to features (N, D)")

    def features(images: np.ndarray) -> np.ndarray:
        try:
            found = np.asarray(function(images))
        except Exception as error:  # it is the user's, and may raise anything
            raise UsageError(f"--features {name!r} failed: {type(error).__name__}: {error}") from error
        if found.ndim != 2 or len(found) != len(images) or not np.isfinite(found).all():
            raise UsageError(f"--features {name!r} gave {found.shape} for {len(images)} images, not finite (N, D)")
        return found

    return FeatureExtractor(name=name, features=features)


def _shipped(name: str) -> FeatureExtractor:
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

    return FeatureExtractor(
        name=f"{file}, sha256 {sha256[:12]}",
        features=lambda images: run("features", images),
        predict=lambda images: run("logits", images).argmax(1),
        image_shape=tuple(session.get_inputs()[0].shape[1:]),
        classes=tuple(facts["classes"]),
        accuracy=facts["accuracy"],
    )
