"""Visit to an exported page in a real browser."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from linear_model import Linear

LONG_NAMES = (
    "convertible", "hatchback", "station_wagon_with_a_roof_box", "sport utility vehicle", "Schwerlastkraftwagen", "bus",
    "électrique", "pick-up",
)  # fmt: skip
"""Class names on the page "long names"."""


class Site(NamedTuple):
    """Exported page, and its model in Python."""

    folder: Path
    model: Any
    linear: Linear | None


class Visit:
    """An open page, its console messages, and the addresses that it has requested.

    Args:
        chromium: browser.
        address: address of the page.
        script: program to run before those of the page.
        files: other contents of some files of the page.
        options: options of the browser context.
    """

    def __init__(
        self, chromium: Any, address: str, script: str = "", files: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self.page = chromium.new_context(**options).new_page()
        self.page.add_init_script(script)
        for name, text in (files or {}).items():
            self.page.route(f"**/{name}", partial(_fulfill, text))
        self.address, self.messages, self.requests = address, [], []
        self.page.on("console", lambda message: self._add_message(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body.ready", timeout=60_000)
        self.page.wait_for_selector("#pad", timeout=60_000)

    def _add_message(self, text: str) -> None:
        if text != "No available adapters.":  # Chromium prints that if a page asks for WebGPU in vain
            self.messages.append(text)

    def check(self) -> None:
        """Check that the page reported no error and requested nothing outside its folder."""
        origin = self.address.partition("/below")[0]
        allowed = (self.address.partition("?")[0], f"blob:{origin}/", "data:")
        assert self.messages == []
        assert self.requests and [url for url in self.requests if not url.startswith(allowed)] == []
        assert "?" in self.address or not self.requests_webgpu  # no WebGPU unless the address chooses it

    @property
    def requests_webgpu(self) -> bool:
        """Whether the page has requested a file for WebGPU."""
        return any("ort.webgpu" in url for url in self.requests)


def _fulfill(text: str, route: Any) -> None:
    route.fulfill(body=text, content_type="text/javascript")


def expect_text(page: Any, selector: str, text: str | re.Pattern[str]) -> None:
    """Wait until an element has this text."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text)


def eventually(page: Any, check: Callable[[], None]) -> None:
    """Wait until a check passes; raise its error if it still fails after ten seconds."""
    for _ in range(200):
        with suppress(AssertionError):
            return check()
        page.wait_for_timeout(50)
    return check()


def numbers(array: np.ndarray) -> list[float]:
    return array.ravel().tolist()


def state(page: Any) -> dict[str, Any]:
    """Wait until the image is drawn, and return the state of the page."""
    page_state = page.evaluate(
        """async () => {
            const { state, waitForImage } = await import("./app.js");
            await waitForImage();
            return { ...state, code: [...state.code], image: [...state.image] };
        }"""
    )
    return {key: np.array(value, np.float32) if isinstance(value, list) else value for key, value in page_state.items()}


def show(page: Any, code: np.ndarray, conditions: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    page.evaluate(
        """async ([code, conditions, overrides]) => {
            const { show, draw, waitForImage, state } = await import("./app.js");
            show(Float32Array.from(code), { ...state.conditions, ...conditions }, "test");
            Object.assign(state, overrides);
            draw();
            await waitForImage();
        }""",
        [numbers(code), conditions, overrides],
    )
    return state(page)


def decode_state(model: Any, page_state: dict[str, Any]) -> np.ndarray:
    """Return the image that Python decodes for the state of a page."""
    return model.decode(page_state["code"][None], **page_state["conditions"])[0]
