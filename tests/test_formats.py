"""Files of earlier formats."""

import json
from pathlib import Path

import pytest

from cvae import model_zoo
from cvae.conditions import label_condition
from cvae.config import Config
from cvae.errors import CvaeError
from cvae.formats import FORMAT
from cvae.spec import Spec

SPEC = {
    "format": 1, "role": "decoder", "name": "digits", "architecture": "mlp", "image_shape": [1, 8, 8],
    "value_range": [0.0, 1.0], "latent_dim": 2, "classes": ["5", "7"], "likelihood": "bernoulli", "sigma": None,
    "prior": "normal", "data": "digits", "data_terms": "free", "weights": "", "agreement": {}, "license": None,
    "producer": "cvae-onnx",
}  # fmt: skip
"""Spec as version 1 wrote it."""


@pytest.mark.parametrize("classes", [["5", "7"], None])
def test_spec_of_format_1_has_a_category_called_label(classes):
    spec = Spec.from_json(json.dumps(SPEC | {"classes": classes}), "old.onnx")
    assert spec.conditions == label_condition(classes) and spec.data_license == "free" and spec.format == FORMAT
    assert Spec.from_json(spec.to_json(), "new.onnx") == spec


@pytest.mark.parametrize("change", [{"classes": "57"}, {"classes": [5, 7]}, {"classes": []}, {"data_terms": None}])
def test_invalid_spec_of_format_1_is_rejected(change):
    with pytest.raises(CvaeError, match=r"'old\.onnx' does not have a valid cvae spec"):
        Spec.from_json(json.dumps(SPEC | change), "old.onnx")


@pytest.mark.parametrize("key", ["classes", "data_terms"])
def test_spec_of_format_1_without_a_key_is_rejected(key):
    with pytest.raises(CvaeError, match=key):
        Spec.from_json(json.dumps({name: value for name, value in SPEC.items() if name != key}), "old.onnx")


def test_runs_of_format_1_are_read(tmp_path):
    old = Path(model_zoo.__file__).parent / "mnist-resnet-conditional" / "config.json"
    data = json.loads(old.read_text())
    assert data["format"] == 1
    config = Config.read(old)
    assert config.model.conditions == label_condition(data["model"]["classes"])
    assert config.data_license == data["data_terms"] and config.fingerprint is None
    fingerprint = {"kind": "mnist", "images": {"train": 2}, "image_shape": [1, 28, 28], "sha256": "ab", "blocks": "cd"}
    data["training"]["options"]["data"] = fingerprint  # where version 1 stored it
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data))
    config = Config.read(path)
    assert config.fingerprint is not None and config.fingerprint.sha256 == "ab"
    path.write_text(config.to_json())
    assert json.loads(path.read_text())["format"] == FORMAT and Config.read(path) == config
