"""Arguments of a model's methods: their types, checks and conversions."""

import math
import operator
import os
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from cvae.conditions import quote_value
from cvae.errors import UsageError
from cvae.spec import Spec

MAX_TEMPERATURE = 1000

Label = float | str
"""Name of a class. A numeric name may be given as a number."""

Labels = Label | Sequence[Label] | np.ndarray | None
"""One label for all images, one label for each image, or None."""

Indices = int | Sequence[int] | np.ndarray | None
"""One class index for all images, one index for each image, or None. Indices count from 0."""


def label_indices(
    spec: Spec, label: Labels, label_index: Indices, count: int, what: str = "images"
) -> np.ndarray | None:
    """Return class indices (count,) int64, or None for a model without labels. An unknown label has the index K.

    Args:
        spec: Spec of the model.
        label: Name of the class, or `count` names.
        label_index: Index of the class or `count` indices, instead of `label`.
        count: Number of indices to return.
        what: Plural noun for what is labelled, for error messages.

    Raises:
        UsageError: If the model has no such label or index, `label` and `label_index` are both set, or a sequence
            of labels or indices does not have `count` elements.
    """
    values: Any = label if label_index is None else label_index
    resolve: Callable[[Any], int] = partial(_parse_label, spec) if label_index is None else spec.check_index
    if label is not None and label_index is not None:
        raise UsageError(
            f"label {quote_value(label)} and label_index {quote_value(label_index)} both choose the class; give one"
        )
    if values is None:
        if spec.classes is None:
            return None
        more = ", ..." * (len(spec.classes) > 20)
        raise UsageError(f"{spec.name!r} has labels; choose one of {', '.join(spec.classes[:20])}{more}")
    try:
        dimensions = np.ndim(values)
    except ValueError:  # the values are sequences of different lengths
        dimensions = 2
    if dimensions > 1:
        raise UsageError(f"labels {quote_value(values)} are nested; give one label, or a flat sequence of {count}")
    if dimensions == 0:
        return np.full(count, resolve(values), np.int64)
    if len(values) != count:
        raise UsageError(f"{len(values)} labels for {count} {what}: give one label, or one for each")
    return np.array([resolve(value) for value in values], np.int64)


def _parse_label(spec: Spec, label: Any) -> int:
    """Return the index of the class that a label names, or the number of classes K for an unknown label."""
    if (category := spec.category) is None:
        return spec.label_index(label)  # raises an error
    parsed = category.parse(label, spec.name)
    return len(category.values) if parsed is None else int(parsed[0])


def count_labels(label: Labels, label_index: Indices) -> int:
    """Return the number of labels or indices in a sequence, or 1 for a single one or None.

    Raises:
        UsageError: If the sequence is empty.
    """
    values: Any = label if label_index is None else label_index
    try:
        count = len(values) if np.ndim(values) else 1
    except ValueError:  # the values are sequences of different lengths, which `label_indices` rejects
        count = len(values)
    if count == 0:
        raise UsageError("the list of labels is empty; give at least one label")
    return count


def random_seed() -> int:
    """Return a random seed."""
    return int(np.random.default_rng().integers(2**31))


def check_generate_args(n: int, temperature: float) -> int:
    """Check the arguments of `Model.generate`, and return n as an int.

    Raises:
        UsageError: If n or temperature is out of range or not a number.
    """
    n = check_count("n", n)
    if not isinstance(temperature, Real) or not 0 <= temperature <= MAX_TEMPERATURE:
        raise UsageError(f"temperature is {quote_value(temperature)}: it must be a number in 0..{MAX_TEMPERATURE}")
    return n


def check_count(name: str, value: int, *, minimum: int = 1) -> int:
    """Check that a value is an integer of at least `minimum`, and return it as an int. NumPy integers are accepted.

    Raises:
        UsageError: If `value` is not an integer, or less than `minimum`.
    """
    try:
        number = None if isinstance(value, bool | np.bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise UsageError(f"{name} is {quote_value(value)}: it must be an integer, at least {minimum}")
    return number


def check_array(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Check an array (N, *shape), and return it as contiguous float32.

    Args:
        values: The array.
        shape: Shape of each element.
        what: Plural noun for the elements, for error messages.

    Raises:
        UsageError: If the array has the wrong shape, is empty, or has values that are not finite.
    """
    values = np.asarray(values)
    if values.shape[1:] != shape or values.ndim != len(shape) + 1 or len(values) == 0:
        raise UsageError(f"{what}: the shape is {values.shape}, but should be (N, {', '.join(map(str, shape))})")
    if not np.isfinite(values).all():
        raise UsageError(f"{what}: some values are not finite")
    return np.ascontiguousarray(values, dtype=np.float32)


def check_memory(spec: Spec, name: str, count: int, fix: str) -> None:
    """Check, before anything is allocated, that `count` images and codes fit into this machine's memory.

    Args:
        spec: Spec of the model.
        name: Name of the argument that sets the count, for the error message.
        count: Number of images and codes.
        fix: What to do instead, for the error message.

    Raises:
        UsageError: If the images and codes don't fit.
    """
    size, memory = 4 * (math.prod(spec.image_shape) + spec.latent_dim), _physical_memory()
    if count * size > memory:
        raise UsageError(
            f"{name} is {quote_value(count)}: at most {memory // size:,} fit into this machine's "
            f"{memory / 2**30:.0f} GiB of memory; {fix}"
        )


def _physical_memory() -> int:
    """Return the memory of this machine in bytes, or 64 GiB if it can't be determined."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**36
