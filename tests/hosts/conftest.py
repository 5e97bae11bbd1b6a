"""Fixtures for the tests of the hosts."""

import asyncio
import gc
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest
from conditional_hosts import SEED, Rejected, load_module, program_host, read_image, to_text
from triton_server import Server

import cvae
from cvae.exporters import web
from cvae.exporters.triton import export

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def node(conditional, node_program):
    return node_program(conditional)


@pytest.fixture
def node_program(checkout, tmp_path):
    """Return a function that turns a model into a host."""
    program = checkout / "examples" / "node" / "generate.js"

    def make_host(model):
        write_noise(model, tmp_path)
        command = ["node", program, model / "decoder.onnx"]
        return program_host(tmp_path, lambda noise, out: [*command, "--noise", noise, "--out", out], "image.png")

    return make_host


@pytest.fixture
def cpp(conditional, cpp_program):
    return cpp_program(conditional)


@pytest.fixture
def cpp_program(program, tmp_path):
    """Return a function that turns a model into a host."""

    def make_host(model):
        write_noise(model, tmp_path)
        decoder = model / "decoder.onnx"
        return program_host(tmp_path, lambda noise, out: [program, decoder, out, "--noise", noise], "image.pgm")

    return make_host


def write_noise(model, folder):
    (folder / "noise.f32").write_bytes(cvae.load(model).noise(1, SEED).astype("<f4").tobytes())


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
        patch.syspath_prepend(ROOT / "examples" / "fastapi")
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
    runner = asyncio.Runner()
    # Playwright has an event loop in the main thread, so this one needs another thread.
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setattr(serve, "get_replica_context", lambda: context)  # batches are possible only in a replica
        yield lambda request: thread.submit(lambda: runner.run(replica(request))).result()
        thread.submit(runner.close).result()


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


@pytest.fixture
def page(web_page, conditional):
    """Return a host that calls the JavaScript module of the exported page in a browser."""
    noise = cvae.load(conditional).noise(1, SEED)

    def generate(values, extrapolate=False):
        image, error = web_page.evaluate(
            """async ([noise, conditions, extrapolate]) => {
                const { model } = await import("./app.js");
                try {
                    return [[...(await model.decode(Float32Array.from(noise), conditions, { extrapolate }))], ""];
                } catch (error) {
                    return [[], error.message];
                }
            }""",
            [noise.ravel().tolist(), dict(values), extrapolate],
        )
        if error:
            raise Rejected(error)
        return np.array(image, np.float32).reshape(1, 8, 8)

    return generate


@pytest.fixture(scope="module")
def web_page(chromium, serve, conditional, tmp_path_factory):
    """Return the exported page in a browser."""
    folder = tmp_path_factory.mktemp("page") / "site"
    try:
        web.export(conditional, out=folder)
    except cvae.CvaeError as error:
        if "could not be downloaded" not in str(error):
            raise
        pytest.skip(str(error))
    page = chromium.new_page()
    page.goto(f"{serve(folder)}/index.html")
    page.wait_for_selector("body.ready", timeout=60_000)
    return page
