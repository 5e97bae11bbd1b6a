"""Fixtures for the tests of the hosts."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conditional_hosts import SEED, Rejected, load_module, program_host, to_text
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
