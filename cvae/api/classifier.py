"""The classifier that `cvae.evaluate(features="trained")` trains on the user's own data."""

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from cvae.api.arguments import Note, require_torch, send
from cvae.config import DataConfig
from cvae.errors import CvaeError, one_line

if TYPE_CHECKING:
    from cvae.evaluation.feature_extractor import FeatureExtractor
    from cvae.evaluation.splits import PredictorImages

Progress = Callable[[str, int, int], None]


def train_extractor(
    data: DataConfig,
    *,
    device: str = "auto",
    note: Note = None,
    progress: Progress = lambda stage, done, total: None,
) -> "FeatureExtractor":
    """Return the classifier of a data set from the cache, or train it. It predicts all conditions of the data.

    Args:
        data: the data set. Its size and excluded classes matter, its binarization and limit do not.
        device: torch device, or "auto".
        note: function called with each message for the user.
        progress: function called with the name of the stage, the number of finished items, and the total.

    Raises:
        UsageError: If the data set has no conditions or no held-out images.
        MissingExtraError: If the classifier is not in the cache, and torch is not installed.
        CvaeError: If the cache can't be written.
    """
    from cvae.atomic import cache_root, expand_user, lock_folder, remove_stale_files, write_file
    from cvae.evaluation.feature_extractor import load_classifier
    from cvae.evaluation.splits import load_predictor_images

    images = load_predictor_images(data, "--features trained")
    folder = cache_root(expand_user(data.data_dir) if data.data_dir else None) / "classifiers"
    path = folder / f"{_hash(images)}.onnx"
    name = f"classifier trained on {one_line(images.dataset.name, 40)}"
    with lock_folder(folder, wait=True):  # another process may be training the same classifier
        try:
            return load_classifier(path.read_bytes(), name)
        except (OSError, CvaeError):
            require_torch("--features trained")
        remove_stale_files(folder)
        what = _describe_conditions(images)
        count = f"{len(images.dataset.train):,} images"
        send(note, f"training a classifier{what} on {count}, once for all models of this data")
        write_file(path, _train(images, device, progress))
    extractor = load_classifier(path.read_bytes(), name)
    send(note, f"the classifier {_describe_scores(extractor, len(images.held_out))}: {path}")
    return extractor


def _describe_conditions(images: "PredictorImages") -> str:
    """Return the names of the conditions to predict, or "" if there are only labels."""
    from cvae.conditions import single_category
    from cvae.data import list_conditions

    conditions = list_conditions(images.dataset)
    return "" if single_category(conditions) else f" of {', '.join(condition.name for condition in conditions)}"


def _describe_scores(extractor: "FeatureExtractor", count: int) -> str:
    """Describe how well a classifier predicts the conditions of held-out images."""
    if extractor.accuracy is not None:
        return f"classifies {extractor.accuracy:.1%} of {count:,} held-out images correctly"
    scores = [
        f"{name} {metric.replace('_', ' ')} {value:.4g}"
        for name, metrics in extractor.scores.items()
        for metric, value in metrics.items()
        if isinstance(value, float)  # None, or a dict of those of each attribute
    ]
    return f"predicts {count:,} held-out images with {', '.join(scores)}"


def _train(images: "PredictorImages", device: str, progress: Progress) -> bytes:
    """Train a classifier, and return it as an ONNX file, whose metadata contain its scores on held-out images."""
    import torch

    from cvae.data import condition_rows, list_conditions
    from cvae.engine.resolve import choose_device
    from cvae.evaluation.condition_metrics import read_outputs, score_conditions
    from cvae.evaluation.feature_extractor import METADATA_KEY, make_metadata
    from cvae.evaluation.run_scorer.classifier import fit, predict
    from cvae.exporters.onnx.graph import trace

    dataset, held_out = images
    conditions, rows, held_out_rows = list_conditions(dataset), condition_rows(dataset.train), condition_rows(held_out)
    assert rows is not None and held_out_rows is not None
    model = fit(
        dataset.train.images,
        rows,
        conditions,
        device=choose_device(device),
        progress=lambda done, total: progress("training the classifier", done, total),
    ).cpu()
    predicted = read_outputs(conditions, predict(model, held_out.images[:]))
    scores = score_conditions(conditions, held_out_rows, predicted)
    graph = trace(model, {"image": torch.rand(2, *dataset.train.images.shape[1:])}, ("logits", "features"))
    graph.metadata_props.add(key=METADATA_KEY, value=make_metadata(conditions, scores))
    return graph.SerializeToString(deterministic=True)


def _hash(images: "PredictorImages") -> str:
    """Return a hash of the images, the conditions, their values and the version of the training."""
    import numpy as np

    from cvae.data import condition_rows, list_conditions
    from cvae.evaluation.feature_extractor import CLASSIFIER_VERSION

    conditions = [condition.to_json() for condition in list_conditions(images.dataset)]
    digest = hashlib.sha256(json.dumps([CLASSIFIER_VERSION, conditions]).encode())
    for split in (images.dataset.train, images.held_out):
        digest.update(json.dumps(split.images.shape).encode())
        for start in range(0, len(split), 1000):  # the images may be on disk
            digest.update(np.ascontiguousarray(split.images[start : start + 1000]).data)
        digest.update(np.ascontiguousarray(condition_rows(split)).data)
    return digest.hexdigest()[:16]
