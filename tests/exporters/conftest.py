"""Fixtures for the tests of the exporters."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from linear_model import Linear
from web_visit import LONG_NAMES, Site, Visit

import cvae
from cvae.errors import CvaeError
from cvae.exporters import web
from cvae.model_zoo import DEFAULT


@pytest.fixture(scope="session")
def site(trained, conditional, tmp_path_factory) -> Callable[[str], Site]:
    """Return a function that exports the page of a model to a folder whose path contains a space.

    Each page is exported only once.
    """
    folder = tmp_path_factory.mktemp("sites")
    sources = {**trained, "zoo": DEFAULT, "conditional": conditional}
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
