"""The model repository of `cvae export triton`, held against Triton's own definition; no server is run here."""

import json
import types
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import cvae as package
from cvae.errors import CvaeError, UsageError
from cvae.exporters.triton import config, export, folder_name
from cvae.runtime.session import CHUNK, read_spec
from cvae.spec import Spec

TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)"}


@pytest.fixture(scope="session")
def protobuf(wheel) -> types.ModuleType:
    """`model_config.proto` as Triton's client package has it."""
    pytest.importorskip("google.protobuf")
    module = types.ModuleType("model_config_pb2")
    source = wheel("tritonclient==2.73.0").read("tritonclient/grpc/model_config_pb2.py")
    exec(compile(source, "model_config_pb2.py", "exec"), module.__dict__)
    return module


def parse(protobuf: types.ModuleType, text: str):
    from google.protobuf import text_format

    return text_format.Parse(text, protobuf.ModelConfig())  # raises for a field that there is not


def as_the_graph_sees_it(tensor) -> tuple[str, list[int]]:
    """The type and shape, without the batch, after Triton's reshape."""
    kind = TYPES[tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name]
    return kind, list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


@pytest.mark.parametrize("kind", ["labels", "plain"])
def test_the_repository_is_what_triton_defines_and_the_files_take(trained, protobuf, tmp_path, kind):
    files = export(trained[kind], out=str(tmp_path / "repository"), encoder=True)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(files)
    for role, name in {"decoder": kind, "encoder": f"{kind}-encoder"}.items():
        folder = tmp_path / "repository" / name
        told = parse(protobuf, (folder / "config.pbtxt").read_text())
        assert (told.name, told.backend, told.max_batch_size) == (name, "onnxruntime", CHUNK)
        assert told.HasField("dynamic_batching") and told.dynamic_batching.max_queue_delay_microseconds > 0
        model = folder / "1" / told.default_model_filename
        assert model.read_bytes() == (trained[kind] / f"{role}.onnx").read_bytes()
        session = ort.InferenceSession(model.read_bytes())  # from bytes no other file is within reach
        for tensors, arguments in ((told.input, session.get_inputs()), (told.output, session.get_outputs())):
            assert all(tensor.dims for tensor in tensors), "Triton takes no tensor without a dimension"
            described = {tensor.name: as_the_graph_sees_it(tensor) for tensor in tensors}
            assert described == {each.name: (each.type, each.shape[1:]) for each in arguments}
        assert Spec.from_json(told.parameters["cvae"].string_value, name) == read_spec(model)[0]


def test_requests_of_one_image_each_batched_as_triton_would_are_what_cvae_draws(trained, protobuf, tmp_path):
    """A client sends noise (1, Z) and label (1, 1); the server joins them and takes the last dimension off labels."""
    export(trained["labels"], out=str(tmp_path))
    told = parse(protobuf, (tmp_path / "labels" / "config.pbtxt").read_text())
    model = package.load(trained["labels"])
    noise, labels = model.noise(5, seed=1), np.array([7, 3, 0, 9, 7])
    requests = [{"noise": noise[i : i + 1], "label": labels[i].reshape(1, 1)} for i in range(5)]
    batch = {
        tensor.name: np.concatenate([each[tensor.name] for each in requests]).reshape(
            -1, *as_the_graph_sees_it(tensor)[1]
        )
        for tensor in told.input
    }
    (images,) = ort.InferenceSession(tmp_path / "labels" / "1" / "model.onnx").run(None, batch)
    assert images[0].shape == tuple(told.output[0].dims)
    np.testing.assert_allclose(images, model.decode(noise, labels), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist_v1.5", "mnist_v1.5"), ("my run", "my-run"), ("../../etc/x", "etc-x"), ("Zahl ä", "Zahl"), ("..", "model")],
)
def test_a_models_name_is_no_path(name, folder):
    assert folder_name(name) == folder


def test_any_name_and_class_stands_in_the_text(trained, protobuf):
    spec = json.loads(read_spec(trained["labels"] / "decoder.onnx")[0].to_json())
    spec |= {"name": 'a "quoted"\nname \\ ä', "classes": ['"', "\\", "雪", "\x00", "}"] * 2}
    spec = Spec.from_json(json.dumps(spec), "test")
    told = parse(protobuf, config(spec, folder_name(spec.name)))
    assert Spec.from_json(told.parameters["cvae"].string_value, "test") == spec


def test_a_model_joins_others_and_replaces_none(trained, tmp_path):
    for kind in ("labels", "plain"):
        export(trained[kind], out=str(tmp_path))
    with pytest.raises(UsageError, match=r"labels' exists already; .*--out"):
        export(trained["labels"], out=str(tmp_path), encoder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "plain"]


def test_a_run_that_was_not_exported_leaves_nothing(trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "decoder.onnx").write_bytes((trained["plain"] / "decoder.onnx").read_bytes())
    with pytest.raises(CvaeError, match=r"no encoder\.onnx; make it with: cvae export onnx"):
        export(tmp_path / "run", out=str(tmp_path / "repository"), encoder=True)
    assert not (tmp_path / "repository").exists()


def test_the_command(cvae):
    done = cvae("export", "triton", "--out", "repository", "--json")
    name = package.load().spec.name
    assert done.err == f"zoo model: {name}\n"
    assert done.facts["files"] == [f"repository/{name}/config.pbtxt", f"repository/{name}/1/model.onnx"]
    assert all(Path(path).is_file() for path in done.facts["files"])
