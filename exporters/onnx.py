"""decoder.onnx and encoder.onnx: one self-describing file each, compared with torch before anything is written."""

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from cvae.atomic import atomic_write
from cvae.engine import load_model
from cvae.errors import CvaeError
from cvae.exporters.base import ROLES, Decoder, Encoder, spec_of
from cvae.exporters.card import belongs_to_us, card
from cvae.run import CARD
from cvae.runtime.scan import scan
from cvae.spec import KEY, Spec

OPSET = 20
"""From 21 on GroupNormalization is an operator that onnxruntime expands and runs slower."""

BATCHES = (1, 2, 7, 64)
"""The batch sizes at which a file is compared with torch."""

TOLERANCE = 1e-5
"""The largest difference from torch that is accepted, in units of the output's scale."""

HALF_TOLERANCE = 1 / 255
"""The same for weights in 16 bits: one of the 256 levels of grey."""

PIXEL_NOISE = 0.1
"""Standard deviation of the noise on half of the images that encoders are compared on, so that pixels which no image of
the data set changes count too."""

ROUNDING_MARGIN = 8
"""The largest difference that is accepted where the network amplifies rounding, as a multiple of `rounding_effect`;
correct graphs of all architectures reach 0.3 to 1.4."""

LEAST = 64
"""Numbers that a weight must have to be halved; fewer would not make the file smaller."""


def export(run: str | Path, *, license: str | None = None, half: bool = False) -> list[Path]:
    """Write `decoder.onnx` and `encoder.onnx` into a run's folder, both or neither, with a card of the model.

    `license` is that of the weights, for the spec: an SPDX name such as Apache-2.0. With `half` weights are kept in 16
    bits, which halves the files; inputs, outputs and what is computed stay float32.

    Raises:
        CvaeError: the run is damaged, a file would not agree with torch (`compare`) within 1e-5, with `half` within a
            level of grey, or would not pass the scan before loading (`cvae.runtime.scan`); nothing was written.
    """
    run = Path(run)
    model, config = load_model(run)
    files: dict[Path, bytes] = {}
    specs: dict[str, Spec] = {}
    for role, wrapper in ROLES.items():
        spec = spec_of(model, config, role, run, license)
        graph = to_onnx(wrapper(model), spec)
        if half:
            halve(graph)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        difference = compare(graph, wrapper(model), spec, tolerance)
        if math.isnan(difference):
            raise CvaeError(
                f"the {role} of {str(run)!r} gives values that are not finite for its own samples; nothing was "
                "written; the weights have diverged: train again with a lower --lr, or with --clip"
            )
        if not difference <= tolerance:
            raise CvaeError(
                f"the {role} of {str(run)!r} differs from torch by {difference:.2e}, more than {tolerance:.0e} of the "
                "scale of its outputs: the file does not compute what the network computes; nothing was written; if "
                "a part is a plug-in of yours, look at its operators, else report this with the run's config.json"
            )
        agreement: dict[str, Any] = {"max_abs_difference": float(f"{difference:.3g}"), "batches": list(BATCHES)}
        if half:
            agreement["weights"] = "float16"
        specs[role] = replace(spec, agreement=agreement)
        describe(graph, specs[role])
        data = graph.SerializeToString(deterministic=True)
        scan(data, specs[role], f"{role}.onnx")  # what nobody could load is not written
        files[run / f"{role}.onnx"] = data
    if belongs_to_us(run / CARD):
        files[run / CARD] = card(run, specs["decoder"]).encode()
    with ExitStack() as all_of_them:
        for temporary_path, data in [
            (all_of_them.enter_context(atomic_write(path)), data) for path, data in files.items()
        ]:
            temporary_path.write_bytes(data)
    return list(files)


def to_onnx(module: Decoder | Encoder, spec: Spec) -> onnx.ModelProto:
    """The graph of a decoder or encoder, with a free batch size."""
    return trace(module, example_inputs(spec, 2), module.outputs)


def trace(module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """A graph with a free batch size, of a module called with named inputs. It holds no path and no date."""
    batch = torch.export.Dim("batch", min=1)
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: {0: batch} for name in inputs},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # with dynamo a program is always returned
    graph = program.model_proto
    inner = graph.graph
    for proto in (graph, inner, *inner.node, *inner.input, *inner.output, *inner.initializer):
        proto.doc_string = ""
        del proto.metadata_props[:]  # stack traces, with the paths of this machine
    del graph.graph.value_info[:]
    graph.producer_version = ""
    return graph


