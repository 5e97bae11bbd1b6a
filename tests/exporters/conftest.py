"""Fixtures for the tests of the exporters."""

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Return a function that serves a folder over HTTP and returns its address, without a trailing slash."""
    servers = {}

    def start(folder: Path) -> str:
        if folder in servers:
            return f"http://127.0.0.1:{servers[folder].server_port}"
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers[folder] = server
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers.values():
        server.shutdown()
        server.server_close()
