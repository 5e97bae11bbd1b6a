"""Comparison of an exported graph with torch."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from cvae.condition_rows import feed, make_rows
from cvae.conditions import ATTRIBUTES, CATEGORY, Condition, single_category
from cvae.exporters.onnx.wrappers import Decoder, Encoder
from cvae.spec import Spec

BATCHES = (1, 2, 7, 64)
"""Batch sizes at which a graph is compared with torch."""

TOLERANCE = 1e-5
"""Largest accepted difference from torch, as a fraction of the output's scale."""

HALF_TOLERANCE = 1 / 255
"""Largest accepted difference with 16-bit weights: one of 256 grey levels."""

PIXEL_NOISE = 0.1
"""Standard deviation of the noise that is added to half of the images when encoders are compared.

Without noise, the comparison would miss errors in the weights of pixels that are constant over the data set.
"""

ROUNDING_MARGIN = 8
"""Largest accepted difference for a network that amplifies rounding errors, in multiples of `measure_rounding_effect`.

Correct graphs reach multiples of 0.3 to 1.4, depending on the architecture.
"""


def compare(graph: onnx.ModelProto, module: Decoder | Encoder, spec: Spec, tolerance: float | None = None) -> float:
    """Return the largest difference between onnxruntime and torch over all outputs and batch sizes.

    Each difference is divided by the scale of the output: its largest absolute value, but at least 1. The scale is
    increased if the network itself amplifies rounding errors beyond the tolerance (see `measure_rounding_effect`).

    Args:
        graph: exported graph.
        module: module from which the graph was exported.
        spec: spec of the module.
        tolerance: difference above which `measure_rounding_effect` is taken into account; None for `TOLERANCE`.

    Returns:
        The difference as a fraction of the scale, or NaN if an output is not finite.
    """
    tolerance = TOLERANCE if tolerance is None else tolerance
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # hide warnings, which concern speed rather than results
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    differences, peaks = [], []  # per batch size, one value per output
    for count in BATCHES:
        inputs = make_comparison_inputs(module, spec, count)
        with torch.inference_mode():
            outputs = module(**inputs)
        expected = [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
        actual = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, which the check below finds
            differences.append([np.abs(a - b).max() for a, b in zip(actual, expected, strict=True)])
        peaks.append([np.abs(output).max() for output in expected])
    difference, scale = np.max(differences, axis=0), np.max(peaks, axis=0, initial=1.0)
    if not (np.isfinite(difference).all() and np.isfinite(scale).all()):
        return math.nan
    if (difference > tolerance * scale).any():
        effect = measure_rounding_effect(module, make_comparison_inputs(module, spec, max(BATCHES)))
        scale = np.maximum(scale, ROUNDING_MARGIN / tolerance * np.array(effect))
    return float((difference / scale).max())


def measure_rounding_effect(module: nn.Module, inputs: dict[str, Tensor]) -> list[float]:
    """Return the largest change of each output when every weight changes by one unit in the last place.

    Two correct float32 implementations differ by about this amount: they round at every step, and rounding a sum has
    the same effect as changing its terms by a unit in the last place (Higham 2002, "Accuracy and Stability of Numerical
    Algorithms", section 3.1).
    """
    perturbed_module, generator = copy.deepcopy(module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in perturbed_module.parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + torch.finfo(torch.float32).eps * sign)
        results = (module(**inputs), perturbed_module(**inputs))
        outputs = [result if isinstance(result, tuple) else (result,) for result in results]
        return [float((a - b).abs().max()) for a, b in zip(*outputs, strict=True)]


def make_comparison_inputs(module: Decoder | Encoder, spec: Spec, count: int) -> dict[str, Tensor]:
    """Return `count` realistic inputs for a decoder or an encoder.

    The model generates the images, and noise is added to every second image. Images of uniform noise would not be
    suitable: their latent codes have values in the hundreds, and rounding errors grow with the codes.
    """
    inputs = make_example_inputs(spec, count)
    if "image" in inputs:
        generator = torch.Generator().manual_seed(count)
        noise = torch.randn(count, spec.latent_dim, generator=generator)
        with torch.no_grad():
            image = module.model.decode(
                noise, {name: value for name, value in inputs.items() if name != "image"} or None
            )
        image[::2] += PIXEL_NOISE * torch.randn(image[::2].shape, generator=generator)
        inputs["image"] = image.clamp(0, 1).contiguous()
    return inputs


def make_example_inputs(spec: Spec, count: int) -> dict[str, Tensor]:
    """Return `count` random inputs for a decoder or an encoder, with random conditions.

    A label cycles through the classes, and through an unknown one if the model accepts it. The first and every third
    of other conditions are unknown.
    """
    generator = torch.Generator().manual_seed(count)
    if spec.role == "decoder":
        inputs = {"noise": torch.randn(count, spec.latent_dim, generator=generator)}
    else:
        inputs = {"image": torch.rand(count, *spec.image_shape, generator=generator)}
    return inputs | make_example_conditions(spec.conditions, count)


def make_example_conditions(conditions: Sequence[Condition], count: int) -> dict[str, Tensor]:
    """Return inputs of a graph for `count` values of the conditions."""
    if category := single_category(conditions):
        return {category.name: torch.arange(count) % (len(category.values) + category.optional)}
    random = np.random.default_rng(count)
    values: dict[str, np.ndarray] = {}
    for condition in conditions:
        low, high = condition.range
        if condition.kind == CATEGORY:
            values[condition.name] = random.integers(0, len(condition.values), count)
        elif condition.kind == ATTRIBUTES:
            values[condition.name] = random.integers(0, 2, (count, len(condition.values)))
        else:
            values[condition.name] = random.uniform(low, high, count)
    known = np.arange(count * len(conditions)).reshape(count, -1) % 3 > 0
    rows = make_rows(conditions, values, known) if conditions else None
    return {name: torch.from_numpy(value) for name, value in feed(conditions, rows).items()}