def halve(graph: onnx.ModelProto) -> None:
    """Keep weights as float16; onnxruntime makes them float32 when it loads the file, so that it runs as fast."""
    casts = []
    for weight in graph.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and math.prod(weight.dims) >= LEAST:
            name, values = weight.name, onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def describe(graph: onnx.ModelProto, spec: Spec) -> None:
    """Put the spec into the graph's metadata."""
    graph.producer_name = spec.producer
    graph.graph.name = spec.role
    onnx.helper.set_model_props(graph, {KEY: spec.to_json()})


def compare(graph: onnx.ModelProto, module: Decoder | Encoder, spec: Spec, tolerance: float | None = None) -> float:
    """Return the largest difference between onnxruntime and torch over all outputs and batch sizes.

    It is divided by the scale of the output: its largest absolute value, at least 1, and more where the network itself
    amplifies rounding (`rounding_effect`) beyond the tolerance. NaN where an output is not finite.
    """
    tolerance = TOLERANCE if tolerance is None else tolerance
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    differences, peaks = [], []  # of each batch, (outputs,) each
    for count in BATCHES:
        inputs = comparison_inputs(module, spec, count)
        with torch.inference_mode():
            outputs = module(**inputs)
        expected = [each.numpy() for each in (outputs if isinstance(outputs, tuple) else (outputs,))]
        actual = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with np.errstate(invalid="ignore"):  # infinity minus infinity is found below
            differences.append([np.abs(ours - theirs).max() for ours, theirs in zip(actual, expected, strict=True)])
        peaks.append([np.abs(theirs).max() for theirs in expected])
    difference, scale = np.max(differences, axis=0), np.max(peaks, axis=0, initial=1.0)
    if not (np.isfinite(difference).all() and np.isfinite(scale).all()):
        return math.nan
    if (difference > tolerance * scale).any():
        effect = rounding_effect(module, comparison_inputs(module, spec, max(BATCHES)))
        scale = np.maximum(scale, ROUNDING_MARGIN / tolerance * np.array(effect))
    return float((difference / scale).max())


def rounding_effect(module: nn.Module, inputs: dict[str, Tensor]) -> list[float]:
    """Return how much each output changes, at most, when every weight changes by one unit in its last place.

    Two right implementations in float32 differ by about as much: they round at every step, and rounding a sum is the
    same as changing its terms by that (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1).
    """
    rounded, generator = copy.deepcopy(module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in rounded.parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + torch.finfo(torch.float32).eps * sign)
        outputs = [each if isinstance(each, tuple) else (each,) for each in (module(**inputs), rounded(**inputs))]
        return [float((a - b).abs().max()) for a, b in zip(*outputs, strict=True)]


def comparison_inputs(module: Decoder | Encoder, spec: Spec, count: int) -> dict[str, Tensor]:
    """Return `count` realistic inputs for a decoder or an encoder.

    Images are drawn by the model, and every second one gets pixel noise. On uniform noise codes reach hundreds, and
    rounding errors grow with them.
    """
    inputs = example_inputs(spec, count)
    if "image" in inputs:
        generator = torch.Generator().manual_seed(count)
        noise = torch.randn(count, spec.latent_dim, generator=generator)
        with torch.no_grad():
            image = module.model.decode(noise, inputs.get("label"))
        image[::2] += PIXEL_NOISE * torch.randn(image[::2].shape, generator=generator)
        inputs["image"] = image.clamp(0, 1).contiguous()
    return inputs


def example_inputs(spec: Spec, count: int) -> dict[str, Tensor]:
    """`count` inputs of a decoder or an encoder, the labels in turn."""
    generator = torch.Generator().manual_seed(count)
    if spec.role == "decoder":
        inputs = {"noise": torch.randn(count, spec.latent_dim, generator=generator)}
    else:
        inputs = {"image": torch.rand(count, *spec.image_shape, generator=generator)}
    if spec.classes is not None:
        inputs["label"] = torch.arange(count) % len(spec.classes)
    return inputs


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter's own deprecation warnings and log lines tell a user nothing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
