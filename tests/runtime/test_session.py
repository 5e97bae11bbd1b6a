"""Session of an exported file: what it returns and how it splits a batch."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import edit_output
from runtime_helpers import both_kinds, random_images

import cvae
from cvae.errors import CvaeError
from cvae.runtime import session
from cvae.runtime.scan import scan
from cvae.runtime.session import read_spec


def test_session_rejects_outputs_whose_shape_contradicts_the_spec(trained, monkeypatch):
    """The session checks its outputs, even though the scan has already inferred their shapes."""
    model = cvae.load(trained["plain"])
    run = model._decoder._session.run

    class WrongSession:
        def run(self, names: Any, inputs: dict[str, np.ndarray]) -> Any:
            return [output[:, :, :4] for output in run(names, inputs)]

    monkeypatch.setattr(model._decoder, "_session", WrongSession())
    with pytest.raises(CvaeError, match=r"'image' is float32 \(3, 1, 4, 8\), not float32 \(3, 1, 8, 8\)"):
        model.generate(3)


def test_session_runs_costly_model_in_smaller_chunks(trained, monkeypatch):
    expected = cvae.load(trained["labels"]).generate(9, label=3, seed=0)
    spec, data = read_spec(trained["labels"] / "decoder.onnx")
    monkeypatch.setattr(session, "MAX_CPU_ELEMENTS", 2 * scan(data, spec, ""))
    model = cvae.load(trained["labels"])
    sizes, run = [], model._decoder._session.run

    class CountingSession:
        def run(self, names: Any, inputs: dict[str, np.ndarray]) -> Any:
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
        def run(self, names, inputs):
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
