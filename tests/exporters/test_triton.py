"""Model repository that `cvae export triton` writes, compared with Triton's schema. No Triton server is needed."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image
from triton_server import Server, graph_type_and_shape, parse

import cvae as package
from cvae.errors import CvaeError, UsageError
from cvae.exporters.triton import CONFIG, export, format_config, make_folder_name
from cvae.imaging import to_uint8
from cvae.runtime.session import CHUNK, read_spec
from cvae.spec import Spec

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", ["labels", "plain", "conditional"])
def test_repository_follows_the_schema_of_triton(trained, conditional, protobuf, tmp_path, kind):
    run = conditional if kind == "conditional" else trained[kind]
    files = export(run, out=str(tmp_path / "repository"), encoder=True)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(files)
    for role, name in {"decoder": kind, "encoder": f"{kind}-encoder"}.items():
        folder = tmp_path / "repository" / name
        config = parse(protobuf, (folder / "config.pbtxt").read_text())
        assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", CHUNK)
        assert config.HasField("dynamic_batching") and config.dynamic_batching.max_queue_delay_microseconds > 0
        model = folder / "1" / config.default_model_filename
        assert model.read_bytes() == (run / f"{role}.onnx").read_bytes()
        session = ort.InferenceSession(model.read_bytes())  # from bytes, so that onnxruntime can't read other files
        for tensors, arguments in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert all(tensor.dims for tensor in tensors), "Triton requires a dimension in addition to the batch"
            described = {tensor.name: graph_type_and_shape(tensor) for tensor in tensors}
            assert described == {argument.name: (argument.type, argument.shape[1:]) for argument in arguments}
        assert Spec.from_json(config.parameters["cvae"].string_value, name) == read_spec(model)[0]


def test_batched_requests_give_the_same_images_as_cvae(trained, protobuf, tmp_path):
    """A client sends noise (1, Z) and label (1, 1); the server joins requests and drops the last label dimension."""
    export(trained["labels"], out=str(tmp_path))
    config = parse(protobuf, (tmp_path / "labels" / "config.pbtxt").read_text())
    model = package.load(trained["labels"])
    noise, labels = model.noise(5, seed=1), np.array([7, 3, 0, 9, 7])
    requests = [{"noise": noise[i : i + 1], "label": labels[i].reshape(1, 1)} for i in range(5)]
    batch = {
        tensor.name: np.concatenate([request[tensor.name] for request in requests]).reshape(
            -1, *graph_type_and_shape(tensor)[1]
        )
        for tensor in config.input
    }
    (images,) = ort.InferenceSession(tmp_path / "labels" / "1" / "model.onnx").run(None, batch)
    assert images[0].shape == tuple(config.output[0].dims)
    np.testing.assert_allclose(images, model.decode(noise, labels), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist_v1.5", "mnist_v1.5"), ("my run", "my-run"), ("../../etc/x", "etc-x"), ("Zahl ä", "Zahl"), ("..", "model")],
)
def test_model_name_becomes_a_safe_folder_name(name, folder):
    assert make_folder_name(name) == folder


def test_config_preserves_any_model_and_class_name(trained, protobuf):
    names = [f"{character}{i}" for i in range(2) for character in "\"\\雪'}"]
    condition = {"name": "label", "kind": "category", "values": names}
    spec = json.loads(read_spec(trained["labels"] / "decoder.onnx")[0].to_json())
    spec |= {
        "name": 'a "quoted" name \\ ä',
        "conditions": [condition],
    }
    spec = Spec.from_json(json.dumps(spec), "test")
    config = parse(protobuf, format_config(spec, make_folder_name(spec.name)))
    assert Spec.from_json(config.parameters["cvae"].string_value, "test") == spec


def test_model_is_added_without_replacing_others(trained, tmp_path):
    for kind in ("labels", "plain"):
        export(trained[kind], out=str(tmp_path))
    (tmp_path / "labels" / CONFIG).write_text("edited")
    with pytest.raises(UsageError, match=r"labels' already exists; .*--out"):
        export(trained["labels"], out=str(tmp_path), encoder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "plain"]


def test_export_completes_the_folders_of_a_killed_export(trained, tmp_path):
    files = export(trained["labels"], out=str(tmp_path), encoder=True)
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in files if "encoder" in str(path)}
    shutil.rmtree(tmp_path / "labels")
    assert export(trained["labels"], out=str(tmp_path), encoder=True) == files
    assert all(path.is_file() for path in files)
    assert before == {path: (path.read_bytes(), path.stat().st_ino) for path in before}


def test_missing_encoder_is_reported_and_leaves_no_repository(trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "decoder.onnx").write_bytes((trained["plain"] / "decoder.onnx").read_bytes())
    with pytest.raises(CvaeError, match=r"no encoder\.onnx; create it with: cvae export onnx"):
        export(tmp_path / "run", out=str(tmp_path / "repository"), encoder=True)
    assert not (tmp_path / "repository").exists()


def test_encoder_of_another_model_is_rejected_by_triton_exporter(trained, tmp_path):
    (tmp_path / "run").mkdir()
    for kind, name in (("labels", "decoder.onnx"), ("plain", "encoder.onnx")):
        (tmp_path / "run" / name).write_bytes((trained[kind] / name).read_bytes())
    with pytest.raises(UsageError, match=r"encoder\.onnx' was exported from different weights .* cvae export onnx"):
        export(tmp_path / "run", out=str(tmp_path / "repository"), encoder=True)
    assert not (tmp_path / "repository").exists()
    export(tmp_path / "run", out=str(tmp_path / "repository"))


def test_file_with_unsupported_operator_is_rejected(trained, tmp_path):
    import onnx

    model = onnx.load(trained["plain"] / "decoder.onnx")
    model.graph.node[-1].op_type = "Tile"
    onnx.save(model, tmp_path / "decoder.onnx")
    with pytest.raises(CvaeError, match="'Tile'"):
        export(tmp_path / "decoder.onnx", out=str(tmp_path / "repository"))


def test_export_triton_command_exports_the_zoo_model_by_default_and_lists_the_files(cvae):
    result = cvae("export", "triton", "--out", "repository", "--json")
    name = package.load().spec.name
    assert result.err == f"zoo model: {name}\n"
    assert result.json["files"] == [f"repository/{name}/config.pbtxt", f"repository/{name}/1/model.onnx"]
    assert all(Path(path).is_file() for path in result.json["files"])


# -- the client --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(trained, protobuf, tmp_path_factory) -> Iterator[str]:
    repository = tmp_path_factory.mktemp("repository")
    for kind in ("labels", "plain"):
        export(trained[kind], out=str(repository))
    with Server(repository, protobuf) as httpd:
        threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def client(url: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / "triton" / "client.py", "--url", url, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(("kind", "label"), [("labels", "7"), ("plain", None)])
def test_client_receives_the_same_image_as_python(server, trained, tmp_path, kind, label):
    flags = ["--label", label] if label else []
    result = client(server, "--model", kind, *flags, "--seed", "5", "--out", "a.png", folder=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image).astype(int)
    expected = to_uint8(package.load(trained[kind]).generate(1, label, seed=5))[0, 0]
    assert pixels.std() > 10 and np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "labels", "--label", "12"], ["'12'", "0, 1, 2"]),
        (["--model", "labels", "--label", "-1"], ["'-1'"]),
        (["--model", "labels", "--label", ""], ["''"]),
        (["--model", "plain", "--label", "7"], ["'plain'", "without labels", "'7'"]),
        (["--model", "unknown"], ["models/unknown", "unknown model"]),
        (["--url", "http://127.0.0.1:9"], ["127.0.0.1:9"]),
    ],
)
def test_client_error_is_one_line_with_the_cause(server, tmp_path, arguments, words):
    result = client(server, *arguments, folder=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and all(word in result.stderr for word in words)
    assert list(tmp_path.iterdir()) == []


def test_kserve_manifest_names_the_protocol_and_the_runtime():
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((ROOT / "examples" / "triton" / "kserve.yaml").read_text())
    model = service["spec"]["predictor"]["model"]
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert (model["protocolVersion"], model["runtime"]) == ("v2", "kserve-tritonserver")
    assert model["storageUri"].endswith("/model_repository")
