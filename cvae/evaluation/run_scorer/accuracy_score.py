"""The classification accuracy score: the accuracy of a classifier that was trained on generated images."""

from functools import partial
from typing import Any

import numpy as np

from cvae.config import DataConfig
from cvae.engine.resolve import choose_device
from cvae.errors import UsageError
from cvae.evaluation.bounds import Scorer
from cvae.evaluation.generation import Progress, generate_batches, is_binary
from cvae.evaluation.run_scorer.classifier import fit, predict
from cvae.evaluation.splits import load_labelled


def accuracy_score(
    scorer: Scorer, data: DataConfig, *, seed: int = 0, device: str = "cpu", progress: Progress
) -> dict[str, Any]:
    """Return the classification accuracy score of a conditional model.

    A classifier is trained on as many generated images as there are real training images, and tested on real images
    (Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887): test images or, if there are none, validation images.
    For comparison, the accuracy of a classifier that is trained on the real images is returned too.

    Raises:
        UsageError: If the model has no labels, or the data have no labelled images to test with.
    """
    if scorer.classes is None:
        raise UsageError(f"{scorer.name!r} has no labels, so a classifier can't learn from its images; remove --cas")
    dataset, test = load_labelled(data, "--cas")
    assert dataset.train.labels is not None
    real, labels = dataset.train.images[:], dataset.train.labels
    binary = is_binary(real)
    generated = []
    for image in generate_batches(scorer, labels, len(real), seed, binary):
        generated.append(np.round(255 * image).astype(np.uint8))
        progress("images to learn from", sum(map(len, generated)), len(real))
    accuracy = {}
    for name, images in (("generated", np.concatenate(generated)), ("real", real)):
        model = fit(
            images,
            labels,
            scorer.conditions,
            seed=seed,
            device=choose_device(device),
            progress=partial(progress, f"learning from {name}"),
        )
        accuracy[name] = float((predict(model, test.images[:]).argmax(1) == test.labels).mean())
    return {
        "classification_accuracy_score": accuracy["generated"],
        "classification_accuracy_of_real_data": accuracy["real"],
        "images_learnt_from": len(real),
    }
