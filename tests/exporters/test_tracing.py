"""Conversion of recorded operators to graphs: it supports all built-in parts, and rejects what it can't express."""

import logging
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from model_helpers import ARCHITECTURES_AND_PRIORS, model_config
from onnx import numpy_helper
from torch import Tensor, nn

import cvae.exporters.onnx as exporter
from cvae.exporters.onnx import graph as graphs
from cvae.exporters.onnx.tracing import Untraceable
from cvae.exporters.onnx.wrappers import ROLES
from cvae.model_zoo import models
from cvae.models import VAE, build
from cvae.registry import CONDITIONINGS, LIKELIHOODS
from cvae.run import has_weights

SHAPE = (3, 12, 10)


def vary(model: nn.Module) -> None:
    """Change all weights and statistics, because their initial values are often 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                # Large weights of a prior amplify rounding errors.
                scale = 0.02 if name.startswith("prior.") else 0.05
                tensor.add_(scale * torch.randn(tensor.shape, generator=generator))


def example_inputs(model: VAE, role: str, count: int, *, labels: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    if role == "decoder":
        inputs = {"noise": torch.randn(count, model.latent_dim, generator=generator)}
    else:
        inputs = {"image": torch.rand(count, *SHAPE, generator=generator)}
    return inputs | ({"label": torch.arange(count) % 3} if labels else {})


def run_onnx(graph: onnx.ModelProto, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def assert_agrees(graph: onnx.ModelProto, module: nn.Module, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        expected = module(**inputs)
    for output, truth in zip(
        run_onnx(graph, inputs), expected if isinstance(expected, tuple) else [expected], strict=True
    ):
        np.testing.assert_allclose(output, truth.numpy(), rtol=0, atol=1e-5 * max(1, np.abs(truth.numpy()).max()))


def combinations() -> Iterator[tuple[str, str, str, str | None]]:
    """Yield combinations of parts. Together, they include every pair of parts."""
    parts = product(ARCHITECTURES_AND_PRIORS, [None, *CONDITIONINGS])
    names = list(LIKELIHOODS)
    for i, ((arch, prior), conditioning) in enumerate(parts):
        for name in sorted({names[i % len(names)], names[(i + 2) % len(names)]}):
            yield arch, prior, name, conditioning


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("arch", "prior", "likelihood", "conditioning"), list(combinations()))
def test_built_in_parts_are_converted_without_torch_onnx(role, arch, prior, likelihood, conditioning):
    labels = conditioning is not None
    config = model_config(arch, SHAPE, labels, likelihood, conditioning or "film", prior)
    model = build(config).eval()
    vary(model)
    module = ROLES[role](model)
    graph = graphs.convert(module, example_inputs(model, role, 2, labels=labels), module.outputs)
    onnx.checker.check_model(graph, full_check=True)
    for count in (1, 5):
        assert_agrees(graph, module, example_inputs(model, role, count, labels=labels))


@pytest.mark.parametrize(
    "options", [{"batch_norm": True}, {"latent_channels": 2, "smallest": 3}, {"patch": 3}], ids=str
)
@pytest.mark.parametrize("role", ROLES)
def test_resnet_options_are_converted_without_torch_onnx(role, options):
    config = model_config("resnet", SHAPE, labels=True, width=4, **options)
    if "latent_channels" in options:
        object.__setattr__(config, "latent_dim", 18)
    model = build(config).eval()
    vary(model)
    module = ROLES[role](model)
    graph = graphs.convert(module, example_inputs(model, role, 2, labels=True), module.outputs)
    assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)
    assert_agrees(graph, module, example_inputs(model, role, 5, labels=True))


class Module(nn.Module):
    """Module that computes the function `name` of `FUNCTIONS`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), FUNCTIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


FUNCTIONS: dict[str, Any] = {
    "rows of zeros": lambda module, x: torch.cat([module.linear(x), torch.zeros(len(x), 2)], dim=1),
    "constant": lambda module, x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "reshape and back": lambda module, x: module.linear(x.reshape(-1, 2, 2).flatten(1)),
    "shared output": lambda module, x: module.linear(x) + module.linear(module.linear(x)),
    "unknown operator": lambda module, x: torch.erf(module.linear(x)) + torch.cat(module.linear.bias.chunk(2)),
    "in-place operator": lambda module, x: module.linear(x).add_(1),
    "position in the batch": lambda module, x: module.linear(x) + torch.arange(len(x), dtype=torch.float32)[:, None],
    "size of the batch": lambda module, x: module.linear(x) * torch.tensor(float(len(x))),
    "sum over the batch": lambda module, x: module.linear(x) + x.sum(0),
    "batch on the second axis": lambda module, x: (module.linear(x).t() * 2).t(),
    "random tensor": lambda module, x: module.linear(x) + torch.rand_like(x),
    "random rows": lambda module, x: module.linear(x) + torch.rand(1, 4),
}
CONVERTED = ["rows of zeros", "constant", "reshape and back", "shared output"]


@pytest.mark.parametrize("name", CONVERTED)
def test_converted_graph_agrees_with_torch(name):
    module = Module(name).eval()
    graph = graphs.convert(module, {"x": torch.rand(2, 4)}, ("y",))
    for count in (1, 2, 5):
        assert_agrees(graph, module, {"x": torch.rand(count, 4)})


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in CONVERTED])
def test_conversion_rejects_modules_that_it_cannot_express(name):
    with pytest.raises(Untraceable):
        graphs.convert(Module(name).eval(), {"x": torch.rand(2, 4)}, ("y",))


@pytest.mark.integration
def test_unknown_operators_are_exported_by_torch_onnx_without_its_log_messages(caplog):
    module = Module("unknown operator")
    graph = graphs.trace(module, {"x": torch.rand(2, 4)}, ("y",))
    assert "Erf" in {node.op_type for node in graph.graph.node}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert_agrees(graph, module, {"x": torch.rand(5, 4)})


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name, folder in models().items() if has_weights(folder)])
def test_reexported_zoo_model_has_the_same_tensors_and_outputs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "trace_with_torch", lambda *arguments: pytest.fail("the conversion is incomplete"))
    source, run = models()[name], tmp_path / name
    run.mkdir()
    for file in ("config.json", "model.safetensors"):
        (run / file).write_bytes((source / file).read_bytes())
    exporter.export(run)
    for role in ROLES:
        graphs_by_folder = [onnx.load(Path(folder) / f"{role}.onnx") for folder in (source, run)]
        old, new = (
            {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if "." in tensor.name}
            for graph in graphs_by_folder
        )
        assert old.keys() == new.keys() and len(old) > 50
        for tensor in old:
            np.testing.assert_array_equal(old[tensor], new[tensor])
        rng = np.random.default_rng(0)
        inputs = {}
        for value in graphs_by_folder[0].graph.input:
            shape = [dim.dim_value or 5 for dim in value.type.tensor_type.shape.dim]
            inputs[value.name] = torch.arange(5) if len(shape) == 1 else torch.from_numpy(rng.random(shape, np.float32))
        for a, b in zip(*(run_onnx(graph, inputs) for graph in graphs_by_folder), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
