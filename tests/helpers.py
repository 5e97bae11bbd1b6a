"""Helpers that several test files share."""

import json
import re
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest

from cvae.config import TrainConfig
from cvae.errors import CvaeError, UsageError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Folder of real data next to the checkout. It may not exist."""

needs_mnist = pytest.mark.skipif(not (SHARED / "MNIST").exists(), reason=f"MNIST is not at {SHARED}")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def code_blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language in a Markdown document."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


class CommandResult(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Parsed JSON output of a command that must have succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def load_data(data: object, **flags: Any) -> Any:
    """Load a data set, as `cvae train --data` does."""
    from cvae.data import load_dataset

    return load_dataset(TrainConfig(data=str(data), **flags))


def assert_load_fails(data: object, *words: str, error_type: type[CvaeError] = UsageError, **flags: Any) -> None:
    """Check that loading fails with a one-line message that contains all the words."""
    with pytest.raises(CvaeError) as caught:
        load_data(data, **flags)
    message = str(caught.value)
    assert type(caught.value) is error_type, message
    assert "\n" not in message
    for word in words:
        assert word in message


def edit_output(path: Path, name: str, op: str, value: float) -> None:
    """Edit an exported file so that it applies the operator `op`, with the operand `value`, to the output `name`."""
    import numpy as np
    import onnx

    model = onnx.load(path)
    (node,) = [node for node in model.graph.node if name in node.output]
    node.output[list(node.output).index(name)] = f"{name}_before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value).reshape(()), "edit"))
    model.graph.node.append(onnx.helper.make_node(op, [f"{name}_before", "edit"], [name]))
    onnx.save(model, path)


def free_port() -> str:
    """Return a port on this machine that no server uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until a newly started server responds."""
    for _ in range(600):
        assert server.poll() is None, "the server has stopped"
        with suppress(OSError), urlopen(address):
            return
        time.sleep(0.1)
    raise AssertionError("the server does not respond")
