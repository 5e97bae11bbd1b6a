"""Exported files: self-describing, reproducible, compared with torch, and free of local paths."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import cvae
from cvae.engine import load_model
from cvae.engine.checkpoint import load_model_and_hash, save_weights
from cvae.errors import CvaeError
from cvae.exporters import onnx as exporter
from cvae.exporters.onnx import parity
from cvae.exporters.onnx.graph import to_onnx
from cvae.exporters.onnx.wrappers import Decoder
from cvae.runtime.session import read_spec
from cvae.spec import KEY, Spec

FILES = ("decoder.onnx", "encoder.onnx")


def copy_run(run: Path, target: Path) -> Path:
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((run / name).read_bytes())
    return target


@pytest.mark.parametrize("kind", ["labels", "plain"])
@pytest.mark.parametrize("file", FILES)
def test_exported_file_is_a_valid_model_and_contains_its_spec(trained, kind, file):
    model = onnx.load(trained[kind] / file, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    assert not {node.op_type for node in model.graph.node} & {"RandomNormal", "RandomNormalLike", "RandomUniform"}
    spec = Spec.from_json({p.key: p.value for p in model.metadata_props}[KEY], file)
    assert spec == read_spec(trained[kind] / file)[0]
    assert spec.image_shape == (1, 8, 8) and spec.latent_dim == 8
    assert spec.classes == (tuple("0123456789") if kind == "labels" else None)
    assert spec.agreement["batches"] == [1, 2, 7, 64] and 0 <= spec.agreement["max_abs_difference"] <= 1e-5


def test_export_writes_only_the_decoder_and_encoder_as_onnx(trained):
    assert not [path.name for path in trained["labels"].iterdir() if ".onnx" in path.name and path.name not in FILES]


@pytest.mark.parametrize("file", FILES)
def test_exported_file_contains_no_path_and_no_source_line(trained, file):
    data = (trained["labels"] / file).read_bytes()
    model = onnx.load_from_string(data)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    for word in (b".py", b"stack_trace", str(Path.home()).encode() + b"/", str(Path.cwd()).encode()):
        assert word not in data


def test_same_weights_give_the_same_bytes(trained, tmp_path):
    copy = copy_run(trained["labels"], tmp_path / "labels")
    exporter.export(copy)
    assert [(copy / f).read_bytes() for f in FILES] == [(trained["labels"] / f).read_bytes() for f in FILES]


def test_half_precision_halves_file_size_and_stays_within_one_grey_level(trained, tmp_path):
    run = copy_run(trained["plain"], tmp_path / "plain")
    exporter.export(run, half=True)
    for file in FILES:
        spec, size = read_spec(run / file)[0], (run / file).stat().st_size
        assert size < 0.55 * (trained["plain"] / file).stat().st_size
        assert spec.agreement["weights"] == "float16" and 0 < spec.agreement["max_abs_difference"] <= 1 / 255
    full, halved = (cvae.load(folder).generate(50, seed=0) for folder in (trained["plain"], run))
    assert 0 < np.abs(halved - full).max() <= 2 * read_spec(run / FILES[0])[0].agreement["max_abs_difference"]


def test_failed_comparison_raises_an_error_and_writes_no_file(trained, tmp_path, monkeypatch):
    run = copy_run(trained["labels"], tmp_path / "run")
    monkeypatch.setattr(exporter, "TOLERANCE", -1.0)
    with pytest.raises(CvaeError, match=r"differs from torch by .* nothing was written"):
        exporter.export(run)
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "model.safetensors"]


def test_comparison_detects_a_different_graph(trained):
    """The measured difference matches the effect of changing one weight in the graph."""
    model, _ = load_model(trained["plain"])
    graph = onnx.load(trained["plain"] / "decoder.onnx")
    spec, _ = read_spec(trained["plain"] / "decoder.onnx")
    bias = next(t for t in graph.graph.initializer if t.name.endswith("decoder.head.bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 1.0
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    difference = parity.compare(graph, Decoder(model), spec)
    inputs = parity.make_example_inputs(spec, 64)
    with torch.no_grad():
        params = model.decoder(inputs["noise"], None)[:, 0, 0, 0]
    before, after = (model.likelihood.mean(p) for p in (params, params + 1))
    assert difference == pytest.approx((after - before).abs().max().item(), rel=0.2)


def test_nonfinite_outputs_fail_the_comparison(trained):
    model, _ = load_model(trained["plain"])
    spec, _ = read_spec(trained["plain"] / "decoder.onnx")
    with torch.no_grad():
        model.decoder.head.bias.fill_(float("nan"))
    module = Decoder(model)
    assert not parity.compare(to_onnx(module, spec), module, spec) <= 1e-5


def test_spec_does_not_contain_the_data_set_path(trained, tmp_path):
    run = copy_run(trained["plain"], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["training"]["data"] = "folder:/home/somebody/secret"
    (run / "config.json").write_text(json.dumps(config))
    exporter.export(run)
    assert read_spec(run / "decoder.onnx")[0].data == "folder"
    assert b"secret" not in (run / "decoder.onnx").read_bytes()


def test_spec_has_the_hash_of_the_weights_that_were_exported(trained, tmp_path, monkeypatch):
    """The hash fits the exported weights even if a training run replaces their file during the export."""
    run = copy_run(trained["plain"], tmp_path / "run")
    weights = (run / "model.safetensors").read_bytes()
    model, _ = load_model(run)

    def load_and_replace(folder):
        loaded = load_model_and_hash(folder)
        newer = {name: tensor + 1 for name, tensor in loaded[0].state_dict().items()}
        save_weights(run / "model.safetensors", newer)
        return loaded

    monkeypatch.setattr(exporter, "load_model_and_hash", load_and_replace)
    exporter.export(run)
    assert (run / "model.safetensors").read_bytes() != weights
    for file in FILES:
        assert read_spec(run / file)[0].weights == hashlib.sha256(weights).hexdigest()
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(run / "decoder.onnx").graph.initializer}
    np.testing.assert_array_equal(tensors["model.decoder.head.bias"], model.decoder.head.bias.detach().numpy())


def test_export_reports_each_graph_on_standard_error(cvae, trained, tmp_path):
    run = copy_run(trained["labels"], tmp_path / "run")
    result = cvae("export", "onnx", run)
    assert result.code == 0 and result.out.splitlines() == [
        f"{run / name} ({(run / name).stat().st_size:,} bytes)" for name in (*FILES, "README.md")
    ]
    for line, name in zip(result.err.splitlines(), FILES, strict=True):
        spec = read_spec(run / name)[0]
        size = (run / name).stat().st_size
        assert line == f"{name}: {size:,} bytes, within {spec.agreement['max_abs_difference']} of torch"
    again = cvae("export", "onnx", run, "--json")
    assert again.err == result.err and len(again.json["files"]) == 3


@pytest.mark.integration
@pytest.mark.parametrize(
    "torch_onnx", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["converted", "torch.onnx"]
)
def test_export_prints_no_warnings_from_other_packages(trained, tmp_path, torch_onnx):
    """The export runs in its own process, which shows all warnings because it does not have pytest's filters."""
    run = copy_run(trained["plain"], tmp_path / "run")
    program = "import sys; from cvae.exporters.onnx import export, graph; export(sys.argv[1])"
    if torch_onnx:
        program = program.replace("graph;", "graph; graph.OPERATORS.clear();")
    result = subprocess.run([sys.executable, "-W", "default", "-c", program, run], capture_output=True, text=True)
    ours = [line for line in result.stderr.splitlines() if not re.search(r"site-packages.*(Deprecation|Import)", line)]
    assert result.returncode == 0 and result.stdout == "" and ours == []


@pytest.mark.integration
def test_export_imports_neither_torch_compiler_nor_onnxscript(trained, tmp_path):
    """The conversion does not need these packages, each of which takes a second or more to import."""
    run = copy_run(trained["labels"], tmp_path / "run")
    program = (
        "import sys; from cvae.exporters.onnx import export; export(sys.argv[1]); "
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'onnxscript') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program, run], text=True) == "[]\n"


def test_export_restores_the_number_of_threads(trained, tmp_path, monkeypatch):
    run = copy_run(trained["plain"], tmp_path / "run")
    monkeypatch.setattr(exporter, "TOLERANCE", -1.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(CvaeError):
            exporter.export(run)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
