"""Fixtures for the tests of the exporters."""

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from linear_model import Linear
from web_visit import CHROMIUM, LONG_NAMES, Site, Visit

import cvae
from cvae.errors import CvaeError
from cvae.exporters import web
from cvae.model_zoo import DEFAULT


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


@pytest.fixture(scope="session")
def site(trained, tmp_path_factory) -> Callable[[str], Site]:
    """Return a function that exports the page of a model to a folder whose path contains a space.

    Each page is exported only once.
    """
    folder = tmp_path_factory.mktemp("sites")
    sources = {**trained, "zoo": DEFAULT}
    classes = {"colour": 0, "many": 70, "long names": LONG_NAMES}

    @cache
    def export(name: str) -> Site:
        linear = Linear(folder / name, classes[name]) if name in classes else None
        source = linear.folder if linear else sources[name]
        out = folder / "below a path" / name.replace(" ", "-")
        try:
            web.export(source, out=out)
        except CvaeError as error:
            if "could not be downloaded" not in str(error):
                raise
            pytest.skip(str(error))
        return Site(out, cvae.load(source), linear)

    return export


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visits() -> dict[str, Visit]:
    """Return a dictionary for the pages that several tests share, because each page takes seconds to load."""
    return {}


@pytest.fixture
def visit(site, serve, chromium, visits) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Return a function that opens a page by name and returns it with its model. A page with options is not shared."""
    visits_of_test = []

    def visit(name: str, **options: Any) -> tuple[Any, Any]:
        folder, model, _ = site(name)
        if options or name not in visits:
            page_visit = Visit(chromium, f"{serve(folder.parents[1])}/below%20a%20path/{folder.name}/", **options)
            if not options:
                visits[name] = page_visit
        else:
            page_visit = visits[name]
            page_visit.page.locator("#drawn-as").evaluate("(select) => { select.value = ''; }")
            page_visit.page.locator("#clear").click()
        visits_of_test.append((page_visit, bool(options)))
        return page_visit.page, model

    yield visit
    for page_visit, is_private in visits_of_test:
        page_visit.check()
        if is_private:
            page_visit.page.context.close()
