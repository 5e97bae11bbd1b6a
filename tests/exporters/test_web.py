"""Exported web page: the files in its folder, and the command `cvae export web`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from linear_model import Linear

from cvae.errors import UsageError
from cvae.exporters import onnxruntime_web, web
from cvae.model_zoo import DEFAULT

ROOT = Path(__file__).resolve().parents[2]
RUNTIME, WEBGPU = ["ort.js", "ort.wasm.gz"], ["ort.webgpu.js", "ort.webgpu.wasm.gz"]


@pytest.fixture
def linear(tmp_path: Path) -> Linear:
    return Linear(tmp_path / "linear")


@pytest.fixture
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the files of onnxruntime-web, so that nothing is downloaded."""
    monkeypatch.setattr(onnxruntime_web, "load_files", lambda *, webgpu: dict.fromkeys(RUNTIME + WEBGPU * webgpu, b"x"))


@pytest.mark.usefixtures("fake_runtime")
@pytest.mark.parametrize(("encoder", "webgpu"), [(True, True), (False, False)])
def test_folder_contains_page_runtime_and_model(linear, tmp_path, encoder, webgpu):
    if not encoder:
        (linear.folder / "encoder.onnx").unlink()
    written = web.export(linear.folder, out=tmp_path / "site", webgpu=webgpu)
    page = {path.name for path in (ROOT / "exporters" / "page").iterdir()}
    expected = page | {"decoder.onnx", "model.json", *RUNTIME, *WEBGPU * webgpu, *["encoder.onnx"] * encoder}
    assert {path.name for path in written} == {path.name for path in (tmp_path / "site").iterdir()} == expected
    assert (tmp_path / "site" / "decoder.onnx").read_bytes() == (linear.folder / "decoder.onnx").read_bytes()
    manifest = json.loads((tmp_path / "site" / "model.json").read_text())
    assert (manifest["encoder"], manifest["webgpu"]) == (encoder, webgpu)
    assert manifest["dimensions"] == [1, 3, 4, 2, 0]  # sorted by the magnitude of their weights
    codes = np.random.default_rng(1).normal(size=(2000, 5))
    for dimension, effect in zip(manifest["dimensions"], manifest["effects"], strict=True):
        low, high = codes.copy(), codes.copy()
        low[:, dimension], high[:, dimension] = -1, 1
        difference = linear.decode(high, [0]) - linear.decode(low, [0])
        assert effect == pytest.approx(np.sqrt(np.square(difference).mean()), rel=0.05)


@pytest.mark.usefixtures("fake_runtime")
def test_encoder_of_another_model_is_rejected_by_web_exporter(linear, tmp_path):
    (linear.folder / "encoder.onnx").write_bytes(linear.graph("encoder", weights="other"))
    with pytest.raises(UsageError, match=r"different weights .* cvae export onnx"):
        web.export(linear.folder, out=tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.usefixtures("fake_runtime")
def test_export_web_command_explains_how_to_view_the_page(cvae, trained):
    result = cvae("export", "web", trained["plain"], "--json")
    assert result.err == "to see it: python -m http.server --directory web\n"
    assert "web/index.html" in result.json["files"] and Path("web/index.html").is_file()
    result = cvae("export", "web", "--out", "zoo")
    assert result.code == 0 and result.err.startswith(f"zoo model: {DEFAULT}\n")
    shutil.copytree(trained["plain"], "runs/raw", ignore=shutil.ignore_patterns("*.onnx"))
    for arguments, code, words in (
        (["web", trained["plain"]], 2, ["'web'", "--out"]),  # the folder already exists
        (["web", "--out", "new"], 1, ["cvae export onnx runs/raw"]),
        (["web", "--out", "new", "--license", "MIT"], 2, ["exporter 'web'", "'license'"]),
        (["onnx", "runs/raw", "--out", "new"], 2, ["exporter 'onnx'", "'out'"]),
        (["web", "nothing", "--out", "new"], 2, ["'nothing'"]),
    ):
        result = cvae("export", *arguments)
        assert result.code == code and result.out == "" and all(word in result.err for word in words), result.err
        assert result.err.splitlines()[-1].startswith("cvae: error: ") and not Path("new").exists()
