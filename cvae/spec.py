"""What an exported file says of itself: a versioned JSON text in the ONNX metadata, under the key "cvae"."""

import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cvae.config import MAX_SIDE, check_text, from_dict, parse_json, to_dict
from cvae.errors import CvaeError, UsageError, one_line

KEY = "cvae"
"""The key of the ONNX metadata entry that holds the spec."""

FORMAT = 1
"""The version of the spec's layout. A reader refuses another one."""

MAX_LATENT, MAX_CLASSES = 65536, 65536
"""What a spec may say at most."""

AGREEMENT: Mapping[str, Callable[[Any], bool]] = {
    "max_abs_difference": lambda value: type(value) is float and 0 <= value < math.inf,
    "batches": lambda value: type(value) is list and len(value) <= 16 and all(type(size) is int for size in value),
    "weights": lambda value: value == "float16",
}
"""The keys of `agreement`, and what their values may be."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The self-description of `decoder.onnx` and `encoder.onnx`.

    A decoder maps `noise` (B, latent_dim) float32, standard normal, and for conditional models `label` (B,) int64,
    to `image` (B, *image_shape) float32 in `value_range`. An encoder maps `image` and `label` to `mean` and `std`,
    both (B, latent_dim) float32, in the same noise space.

    `sigma` is the standard deviation of a gaussian likelihood, in units of the value range.

    `weights` is the SHA-256 of the model.safetensors that it was exported from: a decoder and an encoder belong
    together when it is the same. `agreement` holds the largest absolute difference between onnxruntime and torch,
    the batch sizes compared and, where weights are kept in 16 bits, their type.
    """

    format: int = FORMAT
    role: str
    name: str
    architecture: str
    image_shape: tuple[int, int, int]
    value_range: tuple[float, float] = (0.0, 1.0)
    latent_dim: int
    classes: tuple[str, ...] | None
    likelihood: str
    sigma: float | None = None
    prior: str
    data: str
    data_terms: str
    weights: str
    agreement: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    producer: str = "cvae-onnx"

    def __post_init__(self) -> None:
        if self.role not in ("decoder", "encoder"):
            raise UsageError(f"role {self.role!r} is neither 'decoder' nor 'encoder'")
        if self.latent_dim < 1 or min(self.image_shape) < 1:
            raise UsageError(f"latent_dim {self.latent_dim} and image_shape {self.image_shape} must be positive")
        if self.latent_dim > MAX_LATENT or max(self.image_shape) > MAX_SIDE:
            raise UsageError(f"latent_dim {self.latent_dim} or image_shape {self.image_shape} is beyond all use")
        if self.classes is not None and not self.classes:
            raise UsageError("classes is empty; a model without labels has null")
        if self.classes is not None and len(self.classes) > MAX_CLASSES:
            raise UsageError(f"{len(self.classes)} classes are more than {MAX_CLASSES}")
        if self.value_range != (0.0, 1.0):
            raise UsageError(f"value_range {self.value_range} is not (0.0, 1.0)")
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise UsageError(f"sigma {self.sigma} is no standard deviation")
        texts = [value for value in vars(self).values() if isinstance(value, str)]
        for text in (*texts, *(self.classes or ())):
            check_text(text)
        for key, value in self.agreement.items():
            if not (key in AGREEMENT and AGREEMENT[key](value)):
                raise UsageError(f"agreement says {one_line(repr(key), 40)}: {one_line(repr(value), 40)}")

    def to_json(self) -> str:
        return json.dumps(to_dict(self))

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """Read a spec; `source` names the file in errors.

        Raises:
            CvaeError: the text is no spec, or one of a newer format.
        """
        try:
            data = parse_json(text)
            if not isinstance(data, dict):
                raise UsageError("it is not a JSON object")
            if data.get("format") != FORMAT:
                raise UsageError(
                    f"format {one_line(repr(data.get('format')), 40)}, this cvae reads {FORMAT}; upgrade cvae-onnx"
                )
            return from_dict(cls, data)
        except ValueError as error:
            raise CvaeError(f"{source!r} has no valid cvae spec: {one_line(error)}") from error

    def label_index(self, label: int | str) -> int:
        """A label -> its number: an int is a number, a string a name or, when no class has that name, a number.

        Raises:
            UsageError: the model has no labels, or not this one.
        """
        if self.classes is None:
            raise UsageError(f"{self.name!r} was trained without labels, so label {label!r} means nothing to it")
        if isinstance(label, str):
            if label in self.classes:
                return self.classes.index(label)
            number = int(label) if label.isdecimal() and len(label) < 10 else -1
        else:
            number = operator.index(label) if hasattr(label, "__index__") else -1
        if 0 <= number < len(self.classes):
            return number
        label = label if len(str(label)) < 80 else f"{str(label)[:80]}..."
        names = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
        raise UsageError(f"{self.name!r} has no label {label!r}; it has: {names}")
