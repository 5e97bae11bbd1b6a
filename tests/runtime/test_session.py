"""Session of an exported file: what it returns and how it splits a batch."""

from typing import Any

import numpy as np
import pytest

import cvae
from cvae.errors import CvaeError
from cvae.runtime import session
from cvae.runtime.scan import scan
from cvae.runtime.session import read_spec


def test_session_rejects_outputs_whose_shape_contradicts_the_spec(trained, monkeypatch):
    """The session checks its outputs, even though the scan has derived their shapes."""
    model = cvae.load(trained["plain"])
    run = model._decoder._session.run

    class WrongSession:
        def run(self, names: Any, inputs: dict[str, np.ndarray]) -> Any:
            return [output[:, :, :4] for output in run(names, inputs)]

    monkeypatch.setattr(model._decoder, "_session", WrongSession())
    with pytest.raises(CvaeError, match=r"'image' is float32 \(3, 1, 4, 8\), not float32 \(3, 1, 8, 8\)"):
        model.generate(3)


def test_session_runs_costly_model_on_smaller_chunks(trained, monkeypatch):
    expected = cvae.load(trained["labels"]).generate(9, label=3, seed=0)
    spec, data = read_spec(trained["labels"] / "decoder.onnx")
    monkeypatch.setattr(session, "MAX_ELEMENTS", 2 * scan(data, spec, ""))
    model = cvae.load(trained["labels"])
    sizes, run = [], model._decoder._session.run

    class CountingSession:
        def run(self, names: Any, inputs: dict[str, np.ndarray]) -> Any:
            sizes.append(len(inputs["noise"]))
            return run(names, inputs)

    model._decoder._session = CountingSession()
    assert np.array_equal(model.generate(9, label=3, seed=0), expected)
    assert sizes == [2, 2, 2, 2, 1]
