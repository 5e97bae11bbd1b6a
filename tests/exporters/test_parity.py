"""Comparison of an exported graph with torch: it accepts rounding errors at any scale, but detects wrong graphs."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from model_helpers import model_config
from onnx import numpy_helper
from torch import nn

from cvae.conditions import label_condition
from cvae.exporters.onnx import parity
from cvae.exporters.onnx.graph import to_onnx
from cvae.exporters.onnx.wrappers import ROLES
from cvae.models import VAE, build
from cvae.registry import ARCHITECTURES
from cvae.spec import Spec

pytestmark = pytest.mark.integration

SWAPS = {
    "Relu": "Neg",
    "LeakyRelu": "Relu",
    "Gelu": "Relu",
    "Sigmoid": "Tanh",
    "Tanh": "Sigmoid",
    "Exp": "Softplus",
    "Softplus": "Exp",
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "Add",
}
"""Operator -> operator that replaces it in a wrong graph. Both have the same number of inputs."""


def varied_model(arch: str) -> VAE:
    """Build a conditional model with a flow prior. Its weights differ from the initial values, which are often zero."""
    torch.manual_seed(0)
    model = build(model_config(arch, (1, 8, 8), labels=True, prior="flow"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def spec_for(model: VAE, arch: str, role: str) -> Spec:
    strings = {"name": "test", "likelihood": "bernoulli", "prior": "flow", "data": "random", "data_license": "none"}
    return Spec(
        role=role,
        architecture=arch,
        image_shape=(1, 8, 8),
        latent_dim=5,
        conditions=label_condition(("a", "b", "c")),
        weights="",
        **strings,
    )


def wrong_graphs(graph: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield wrong graphs with their names. In each, one weight, scalar constant, attribute or operator differs."""
    limits = {name for node in graph.graph.node if node.op_type == "Clip" for name in node.input[1:]}
    for i, tensor in enumerate(graph.graph.initializer):
        if tensor.name in limits:
            continue  # no value reaches the limit
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or not values.any():
            continue
        wrong = onnx.ModelProto()
        wrong.CopyFrom(graph)
        scaled = values * 10 if values.size == 1 else values * np.float32(1.1)
        wrong.graph.initializer[i].CopyFrom(numpy_helper.from_array(scaled, tensor.name))
        yield f"weight {tensor.name}", wrong
    swapped = set()
    for i, node in enumerate(graph.graph.node):
        for j, attribute in enumerate(node.attribute):
            if attribute.name in ("epsilon", "alpha") and node.op_type != "Gemm":
                wrong = onnx.ModelProto()
                wrong.CopyFrom(graph)
                wrong.graph.node[i].attribute[j].f = attribute.f * 1.1 if attribute.name == "alpha" else 1e-3
                yield f"{attribute.name} of {node.name}", wrong
        if node.op_type in SWAPS and node.op_type not in swapped:
            swapped.add(node.op_type)
            wrong = onnx.ModelProto()
            wrong.CopyFrom(graph)
            wrong.graph.node[i].op_type = SWAPS[node.op_type]
            del wrong.graph.node[i].attribute[:]
            yield f"{node.op_type} of {node.name} swapped", wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", [name if name == "mlp" else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
@pytest.mark.parametrize("role", ROLES)
def test_every_wrong_graph_is_detected(arch: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = varied_model(arch)
    spec, module = spec_for(model, arch, role), ROLES[role](model)
    graph = to_onnx(module, spec)
    assert parity.compare(graph, module, spec) <= parity.TOLERANCE
    monkeypatch.setattr(parity, "BATCHES", (7,))  # one batch size is enough here, and faster
    missed = [name for name, wrong in wrong_graphs(graph) if parity.compare(wrong, module, spec) <= parity.TOLERANCE]
    assert missed == []


class ScaledEncoder(nn.Module):
    """Encoder whose means are scaled by a factor, because their scale differs between data sets."""

    outputs = ("mean", "std")

    def __init__(self, model: VAE, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = self.model.encode(image, label)
        return mean * self.factor, std


@pytest.mark.parametrize("factor", [1e6, *(pytest.param(factor, marks=pytest.mark.slow) for factor in (1.0, 1e3))])
def test_rounding_errors_are_accepted_at_any_scale(factor: float) -> None:
    model = varied_model("mlp")
    spec, module = spec_for(model, "mlp", "encoder"), ScaledEncoder(model, factor)
    graph = to_onnx(module, spec)
    assert parity.compare(graph, module, spec) <= parity.TOLERANCE
    assert parity.compare(graph, ScaledEncoder(model, factor * 1.001), spec) > 10 * parity.TOLERANCE


class CancellingEncoder(nn.Module):
    """Encoder whose means are small differences between large numbers, as they can be for smooth images."""

    outputs = ("mean", "std")

    def __init__(self, model: VAE, size: float) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.mix = nn.Linear(5, 5)

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = self.model.encode(image, label)
        large = self.mix(mean) * self.size
        return self.mix(mean + 1 / self.size) * self.size - large, std


def test_rounding_errors_that_the_network_amplifies_are_accepted() -> None:
    torch.manual_seed(0)
    model = varied_model("mlp")
    spec, module = spec_for(model, "mlp", "encoder"), CancellingEncoder(model, 1e3).eval()
    graph = to_onnx(module, spec)
    inputs = parity.make_comparison_inputs(module, spec, 64)
    effect, _ = parity.measure_rounding_effect(module, inputs)
    assert effect > 2 * parity.TOLERANCE  # more than an absolute tolerance would accept
    assert parity.compare(graph, module, spec) <= parity.TOLERANCE
    assert all(parity.compare(wrong, module, spec) > parity.TOLERANCE for _, wrong in list(wrong_graphs(graph))[:4])


def test_half_precision_error_is_limited_to_one_grey_level() -> None:
    """The allowance for rounding must not raise the limit to several grey levels."""
    model = varied_model("resnet")
    spec, module = spec_for(model, "resnet", "decoder"), ROLES["decoder"](model)
    graph = to_onnx(module, spec)
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(2 / 255), "offset"))
    graph.graph.node[-1].output[0] = "before"
    graph.graph.node.append(onnx.helper.make_node("Add", ["before", "offset"], ["image"]))
    assert parity.compare(graph, module, spec, parity.HALF_TOLERANCE) == pytest.approx(2 / 255, rel=0.01)


def test_encoders_are_compared_on_decoded_images() -> None:
    model = varied_model("mlp")
    spec = spec_for(model, "mlp", "encoder")
    inputs = parity.make_comparison_inputs(ROLES["encoder"](model), spec, 7)
    image, label = inputs["image"], inputs["label"]
    assert (
        image.shape == (7, 1, 8, 8) and image.min() >= 0 and image.max() <= 1 and label.tolist() == [0, 1, 2] * 2 + [0]
    )
    noise = torch.randn(7, 5, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        decoded = model.decode(noise, label)
    torch.testing.assert_close(image[1::2], decoded[1::2])
    assert 0.02 < (image[::2] - decoded[::2]).std() < 0.2
