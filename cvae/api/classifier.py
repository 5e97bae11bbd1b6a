"""The classifier that `cvae.evaluate(features="trained")` trains on the user's own data."""

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from cvae.api.arguments import Note, require_torch, send
from cvae.config import DataConfig
from cvae.errors import CvaeError, one_line

if TYPE_CHECKING:
    from cvae.evaluation.evaluate import LabelledImages
    from cvae.evaluation.feature_extractor import FeatureExtractor

Progress = Callable[[str, int, int], None]


def train_extractor(
    data: DataConfig,
    *,
    device: str = "auto",
    note: Note = None,
    progress: Progress = lambda stage, done, total: None,
) -> "FeatureExtractor":
    """Return the classifier of a data set from the cache, or train it.

    Args:
        data: the data set. Its size and excluded classes matter, its binarization and limit do not.
        device: torch device, or "auto".
        note: function called with each message for the user.
        progress: function called with the name of the stage, the number of finished items, and the total.

    Raises:
        UsageError: If the data set has no labels or no held-out images.
        MissingExtraError: If the classifier is not in the cache, and torch is not installed.
        CvaeError: If the cache can't be written.
    """
    from cvae.atomic import cache_root, expand_user, lock_folder, remove_stale_files, write_file
    from cvae.evaluation.evaluate import load_labelled
    from cvae.evaluation.feature_extractor import load_classifier

    images = load_labelled(data, "--features trained")
    folder = cache_root(expand_user(data.data_dir) if data.data_dir else None) / "classifiers"
    path = folder / f"{_hash(images)}.onnx"
    name = f"classifier trained on {one_line(images.dataset.name, 40)}"
    with lock_folder(folder, wait=True):  # another process may be training the same classifier
        try:
            return load_classifier(path.read_bytes(), name)
        except (OSError, CvaeError):
            require_torch("--features trained")
        remove_stale_files(folder)
        send(note, f"training a classifier on {len(images.dataset.train):,} images, once for all models of this data")
        write_file(path, _train(images, device, progress))
    extractor = load_classifier(path.read_bytes(), name)
    accuracy = f"classifies {extractor.accuracy:.1%} of {len(images.held_out):,} held-out images correctly"
    send(note, f"the classifier {accuracy}: {path}")
    return extractor


def _train(images: "LabelledImages", device: str, progress: Progress) -> bytes:
    """Train a classifier, and return it as an ONNX file, whose metadata contain its accuracy on held-out images."""
    import torch

    from cvae.engine.resolve import choose_device
    from cvae.evaluation.feature_extractor import METADATA_KEY
    from cvae.evaluation.run_scorer.classifier import fit, predict
    from cvae.exporters.onnx.graph import trace

    dataset, held_out = images
    assert dataset.classes is not None and dataset.train.labels is not None
    model = fit(
        dataset.train.images,
        dataset.train.labels,
        len(dataset.classes),
        device=choose_device(device),
        progress=lambda done, total: progress("training the classifier", done, total),
    ).cpu()
    accuracy = float((predict(model, held_out.images[:]) == held_out.labels).mean())
    graph = trace(model, {"image": torch.rand(2, *dataset.train.images.shape[1:])}, ("logits", "features"))
    metadata = {"name": dataset.name, "data": dataset.name, "classes": dataset.classes, "accuracy": accuracy}
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    return graph.SerializeToString(deterministic=True)


def _hash(images: "LabelledImages") -> str:
    """Return a hash of the images, the labels, the classes and the version of the training."""
    import numpy as np

    from cvae.evaluation.feature_extractor import CLASSIFIER_VERSION

    digest = hashlib.sha256(json.dumps([CLASSIFIER_VERSION, images.dataset.classes]).encode())
    for split in (images.dataset.train, images.held_out):
        digest.update(json.dumps(split.images.shape).encode())
        for start in range(0, len(split), 1000):  # the images may be on disk
            digest.update(np.ascontiguousarray(split.images[start : start + 1000]).data)
        digest.update(np.asarray(split.labels).data)
    return digest.hexdigest()[:16]
