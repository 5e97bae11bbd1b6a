"""Session of an exported file: what it returns and how it splits a batch."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import edit_output
from runtime_helpers import both_kinds, random_images

import cvae
from cvae.errors import CvaeError, UsageError
from cvae.runtime import session
from cvae.runtime.scan import remove_weights, scan
from cvae.runtime.session import read_spec

ZOO = Path(__file__).resolve().parents[2] / "model_zoo"


def test_session_rejects_outputs_whose_shape_contradicts_the_spec(trained, monkeypatch):
    """The session checks its outputs, even though the scan has already inferred their shapes."""
    model = cvae.load(trained["plain"])
    run = model._decoder._session.run

    class WrongSession:
        def run(self, names: Any, inputs: dict[str, np.ndarray], options: Any) -> Any:
            return [output[:, :, :4] for output in run(names, inputs)]

    monkeypatch.setattr(model._decoder, "_session", WrongSession())
    with pytest.raises(CvaeError, match=r"'image' is float32 \(3, 1, 4, 8\), not float32 \(3, 1, 8, 8\)"):
        model.generate(3)


def test_session_runs_costly_model_in_smaller_chunks(trained, monkeypatch):
    expected = cvae.load(trained["labels"]).generate(9, label=3, seed=0)
    spec, data = read_spec(trained["labels"] / "decoder.onnx")
    monkeypatch.setattr(session, "MAX_CPU_ELEMENTS", 2 * scan(data, spec, "").elements)
    model = cvae.load(trained["labels"])
    sizes, run = [], model._decoder._session.run

    class CountingSession:
        def run(self, names: Any, inputs: dict[str, np.ndarray], options: Any) -> Any:
            sizes.append(len(inputs["noise"]))
            return run(names, inputs)

    model._decoder._session = CountingSession()
    assert np.array_equal(model.generate(9, label=3, seed=0), expected)
    assert sizes == [2, 2, 2, 2, 1]


@both_kinds
def test_batches_are_padded_to_a_few_sizes_on_a_gpu(models, trained, kind, monkeypatch):
    expected = models[kind].generate(150, seed=5)
    model = cvae.load(trained[kind])
    decoder, sizes = model._decoder, []
    real = decoder._session

    class RecordingSession:
        def run(self, names, inputs, options):
            sizes.append({len(value) for value in inputs.values()})
            return real.run(names, inputs)

    monkeypatch.setattr(decoder, "_session", RecordingSession())
    monkeypatch.setattr(decoder, "_batches", session.BATCHES)  # as on a GPU
    assert np.array_equal(model.generate(150, seed=5), expected)
    assert [model.generate(n, seed=5).shape[0] for n in (1, 3, 17)] == [1, 3, 17]
    assert sizes == [{64}, {64}, {64}, {1}, {4}, {64}]
    monkeypatch.setattr(decoder, "_max_batch", 5)  # the memory limit takes precedence
    assert np.array_equal(model.generate(150, seed=5), expected)
    assert sizes[6:] == [{5}] * 30


class ImmediateTimer:
    """Timer that expires as soon as it is started."""

    def __init__(self, seconds: float, function: Any, arguments: Any = ()) -> None:
        self.function, self.arguments = function, arguments

    def start(self) -> None:
        self.function(*self.arguments)

    def cancel(self) -> None:
        pass


def test_time_limit_stops_loading_and_running(trained, monkeypatch):
    model = cvae.load(trained["labels"], time_limit=600)
    assert np.array_equal(model.generate(3, label=1, seed=0), cvae.load(trained["labels"]).generate(3, label=1, seed=0))
    monkeypatch.setattr(session, "Timer", ImmediateTimer)
    message = r"^'[^\n]*decoder.onnx' takes longer than the time limit of 600 s; [^\n]*$"
    with pytest.raises(CvaeError, match=message):
        model.generate(3, label=1)
    with pytest.raises(CvaeError, match=message):
        cvae.load(trained["labels"], time_limit=600)


@pytest.mark.parametrize("time_limit", [0, -1, float("nan"), float("inf")])
def test_time_limit_must_be_positive(trained, time_limit):
    with pytest.raises(UsageError, match="time_limit"):
        cvae.load(trained["labels"], time_limit=time_limit)


def test_graph_of_a_large_file_is_checked_without_its_weights(trained, tmp_path, monkeypatch):
    """onnxruntime rejects an operator that this opset lacks, before it has seen the weights."""
    expected = cvae.load(trained["labels"]).generate(9, label=3, seed=0)
    run = Path(shutil.copytree(trained["labels"], tmp_path / "run"))
    model = onnx.load(run / "decoder.onnx")
    for node in model.graph.node:
        node.output[:] = ["before" if name == "image" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Gelu", ["before"], ["image"]))
    model.opset_import[0].version = 18
    onnx.save(model, run / "decoder.onnx")
    sizes, start = [], session.ort.InferenceSession

    def record(data: bytes, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(data))
        return start(data, *arguments, **options)

    monkeypatch.setattr(session.ort, "InferenceSession", record)
    monkeypatch.setattr(session, "LARGE_BYTES", 0)
    assert np.array_equal(cvae.load(trained["labels"]).generate(9, label=3, seed=0), expected)
    assert len(sizes) == 2 and sizes[0] < sizes[1]
    with pytest.raises(CvaeError, match=r"onnxruntime can't load .*Gelu"):
        cvae.load(run)
    assert len(sizes) == 3


@pytest.mark.parametrize("role", ["decoder", "encoder"])
@pytest.mark.parametrize("name", ["mnist-ladder", "mnist-resnet-conditional", "mnist-resnet-flow"])
def test_remove_weights_replaces_weights_by_inputs(name, role):
    data = (ZOO / name / f"{role}.onnx").read_bytes()
    original, copy = onnx.load_from_string(data), onnx.load_from_string(remove_weights(data))
    onnx.checker.check_model(copy)
    assert list(copy.graph.node) == list(original.graph.node)
    constants = {weight.name for weight in copy.graph.initializer}
    inputs = {
        value.name: (value.type.tensor_type.elem_type, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in copy.graph.input
    }
    removed = {
        weight.name: (weight.data_type, list(weight.dims))
        for weight in original.graph.initializer
        if weight.name not in constants
    }
    assert removed and removed.items() <= inputs.items()
    assert all(len(weight.raw_data) <= 1024 for weight in copy.graph.initializer)


@pytest.mark.parametrize(
    ("op", "value", "words"),
    [("Mul", -1, "standard deviation -"), ("Mul", 0, "standard deviation 0"), ("Mul", np.nan, "not finite")],
)
def test_invalid_standard_deviation_is_rejected(trained, tmp_path, op, value, words):
    run = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    edit_output(run / "encoder.onnx", "std", op, value)
    with pytest.raises(CvaeError, match=rf"^'{run}/encoder.onnx' .*{words}.*$"):
        cvae.load(run).encode(random_images(2))


@pytest.mark.parametrize(("op", "value"), [("Add", 0.5), ("Sub", 0.5), ("Mul", np.nan), ("Mul", 1e30)])
def test_images_far_outside_their_range_are_rejected(trained, tmp_path, op, value):
    run = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    edit_output(run / "decoder.onnx", "image", op, value)
    with pytest.raises(CvaeError, match=rf"^'{run}/decoder.onnx' (contradicts.*not 0\.\.1;|returns .*not finite).*$"):
        cvae.load(run).generate(2, seed=0)


def test_images_slightly_outside_their_range_are_clipped(trained, tmp_path):
    run = Path(shutil.copytree(trained["plain"], tmp_path / "run"))
    before = cvae.load(run).generate(70, seed=0)  # more than one chunk
    edit_output(run / "decoder.onnx", "image", "Sub", 1e-3)
    images = cvae.load(run).generate(70, seed=0)
    assert images.min() == 0 and np.abs(images - (before - np.float32(1e-3)).clip(0, 1)).max() < 1e-6
