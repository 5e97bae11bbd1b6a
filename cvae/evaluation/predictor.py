"""Predictor of conditions that the user passes as an ONNX file. Does not import torch.

The file is the user's own, like that of `--features module:callable`: it may have any operators, so it is not scanned.
Its size and its outputs are checked.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cvae.atomic import expand_user, read_at_most
from cvae.conditions import ATTRIBUTES, CATEGORY, NUMBER, Condition
from cvae.errors import CvaeError, UsageError, one_line
from cvae.evaluation.condition_metrics import count_outputs
from cvae.evaluation.feature_extractor import BATCH_SIZE, FeatureExtractor
from cvae.runtime.session import MAX_BYTES

SUFFIX = ".onnx"
"""Suffix of a predictor's file, which distinguishes it from the other feature extractors."""

FEATURES = "features"
"""Optional output (B, D) whose features are used for distances."""

FORM = {
    CATEGORY: "logits or probabilities ({columns} columns)",
    NUMBER: "one number for each image",
    ATTRIBUTES: "probabilities in 0..1 ({columns} columns)",
}
"""Output that a predictor must have for a condition of each kind."""


def load_predictor(
    path: str, conditions: Sequence[Condition], image_shape: tuple[int, int, int], model: str
) -> FeatureExtractor:
    """Load a predictor of the conditions of a model.

    Args:
        path: ONNX file with one input, images (B, C, H, W) float32 in [0, 1], and an output for each condition that it
            predicts, which has the name of the condition: logits or probabilities (B, K) for a category, numbers (B,)
            or (B, 1), and probabilities (B, K) for attributes. Other outputs are ignored, except `features` (B, D).
        conditions: conditions of the model.
        image_shape: shape (C, H, W) of the model's images.
        model: name of the model, for error messages.

    Raises:
        UsageError: If the inputs or outputs do not fit the model. The returned extractor also raises it if the outputs
            of images are wrong.
        CvaeError: If the file can't be read.
    """
    data = read_at_most(expand_user(path), MAX_BYTES)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so they need not be logged
    options.add_session_config_entry("session.load_model_format", "ONNX")
    flag = f"--features {path!r}"
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types without a common base class
        raise CvaeError(
            f"onnxruntime can't load {flag}: {one_line(error)}; use one ONNX file that contains its weights "
            "(torch.onnx.export with external_data=False)"
        ) from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not _fits(inputs[0].shape, image_shape):
        actual = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise UsageError(
            f"{flag} has the inputs {one_line(actual, 200)}; it must have one input, float images of shape "
            f"(batch, {', '.join(map(str, image_shape))}), with a batch of any size"
        )
    outputs = [output.name for output in session.get_outputs()]
    predicted = tuple(condition for condition in conditions if condition.name in outputs)
    if not predicted and FEATURES not in outputs:
        names = ", ".join([*(condition.name for condition in conditions), FEATURES])
        raise UsageError(
            f"{flag} has the outputs {one_line(', '.join(outputs), 200)}; give an output the name of what it predicts "
            f"for {model!r}: {names}"
        )

    def run(names: Sequence[str], images: np.ndarray) -> list[np.ndarray]:
        batches = (images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE))
        try:
            results = [session.run(list(names), {inputs[0].name: batch}) for batch in batches]
            return [
                np.concatenate([np.asarray(value, np.float32) for value in parts])
                for parts in zip(*results, strict=True)
            ]
        except Exception as error:
            raise UsageError(f"{flag} failed on images {images.shape}: {one_line(error)}") from error

    def features(images: np.ndarray) -> np.ndarray:
        (values,) = run([FEATURES], images)
        if values.ndim != 2 or len(values) != len(images) or not np.isfinite(values).all():
            raise UsageError(
                f"{flag} returned features {values.shape} for {len(images)} images; they must be finite (batch, D)"
            )
        return values

    def predict(images: np.ndarray) -> np.ndarray:
        values = run([condition.name for condition in predicted], images)
        return np.concatenate([_check(c, v, len(images), flag) for c, v in zip(predicted, values, strict=True)], axis=1)

    return FeatureExtractor(
        name=f"{Path(path).name}, sha256 {hashlib.sha256(data).hexdigest()[:12]}",
        features=features if FEATURES in outputs else None,
        outputs=predict if predicted else None,
        image_shape=image_shape,
        conditions=predicted,
    )


def _fits(shape: Sequence[int | str | None], image_shape: tuple[int, int, int]) -> bool:
    """Return whether an input takes batches of any size of images. An axis of any size has a name or None."""
    if len(shape) != 4 or isinstance(shape[0], int):
        return False
    return all(size == n or not isinstance(size, int) for size, n in zip(shape[1:], image_shape, strict=True))


def _check(condition: Condition, values: np.ndarray, count: int, flag: str) -> np.ndarray:
    """Return the outputs (N, O) of a condition as `cvae.evaluation.condition_metrics` reads them."""
    columns = count_outputs(condition)
    shape = values.shape
    values = values[:, None] if columns == 1 and values.ndim == 1 else values
    lowest, highest = (float(values.min()), float(values.max())) if values.size else (math.nan, math.nan)
    is_valid = values.shape == (count, columns) and np.isfinite(values).all()
    if condition.kind == ATTRIBUTES:
        is_valid = is_valid and lowest >= 0 and highest <= 1
    if not is_valid:
        form = FORM[condition.kind].format(columns=columns)
        raise UsageError(
            f"{flag} returned {condition.name} of shape {shape} with values in {lowest:g}..{highest:g} for {count} "
            f"images; a {condition.kind} needs {form}"
        )
    return values - 0.5 if condition.kind == ATTRIBUTES else values  # a logit is positive where p > 0.5
