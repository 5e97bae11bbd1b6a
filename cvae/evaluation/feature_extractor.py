"""Feature extractors: networks that predict conditions, or the user's own function. Does not import torch.

The user's own ONNX files are in `cvae.evaluation.predictor`.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from cvae.conditions import Condition, label_condition, single_category
from cvae.errors import CvaeError, UsageError, one_line, suggest
from cvae.evaluation.condition_metrics import Scores, read_outputs
from cvae.runtime.scan import protobuf
from cvae.serialization import from_dict

METADATA_KEY = "cvae-classifier"
"""Key of the ONNX metadata entry that holds the conditions that a classifier predicts, and its scores."""

MNIST_CLASSIFIER = "mnist-classifier.onnx", "3e62da9e39c7024654a841c0b45b39ce20c7cf4f3555e3f182e9b499dd36639e"
CLASSIFIERS = {"mnist": MNIST_CLASSIFIER, "mnist-small": MNIST_CLASSIFIER}
"""Bundled classifiers: data set -> file in this folder, and its SHA-256."""

TRAINED = "trained"
"""Name of the classifier that is trained on the user's own data, see `cvae.api.classifier`."""

CLASSIFIER_VERSION = 2
"""Version of the architecture and the training of classifiers. Different versions have different features."""

BATCH_SIZE = 100
"""Number of images per batch of a classifier."""


@dataclass(frozen=True)
class FeatureExtractor:
    """A function that maps images to features. A classifier also predicts labels or other conditions.

    Attributes:
        name: name of the extractor in a report.
        features: function from images (N, C, H, W) float32 in [0, 1] to features (N, D); None for a predictor of
            conditions that has no features.
        outputs: function from images to outputs (N, O), for a classifier (see `cvae.evaluation.condition_metrics`).
        image_shape: input shape (C, H, W) of a classifier.
        conditions: conditions that a classifier predicts.
        scores: scores of the predictions on real held-out images.
    """

    name: str
    features: Callable[[np.ndarray], np.ndarray] | None
    outputs: Callable[[np.ndarray], np.ndarray] | None = None
    image_shape: tuple[int, int, int] | None = None
    conditions: tuple[Condition, ...] = ()
    scores: Scores = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes if the extractor predicts only a category, else None."""
        category = single_category(self.conditions)
        return None if category is None else category.values

    @property
    def accuracy(self) -> float | None:
        """Accuracy on real held-out images if the extractor predicts only a category, else None."""
        category = single_category(self.conditions)
        return None if category is None else self.scores.get(category.name, {}).get("accuracy")

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the class indices (N,) of images. The extractor must predict only a category."""
        (indices,) = self.predict_conditions(images).values()
        return indices

    def predict_conditions(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values of the conditions of images, by name (see `condition_metrics.read_outputs`)."""
        return {} if self.outputs is None else read_outputs(self.conditions, self.outputs(images))


PIXELS = FeatureExtractor("pixels", lambda images: images.reshape(len(images), -1))
"""Extractor that returns the pixels, for the nearest training images of images without labels."""


def load_feature_extractor(name: str) -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: name of a bundled classifier, or `module:callable` for a function that maps images (N, C, H, W) to
            features (N, D). The module may be in the current working directory.

    Raises:
        UsageError: If the classifier, module or callable does not exist. The returned extractor also raises it if
            the user's function fails or does not return finite features (N, D).
        CvaeError: If the classifier's file is damaged.
    """
    if name in CLASSIFIERS:
        return _load_bundled(name)
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(
            f"--features {name!r} is neither {TRAINED}, a bundled classifier, MODULE:CALLABLE nor PATH.onnx; "
            f"{suggest(name, [TRAINED, *CLASSIFIERS])}"
        )
    if "" not in sys.path:
        sys.path.append("")  # a console script's sys.path contains the script's folder, not the working directory
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may raise anything
        raise UsageError(f"--features {name!r} can't be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UsageError(f"--features {name!r} is not a function; it must map images (N, C, H, W) to features (N, D)")

    def features(images: np.ndarray) -> np.ndarray:
        try:
            values = np.asarray(function(images))
        except Exception as error:  # the user's function may raise anything
            raise UsageError(f"--features {name!r} failed: {type(error).__name__}: {error}") from error
        if values.ndim != 2 or len(values) != len(images) or not np.isfinite(values).all():
            raise UsageError(
                f"--features {name!r} returned an array {values.shape} for {len(images)} images; it must return finite "
                "features (N, D)"
            )
        return values

    return FeatureExtractor(name=name, features=features)


def _load_bundled(name: str) -> FeatureExtractor:
    file, sha256 = CLASSIFIERS[name]
    path = Path(__file__).parent / file
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CvaeError(f"{str(path)!r} is damaged; install cvae-onnx again")
    return load_classifier(data, file)


def load_classifier(data: bytes, name: str) -> FeatureExtractor:
    """Load a classifier.

    Args:
        data: content of an ONNX file with the input "image", the outputs "logits" and "features", and the conditions
            and the scores in its metadata.
        name: name of the classifier in a report, to which the hash of the file is added.

    Raises:
        CvaeError: If the file is damaged.
    """
    try:
        conditions, scores = _read_metadata(json.loads(protobuf.read_metadata(data, name)[METADATA_KEY]))
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    except CvaeError:
        raise
    except Exception as error:  # onnxruntime raises a dozen types without a common base class
        raise CvaeError(f"the classifier {name!r} is damaged: {one_line(error)}") from error

    def run(output: str, images: np.ndarray) -> np.ndarray:
        batches = (images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE))
        return np.concatenate([session.run([output], {"image": batch})[0] for batch in batches])

    return FeatureExtractor(
        name=f"{name}, sha256 {hashlib.sha256(data).hexdigest()[:12]}",
        features=lambda images: run("features", images),
        outputs=lambda images: run("logits", images),
        image_shape=tuple(session.get_inputs()[0].shape[1:]),
        conditions=conditions,
        scores=scores,
    )


def make_metadata(conditions: Sequence[Condition], scores: Scores) -> str:
    """Return the value of the metadata entry of a classifier's file."""
    return json.dumps({"conditions": [condition.to_json() for condition in conditions], "scores": scores})


def _read_metadata(metadata: Mapping[str, Any]) -> tuple[tuple[Condition, ...], Scores]:
    if "classes" in metadata:  # the bundled classifier
        conditions = label_condition(metadata["classes"])
        return conditions, {conditions[0].name: {"accuracy": metadata["accuracy"]}}
    return tuple(from_dict(Condition, condition) for condition in metadata["conditions"]), metadata["scores"]
