"""Fixtures for the tests of the hosts."""

from pathlib import Path

import pytest
from conditional_hosts import program_host
from conditional_model import AGE, LABEL, TRAITS, export_model


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with one condition of each kind."""
    return export_model(tmp_path_factory.mktemp("hosts") / "conditional", (LABEL, AGE, TRAITS))


@pytest.fixture
def node(conditional, checkout, tmp_path):
    program, decoder = checkout / "examples" / "node" / "generate.js", conditional / "decoder.onnx"
    return program_host(
        conditional,
        tmp_path,
        lambda noise, out: ["node", str(program), str(decoder), "--noise", str(noise), "--out", str(out)],
        "image.png",
    )
