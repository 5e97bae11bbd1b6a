"""Fixtures for the tests of the hosts."""

import sys
import threading
from pathlib import Path

import pytest
from conditional_hosts import SEED, program_host
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
def triton(conditional, protobuf, tmp_path):
    export(conditional, out=str(tmp_path / "repository"))
    with Server(tmp_path / "repository", protobuf) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        address, client = f"http://127.0.0.1:{server.server_port}", ROOT / "examples" / "triton" / "client.py"
        command = [sys.executable, client, "--url", address, "--model", "conditional", "--seed", SEED]
        yield program_host(tmp_path, lambda _, out: [*command, "--out", out], "image.png")
        server.shutdown()
