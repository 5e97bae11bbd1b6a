"""Server that follows the configuration of a model repository as Triton does, without Triton."""

import json
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)", "TYPE_BOOL": "tensor(bool)"}


def parse(protobuf: types.ModuleType, text: str):
    from google.protobuf import text_format

    return text_format.Parse(text, protobuf.ModelConfig())  # raises an error for an unknown field


def graph_type_and_shape(tensor) -> tuple[str, list[int]]:
    """Return the type and shape of a tensor after Triton's reshape, without the batch dimension."""
    dtype = TYPES[tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name]
    return dtype, list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


class Server(ThreadingHTTPServer):
    """Server for the v2 protocol. It checks and reshapes tensors as the requested model's config.pbtxt says."""

    def __init__(self, repository: Path, protobuf: types.ModuleType) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repository = repository
        self.protobuf = protobuf


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.respond(None)

    def do_POST(self) -> None:
        self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def respond(self, request: dict[str, Any] | None) -> None:
        from google.protobuf.json_format import MessageToDict

        _, version, models, name, verb = self.path.split("/")
        folder = self.server.repository / name
        if (version, models) != ("v2", "models") or not folder.is_dir():
            return self.send_error(400, f"unknown model {name}")
        config = parse(self.server.protobuf, (folder / "config.pbtxt").read_text())
        if verb == "config":
            return self.send(MessageToDict(config, preserving_proto_field_name=True))
        assert verb == "infer" and request is not None
        tensors = {tensor["name"]: tensor for tensor in request["inputs"]}
        feed = {}
        for expected in config.input:
            tensor = tensors.pop(expected.name)
            values = np.array(tensor["data"], {"FP32": np.float32, "INT64": np.int64, "BOOL": bool}[tensor["datatype"]])
            batch, *shape = tensor["shape"]
            assert shape == list(expected.dims) and batch <= config.max_batch_size
            feed[expected.name] = values.reshape(batch, *graph_type_and_shape(expected)[1])
        assert not tensors
        (image,) = ort.InferenceSession(folder / "1" / "model.onnx").run(None, feed)
        output = {"name": "image", "datatype": "FP32", "shape": list(image.shape), "data": image.ravel().tolist()}
        return self.send({"model_name": name, "outputs": [output]})

    def send(self, values: dict[str, Any]) -> None:
        data = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...
