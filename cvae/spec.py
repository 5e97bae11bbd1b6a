"""Spec of an exported file: versioned JSON in the ONNX metadata, under the key "cvae"."""

import difflib
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from numbers import Real
from typing import Any, Self

from cvae.errors import CvaeError, UsageError, one_line
from cvae.model_config import MAX_SIDE
from cvae.serialization import check_text, from_dict, parse_json, to_dict

KEY = "cvae"
"""Key of the spec in the ONNX metadata."""

FORMAT = 1
"""Version of the spec format. Specs of any other version are rejected."""

MAX_LATENT_DIM = 65536
"""Maximum latent dimension."""

MAX_CLASSES = 65536
"""Maximum number of classes."""

AGREEMENT: Mapping[str, Callable[[Any], bool]] = {
    "max_abs_difference": lambda value: type(value) is float and 0 <= value < math.inf,
    "batches": lambda value: type(value) is list and len(value) <= 16 and all(type(size) is int for size in value),
    "weights": lambda value: value == "float16",
}
"""Keys of `agreement`, with checks of their values."""

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE)
"""Pattern of a number, such as 10, 007, -5, 0.5 or 1e-4."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Description of a model, embedded in its `decoder.onnx` and `encoder.onnx`.

    A decoder maps standard normal `noise` (B, latent_dim) float32 and, in conditional models, `label` (B,) int64 to
    `image` (B, *image_shape) float32 in `value_range`. An encoder maps `image` and `label` to `mean` and `std`, both
    (B, latent_dim) float32, in the same noise space.

    Attributes:
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
        if self.latent_dim > MAX_LATENT_DIM or max(self.image_shape) > MAX_SIDE:
            raise UsageError(f"latent_dim {self.latent_dim} or image_shape {self.image_shape} is too large")
        if self.classes is not None and not self.classes:
            raise UsageError("classes is empty; it must be null for a model without labels")
        if self.classes is not None and len(self.classes) > MAX_CLASSES:
            raise UsageError(f"{len(self.classes)} classes are too many; the limit is {MAX_CLASSES}")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            name = next(name for name, count in Counter(self.classes).items() if count > 1)
            raise UsageError(
                f"classes contains {one_line(repr(name), 40)} more than once; give each class its own name"
            )
        if self.value_range != (0.0, 1.0):
            raise UsageError(f"value_range {self.value_range} is not (0.0, 1.0)")
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise UsageError(f"sigma {self.sigma} is not a positive number")
        strings = [value for value in vars(self).values() if isinstance(value, str)]
        for string in (*strings, *(self.classes or ())):
            check_text(string)
        for key, value in self.agreement.items():
            if not (key in AGREEMENT and AGREEMENT[key](value)):
                raise UsageError(f"agreement has an invalid {one_line(repr(key), 40)}: {one_line(repr(value), 40)}")

    def to_json(self) -> str:
        """Return the spec as JSON text."""
        return json.dumps(to_dict(self))

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
            if data.get("format") != FORMAT:
                raise UsageError(
                    f"it has format {one_line(repr(data.get('format')), 40)}, but this version of cvae reads format "
                    f"{FORMAT}; upgrade cvae-onnx"
                )
            return from_dict(cls, data)
        except ValueError as error:
            raise CvaeError(f"{source!r} does not have a valid cvae spec: {one_line(error)}") from error

    def label_index(self, label: float | str) -> int:
        """Return the index of the class that a label names.

        A label selects the class whose name matches it as text or, failing that, as a number: 1, "1" and 1.0 all select
        the class "01". If no class name is a number, a non-negative integer is an index.

        Raises:
            UsageError: If the model has no labels, no class has this name, or several class names equal this number.
        """
        if self.classes is None:
            raise self._no_labels_error(f"label {quote_label(label)}")
        text = _to_text(label)
        if text is None:
            raise self._unknown_label_error(label)
        if text in self.classes:
            return self.classes.index(text)
        number, indices = _parse_number(text), _indices_by_number(self.classes)
        matches = [] if number is None else indices.get(number, [])
        if len(matches) > 1:
            names = ", ".join(self.classes[index] for index in matches[:20])
            raise UsageError(
                f"label {quote_label(label)} is ambiguous for {self.name!r}: the classes {names} are all equal to it "
                "as numbers; give the name exactly as it is written"
            )
        if matches:
            return matches[0]
        index = int(text) if text.isdecimal() and len(text) < 10 else -1
        if not 0 <= index < len(self.classes):
            raise self._unknown_label_error(label)
        if indices:
            raise self._unknown_label_error(
                label, f"; to choose by index, pass label_index={index} (--label-index {index})"
            )
        return index

    def check_index(self, index: int) -> int:
        """Check the index of a class and return it as an int. onnxruntime itself would accept -1 for the last class.

        Raises:
            UsageError: If the model has no labels, or the index is out of range or not an integer.
        """
        if self.classes is None:
            raise self._no_labels_error(f"label_index {quote_label(index)}")
        try:
            number = -1 if isinstance(index, bool) else operator.index(index)
        except TypeError:
            number = -1
        if 0 <= number < len(self.classes):
            return number
        raise UsageError(
            f"{self.name!r} has no class with the index {quote_label(index)}; its classes are "
            f"0..{len(self.classes) - 1}, named {self._class_names()}"
        )

    def _class_names(self) -> str:
        classes = self.classes or ()
        return ", ".join(classes[:20]) + ", ..." * (len(classes) > 20)

    def _unknown_label_error(self, label: object, hint: str = "") -> UsageError:
        similar = self._suggest_class(label)
        return UsageError(
            f"{self.name!r} has no label {quote_label(label)}{similar}; its classes are named "
            f"{self._class_names()}{hint}"
        )

    def _suggest_class(self, label: object) -> str:
        """Return a question with the most similar class name that is not a number, or "" if none is similar."""
        if not isinstance(label, str) or len(label) > 80:
            return ""
        classes = (self.classes or ())[:1000]  # few enough to compare quickly
        names = {name.casefold(): name for name in classes if not NUMBER.fullmatch(name)}
        matches = difflib.get_close_matches(label.casefold(), names, n=1, cutoff=0.7)
        return f" (did you mean {quote_label(names[matches[0]])}?)" if matches else ""

    def _no_labels_error(self, label: str) -> UsageError:
        return UsageError(f"{self.name!r} was trained without labels, so it does not accept {label}")


def _to_text(label: object) -> str | None:
    """Convert a label to a string, or return None if it is neither a string nor a number."""
    try:
        if isinstance(label, str | Real):  # Real includes numpy's numbers
            return str(label)
        return str(operator.index(label))  # type: ignore[arg-type]  # for example, a tensor with one element
    except (TypeError, ValueError):  # Python does not convert ints with thousands of digits to text
        return None


def quote_label(label: object) -> str:
    """Quote a label for error messages."""
    try:
        return one_line(repr(str(label)) if isinstance(label, str) else label, 80)
    except ValueError:
        return "of thousands of digits"


def _parse_number(text: str) -> Decimal | None:
    return Decimal(text) if NUMBER.fullmatch(text) else None


@lru_cache(maxsize=16)
def _indices_by_number(classes: tuple[str, ...]) -> dict[Decimal, list[int]]:
    """Return the indices of the classes whose names are numbers, by number."""
    indices: dict[Decimal, list[int]] = {}
    for index, name in enumerate(classes):
        if (number := _parse_number(name)) is not None:
            indices.setdefault(number, []).append(index)
    return indices
