"""Spec of an exported file: versioned JSON in the ONNX metadata, under the key "cvae"."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cvae.conditions import CATEGORY, LABEL, Condition, check_conditions, quote_value, single_category
from cvae.errors import CvaeError, UsageError, one_line
from cvae.formats import FORMAT, upgrade_spec
from cvae.model_config import MAX_SIDE
from cvae.serialization import check_text, from_dict, parse_json, to_dict

KEY = "cvae"
"""Key of the spec in the ONNX metadata."""

MAX_LATENT_DIM = 65536
"""Maximum latent dimension."""

AGREEMENT: Mapping[str, Callable[[Any], bool]] = {
    "max_abs_difference": lambda value: type(value) is float and 0 <= value < math.inf,
    "batches": lambda value: type(value) is list and len(value) <= 16 and all(type(size) is int for size in value),
    "weights": lambda value: value == "float16",
}
"""Keys of `agreement`, with checks of their values."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Description of a model, embedded in its `decoder.onnx` and `encoder.onnx`.

    A decoder maps standard normal `noise` (B, latent_dim) float32 and the inputs of its conditions (see
    `cvae.conditions.graph_inputs`) to `image` (B, *image_shape) float32 in `value_range`. An encoder maps `image` and
    the same inputs to `mean` and `std`, both (B, latent_dim) float32, in the same noise space.

    Attributes:
        conditions: conditions of the model. A model with labels has a single category.
        sigma: standard deviation of a Gaussian likelihood, in units of the value range.
        weights: SHA-256 of the model.safetensors from which the file was exported. A decoder and an encoder belong
            together if they have the same value.
        agreement: largest difference between the outputs of onnxruntime and torch, divided by the scale of the output
            (see `cvae.exporters.onnx.compare`); the batch sizes that were compared; and the type of the weights if they
            are stored in 16 bits.
    """

    format: int = FORMAT
    role: str
    name: str
    architecture: str
    image_shape: tuple[int, int, int]
    value_range: tuple[float, float] = (0.0, 1.0)
    latent_dim: int
    conditions: tuple[Condition, ...] = ()
    likelihood: str
    sigma: float | None = None
    prior: str
    data: str
    data_license: str
    weights: str
    agreement: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    producer: str = "cvae-onnx"

    def __post_init__(self) -> None:
        if self.role not in ("decoder", "encoder"):
            raise UsageError(f"role {self.role!r} is neither 'decoder' nor 'encoder'")
        if self.latent_dim < 1 or min(self.image_shape) < 1:
            raise UsageError(f"latent_dim {self.latent_dim} and image_shape {self.image_shape} must be positive")
        if self.latent_dim > MAX_LATENT_DIM or max(self.image_shape) > MAX_SIDE:
            raise UsageError(f"latent_dim {self.latent_dim} or image_shape {self.image_shape} is too large")
        check_conditions(self.conditions)
        if self.value_range != (0.0, 1.0):
            raise UsageError(f"value_range {self.value_range} is not (0.0, 1.0)")
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise UsageError(f"sigma {self.sigma} is not a positive number")
        strings = [value for value in vars(self).values() if isinstance(value, str)]
        for string in strings:
            check_text(string)
        for key, value in self.agreement.items():
            if not (key in AGREEMENT and AGREEMENT[key](value)):
                raise UsageError(f"agreement has an invalid {one_line(repr(key), 40)}: {one_line(repr(value), 40)}")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes if the only condition of the model is a category, else None."""
        category = single_category(self.conditions)
        return None if category is None else category.values

    @property
    def category(self) -> Condition | None:
        """Category whose value is the label: the one named label, else the only category, else None."""
        categories = [condition for condition in self.conditions if condition.kind == CATEGORY]
        named = [condition for condition in categories if condition.name == LABEL]
        return next(iter(named or categories[:1]), None) if named or len(categories) == 1 else None

    def to_json(self) -> str:
        """Return the spec as JSON text."""
        return json.dumps(to_dict(self) | {"conditions": [condition.to_json() for condition in self.conditions]})

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """Parse a spec.

        Args:
            text: JSON text.
            source: name of the file, for error messages.

        Raises:
            CvaeError: If the text is not a valid spec, or has a different format.
        """
        try:
            data = parse_json(text)
            if not isinstance(data, dict):
                raise UsageError("it is not a JSON object")
            if data.get("format") == 1:
                data = upgrade_spec(data)
            if data.get("format") != FORMAT:
                raise UsageError(
                    f"it has format {one_line(repr(data.get('format')), 40)}, but this version of cvae reads formats "
                    f"1 to {FORMAT}; upgrade cvae-onnx"
                )
            return from_dict(cls, data)
        except ValueError as error:
            raise CvaeError(f"{source!r} does not have a valid cvae spec: {one_line(error)}") from error

    def label_index(self, label: float | str) -> int:
        """Return the index of the class that a label names (see `Condition.index`).

        Raises:
            UsageError: If the model has no labels, no class has this name, or several class names equal this number.
        """
        return self._category(f"label {quote_value(label)}").index(label, self.name)

    def check_index(self, index: int) -> int:
        """Check the index of a class and return it as an int.

        Raises:
            UsageError: If the model has no labels, or the index is out of range or not an integer.
        """
        return self._category(f"label_index {quote_value(index)}").check_index(index, self.name)

    def _category(self, argument: str) -> Condition:
        """Return the category whose value is the label, for which an argument was passed."""
        if category := self.category:
            return category
        if not self.conditions:
            raise UsageError(f"{self.name!r} was trained without labels, so it does not accept {argument}")
        names = ", ".join(condition.name for condition in self.conditions)
        raise UsageError(f"{self.name!r} does not accept {argument}; its conditions are {names}")
