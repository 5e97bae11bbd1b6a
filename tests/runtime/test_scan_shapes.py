"""Shapes and costs that the scan derives, compared with those of onnxruntime."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from cvae.errors import CvaeError
from cvae.exporters.onnx.graph import set_metadata, trace
from cvae.runtime.scan import graph, limits, scan
from cvae.runtime.session import read_spec

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "model_zoo" / "mnist-resnet-conditional"


def onnxruntime_shapes(data: bytes, inputs: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that onnxruntime computes when it runs the graph without optimizations."""
    model = onnx.load_from_string(data)
    names = [name for node in model.graph.node for name in node.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {name: value.shape for name, value in zip(names, session.run(names, inputs), strict=True)}


@pytest.mark.parametrize("role", ["decoder", "encoder"])
@pytest.mark.parametrize("kind", ["labels", "plain", "zoo"])
def test_scan_derives_every_shape_that_onnxruntime_computes(trained, kind, role):
    path = (ZOO if kind == "zoo" else trained[kind]) / f"{role}.onnx"
    spec, data = read_spec(path)
    cost, tensors = graph.infer(data, spec)
    shape = (spec.latent_dim,) if role == "decoder" else spec.image_shape
    inputs = {"noise" if role == "decoder" else "image": np.zeros((5, *shape), np.float32)}
    if spec.classes is not None:
        inputs["label"] = np.arange(5)
    expected = onnxruntime_shapes(data, inputs)
    shapes = {name: tensors[name].shape for name in expected}
    assert {name: tuple(5 if size is None else size for size in shape) for name, shape in shapes.items()} == expected
    per_image = sum(np.prod(shape[1:] if None in shape else shape) for shape in shapes.values())
    assert per_image <= cost.elements <= 1.5 * per_image


@pytest.mark.integration
def test_scan_agrees_with_onnxruntime_on_random_graphs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "fuzz")
    import scan_shapes

    report = scan_shapes.fuzz(200, seed=1)  # by default, the script compares 20,000 graphs
    assert [text for kind, text in report if kind == "difference"] == []
    assert sum(count for (kind, _), count in report.items() if kind == "accepted") > 1000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer limits memory in a way that only Linux supports")
def test_fuzzer_finds_no_difference_in_a_smoke_run():
    command = [sys.executable, ROOT / "fuzz" / "scan_shapes.py", "--smoke", "--seed", "2", "--json"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    results = json.loads(process.stdout)
    assert results["graphs"] == 300 and results["difference"] == {} and sum(results["accepted"].values()) > 1500


def test_zoo_models_stay_far_below_the_limits(monkeypatch):
    for name in ("ELEMENTS_PER_PIXEL", "BASE_ELEMENTS", "BASE_WORK", "MAX_NODES"):
        monkeypatch.setattr(limits, name, getattr(limits, name) // 4)
    for role in ("decoder", "encoder"):
        spec, data = read_spec(ZOO / f"{role}.onnx")
        scan(data, spec, "")


class UnrolledSolver(nn.Module):
    """Decoder of 32x32 images whose velocity network is called `calls` times on a latent grid of 8x8."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        self.velocity = nn.Sequential(*(nn.Conv2d(128, 128, 3, padding=1) for _ in range(3)))
        self.head = nn.Conv2d(128, 16, 1)

    def forward(self, noise: Tensor) -> Tensor:
        grid = noise.view(-1, 128, 8, 8)
        for _ in range(self.calls):
            grid = grid + 0.1 * self.velocity(grid)
        return torch.sigmoid(pixel_shuffle(self.head(grid), 4))


@pytest.mark.parametrize(("calls", "accepted"), [(64, True), (160, False)])
def test_scan_accepts_the_inverse_of_eight_steps_with_guidance(calls, accepted):
    spec = replace(
        read_spec(ZOO / "decoder.onnx")[0], image_shape=(1, 32, 32), latent_dim=128 * 8 * 8, conditions=(), sigma=None
    )
    graph = trace(UnrolledSolver(calls), {"noise": torch.randn(2, spec.latent_dim)}, ("image",))
    set_metadata(graph, spec)
    data = graph.SerializeToString()
    if accepted:
        scan(data, spec, "solver")
    else:
        with pytest.raises(CvaeError, match="it costs too much for images"):
            scan(data, spec, "solver")
