"""Limits of the FastAPI example: the size of a response, the queue, and requests whose clients are slow or gone."""

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cvae.model_zoo
from cvae.run import DECODER
from cvae.runtime.session import read_spec

fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fastapi"
SHAPE = (3, 256, 256)


@pytest.fixture
def app(monkeypatch):
    """Return the module of the service, for the default model."""
    return import_app(monkeypatch)


def import_app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    import_module("app")
    return sys.modules.pop("app")  # another test imports it for another model


def write_large_decoder(path: Path) -> None:
    """Write a decoder of images of 3x256x256 pixels that are all grey."""
    spec = read_spec(cvae.model_zoo.model(cvae.model_zoo.DEFAULT) / DECODER)[0]
    spec = replace(spec, image_shape=SHAPE, latent_dim=2, conditions=())
    nodes = [
        helper.make_node("MatMul", ["noise", "weight"], ["product"]),
        helper.make_node("Reshape", ["product", "column"], ["pixel"]),
        helper.make_node("Sigmoid", ["pixel"], ["grey"]),
        helper.make_node("Expand", ["grey", "shape"], ["image"]),
    ]
    inputs = [helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", 2])]
    outputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])]
    weight, column, shape = np.ones((2, 1), np.float32), np.array([-1, 1, 1, 1]), np.array([1, *SHAPE])
    constants = {"weight": weight, "column": column, "shape": shape}
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"cvae": spec.to_json()})
    onnx.save(model, path)


Send = Callable[[dict[str, Any]], Awaitable[None]]


async def request(app: Any, target: str, *, body: bytes = b"", gone: Any = None, send: Send | None = None) -> Any:
    """Send a request to an ASGI app, and return the status, the headers, and the pieces of the body.

    Args:
        app: the app.
        target: path and query.
        body: body of a POST request; a GET request has none.
        gone: function that returns whether the client has disconnected.
        send: function that receives the messages of the app instead.
    """
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "method": "POST" if body else "GET", "path": path, "query_string": query.encode(), "root_path": "",
        "headers": [(b"content-type", b"application/json")], "client": None, "server": ("localhost", 80),
    }  # fmt: skip
    requests, messages = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        while gone is None or not gone():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def collect(message: dict[str, Any]) -> None:
        messages.append(message)

    await app(scope, receive, send or collect)
    if not messages:
        return None
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], headers, [message.get("body", b"") for message in messages[1:]]


def test_response_is_limited_by_its_pixels(tmp_path, monkeypatch):
    write_large_decoder(tmp_path / DECODER)
    monkeypatch.setenv("CVAE_MODEL", str(tmp_path / DECODER))
    app = import_app(monkeypatch)

    async def run() -> None:
        status, _, body = await request(app.app, "/images.png?n=256")
        assert status == 422 and "less than or equal to 5" in b"".join(body).decode()
        status, _, pieces = await request(app.app, "/images?n=2&seed=1")
        assert status == 200 and max(map(len, pieces)) <= 2**16
        images = json.loads(b"".join(pieces))["images"]
        np.testing.assert_allclose(images, app.model.generate(2, seed=1), atol=5.1e-7)

    asyncio.run(run())


def test_full_queue_rejects_requests_but_not_health(app, monkeypatch):
    queue = app.WorkQueue(max_requests=1, threads=1)
    place = asynccontextmanager(queue.place)

    async def take_places() -> None:
        async with place():
            with pytest.raises(fastapi.HTTPException) as error:
                await anext(queue.place())
            assert error.value.status_code == 503
        async with place():
            pass

    asyncio.run(take_places())
    monkeypatch.setattr(app.queue, "_max_requests", 0)
    for target in ("/images", "/images.png?n=9"):
        status, headers, _ = asyncio.run(request(app.app, target))
        assert (status, headers["retry-after"]) == (503, "1")
    assert asyncio.run(request(app.app, "/images", body=b"{}"))[0] == 503
    assert asyncio.run(request(app.app, "/health"))[0] == 200


def test_health_responds_while_all_threads_are_busy(app, monkeypatch):
    from anyio import to_thread

    decoding, release = threading.Event(), threading.Event()
    decode_rows = app.model.decode_rows

    def wait(*args: Any) -> Any:
        decoding.set()
        release.wait(10)
        return decode_rows(*args)

    monkeypatch.setattr(app.model, "decode_rows", wait)

    async def run() -> None:
        to_thread.current_default_thread_limiter().total_tokens = 1
        images = asyncio.create_task(request(app.app, "/images"))
        try:
            while not decoding.is_set():
                await asyncio.sleep(0.001)
            assert (await asyncio.wait_for(request(app.app, "/health"), 10))[0] == 200
            assert not images.done()
        finally:
            release.set()
        assert (await images)[0] == 200

    asyncio.run(run())


def test_request_of_a_disconnected_client_ends_after_the_current_chunk(app, monkeypatch):
    chunks = []
    decode_rows = app.model.decode_rows

    def count(*args: Any) -> Any:
        chunks.append(1)
        return decode_rows(*args)

    monkeypatch.setattr(app.model, "decode_rows", count)
    monkeypatch.setattr(app, "CHUNK", 1)
    status, _, _ = asyncio.run(request(app.app, "/images.png?n=9", gone=lambda: len(chunks) == 2))
    assert (status, len(chunks), app.queue._requests) == (499, 2, 0)
    assert asyncio.run(request(app.app, "/images.png?n=9"))[0] == 200 and len(chunks) == 11


def test_response_to_a_slow_client_is_broken_off(app, monkeypatch):
    monkeypatch.setattr(sys.modules["work_queue"], "MAX_SECONDS", 0.05)
    places = []

    async def never(message: dict[str, Any]) -> None:
        places.append(app.queue._requests)
        await asyncio.sleep(60 * bool(message.get("body")))

    asyncio.run(asyncio.wait_for(request(app.app, "/images?n=256", send=never), 30))
    assert places == [1, 1]  # the headers and the first piece
    assert app.queue._requests == 0


def test_large_request_is_rejected(app):
    status, _, body = asyncio.run(request(app.app, "/images", body=b'{"seed": 1}' + b" " * app.MAX_BODY_BYTES))
    assert status == 413 and b"1,048,576 bytes" in b"".join(body)
    assert asyncio.run(request(app.app, "/images", body=b'{"seed": 1}' + b" " * 1000))[0] == 200
