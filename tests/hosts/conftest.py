"""Fixtures for the tests of the hosts."""

import asyncio
import gc
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest
from conditional_hosts import SEED, Rejected, load_module, program_host, read_image, to_text
from triton_server import Server

import cvae
from cvae.exporters.triton import export

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def noise_folder(conditional, tmp_path):
    """Return a folder with the noise of the images in noise.f32."""
    (tmp_path / "noise.f32").write_bytes(cvae.load(conditional).noise(1, SEED).astype("<f4").tobytes())
    return tmp_path


@pytest.fixture
def node(conditional, checkout, noise_folder):
    program, decoder = checkout / "examples" / "node" / "generate.js", conditional / "decoder.onnx"
    return program_host(
        noise_folder, lambda noise, out: ["node", program, decoder, "--noise", noise, "--out", out], "image.png"
    )


@pytest.fixture
def cpp(conditional, program, noise_folder):
    decoder = conditional / "decoder.onnx"
    return program_host(noise_folder, lambda noise, out: [program, decoder, out, "--noise", noise], "image.pgm")


@pytest.fixture
def triton(conditional, protobuf, tmp_path):
    export(conditional, out=str(tmp_path / "repository"))
    with Server(tmp_path / "repository", protobuf) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        address, client = f"http://127.0.0.1:{server.server_port}", ROOT / "examples" / "triton" / "client.py"
        command = [sys.executable, client, "--url", address, "--model", "conditional", "--seed", SEED]
        yield program_host(tmp_path, lambda _, out: [*command, "--out", out], "image.png")
        server.shutdown()


@pytest.fixture
def fastapi(service):
    """Return a host that sends the values in a query. FastAPI returns a page of JSON."""

    def generate(values, extrapolate=False):
        query = {name: to_text(value) for name, value in values.items()}
        return parse_images(service.get("/images", params={"seed": SEED, "extrapolate": extrapolate, **query}))

    return generate


@pytest.fixture
def fastapi_json(service):
    """Return a host that sends the values in a JSON document."""

    def generate(values, extrapolate=False):
        body = {"seed": SEED, "extrapolate": extrapolate, "conditions": dict(values)}
        return parse_images(service.post("/images", json=body))

    return generate


@pytest.fixture(scope="session")
def service(conditional):
    """Return a client of the FastAPI example."""
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from fastapi.testclient import TestClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CVAE_MODEL", str(conditional))
        module = load_module(ROOT / "examples" / "fastapi" / "app.py", "conditional_app")
    return TestClient(module.app)


def parse_images(response):
    if response.status_code == 422:
        raise Rejected(response.json()["detail"])
    return np.array(response.json()["images"][0], np.float32)


@pytest.fixture
def ray_serve(deployment):
    """Return a host that calls the deployment in this process. A slow test of the example starts a server."""
    from starlette.requests import Request

    def generate(values, extrapolate=False):
        query = {name: to_text(value) for name, value in values.items()}
        text = urlencode({"seed": SEED, "extrapolate": int(extrapolate), **query})
        response = deployment(Request({"type": "http", "query_string": text.encode(), "headers": []}))
        if response.status_code == 422:
            raise Rejected(response.body.decode())
        return read_image(response.body)

    return generate


@pytest.fixture(scope="session")
def deployment(conditional):
    """Return a function that responds to a request as a replica of the deployment does."""
    serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
    module = load_module(ROOT / "examples" / "ray" / "serving.py", "conditional_serving")
    replica = module.Digits.func_or_class(str(conditional))
    context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=64))
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(serve, "get_replica_context", lambda: context)  # batches are possible only in a replica
        yield lambda request: runner.run(replica(request))


@pytest.fixture
def ray_data(conditional):
    """Return a host that calls a worker in this process. A slow test of the example runs the job."""
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    module = load_module(ROOT / "examples" / "ray" / "bulk.py", "conditional_bulk")

    def generate(values, extrapolate=False):
        texts = {name: to_text(value) for name, value in values.items()}
        try:
            batch = module.Generator(str(conditional), SEED, texts, extrapolate)({"id": np.array([0])})
        except cvae.UsageError as error:
            raise Rejected(str(error)) from error
        return read_image(batch["png"][0])

    generate.noise = np.random.default_rng([SEED, 0]).standard_normal((1, 4), np.float32)
    return generate


@pytest.fixture
def gradio(conditional, gradio_app):
    """Return a host that calls the function of the Gradio page, whose controls have no option to extrapolate."""
    package, app = gradio_app

    def generate(values):
        choices = []
        for condition, control in zip(app.conditions, app.controls, strict=False):
            value = values.get(condition.name)
            text = to_text(value)
            choices.append(
                control.value if value is None else text.split(",") if condition.kind == "attributes" else text
            )
        try:
            return app.generate(*choices, SEED)[0]
        except package.Error as error:
            raise Rejected(error.message) from error

    generate.noise = cvae.load(conditional).noise(16, SEED)[:1]
    return generate


@pytest.fixture(scope="session")
def gradio_app(conditional):
    package = pytest.importorskip("gradio", reason="gradio is not installed")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Gradio does not close its event loops
        patch.setenv("CVAE_MODEL", str(conditional))
        app = load_module(ROOT / "examples" / "gradio" / "app.py", "conditional_gradio")
        gc.collect()
    return package, app
