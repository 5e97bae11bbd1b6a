"""WebGPU in the exported page, on a GPU that Chromium imitates. It is far slower than a real one."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import CHROMIUM
from web_visit import Visit, decode_state, expect_text, numbers, show

REAL_GPU = "Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { value: false });"
"""Script that hides from the page that the GPU is imitated."""

NO_GPU = "Object.defineProperty(navigator, 'gpu', { value: undefined });"
"""Script that hides the GPU from the page."""

SLOW = "({ decode: (...inputs) => new Promise((r) => setTimeout(r, 1500)).then(() => model.decode(...inputs)) })"
"""Decoder on WebAssembly that is slower than the imitated GPU."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium with WebGPU. Skip the test if it offers no adapter."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(site, serve, browser) -> Iterator[Callable[..., tuple[Visit, Any]]]:
    """Return a function that opens a page, waits until it has chosen a runtime, and returns the visit and the model.

    Its argument `script` runs before those of the page, and `changes` replaces text in `runtime.js` or `model.json`.
    """
    visits = []

    def open_site(name: str, query: str = "", script: str = "", changes: dict[str, str] | None = None) -> Any:
        folder, model, _ = site(name)
        address = f"{serve(folder.parents[1])}/below%20a%20path/{folder.name}/{query}"
        probe = browser.new_page()
        probe.goto(f"{address.partition('?')[0]}model.json")
        if not probe.evaluate("navigator.gpu?.requestAdapter().then((adapter) => adapter !== null) ?? false"):
            pytest.skip("this build of Chromium offers no WebGPU adapter")
        probe.close()
        files = {name: (folder / name).read_text() for name in ("runtime.js", "model.json")}
        for old, new in (changes or {}).items():
            assert sum(text.count(old) for text in files.values()) == 1
            files = {name: text.replace(old, new) for name, text in files.items()}
        visit = Visit(browser, address, script=script, files=files)
        visits.append(visit)
        visit.page.evaluate("import('./app.js')")  # waits for the choice
        return visit, model

    yield open_site
    for visit in visits:
        visit.page.context.close()


@pytest.mark.parametrize("name", ["colour", "conditional", pytest.param("zoo", marks=pytest.mark.slow)])
def test_images_on_webgpu_agree_with_python(open_page, name):
    visit, model = open_page(name, "?runtime=webgpu")
    expect_text(visit.page, "#speed", re.compile(r"^Decoding takes [\d.]+ ms per image with WebAssembly\.$"))
    expect_text(visit.page, "#comparison", re.compile(r"^\(WebAssembly: [\d.]+ ms; WebGPU: [\d.]+ ms\)$"))
    page_state = show(visit.page, model.noise(1, seed=3)[0], {})
    expect_text(visit.page, "#speed", re.compile(r"with WebGPU\.$"))
    np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    noise = model.noise(6, seed=4)
    images = visit.page.evaluate(
        """async ([noise, conditions]) => {
            const { decoder } = await import("./app.js");
            const batches = [[0, 1], [1, 3], [3, 6]].map(([first, last]) => noise.slice(first, last).flat());
            const decode = (codes) => decoder.decode(Float32Array.from(codes), conditions);
            const images = await Promise.all(batches.map(decode)); // at the same time
            return images.flatMap((image) => [...image]);
        }""",
        [[numbers(code) for code in noise], page_state["conditions"]],
    )
    expected = np.concatenate([model.decode(code[None], **page_state["conditions"]) for code in noise])
    np.testing.assert_allclose(np.reshape(images, expected.shape), expected, atol=1e-4)
    visit.check()
    assert visit.requests_webgpu


@pytest.mark.parametrize(
    "script",
    [pytest.param(REAL_GPU, id="fast model"), pytest.param("", id="imitated GPU"), pytest.param(NO_GPU, id="no GPU")],
)
def test_page_downloads_webgpu_only_if_it_could_be_faster(open_page, script):
    changes = {} if script == REAL_GPU else {"FRAME = 1000 / 60": "FRAME = 0"}
    visit, _ = open_page("colour", "", script, changes)
    visit.check()
    assert not visit.requests_webgpu and visit.page.locator("#comparison").text_content() == ""


@pytest.mark.parametrize(("own", "fastest"), [("model", "WebAssembly"), (SLOW, "WebGPU")])
def test_page_chooses_the_faster_runtime(open_page, own, fastest):
    changes = {"FRAME = 1000 / 60": "FRAME = 0", "measure(model)": f"measure({own})"}
    visit, model = open_page("colour", "", REAL_GPU, changes)
    expect_text(visit.page, "#comparison", re.compile(r"^\(WebAssembly: [\d.]+ ms; WebGPU: [\d.]+ ms\)$"))
    page_state = show(visit.page, model.noise(1, seed=3)[0], {})
    np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    expect_text(visit.page, "#speed", re.compile(rf"with {fastest}\.$"))
    assert visit.messages == [] and visit.requests_webgpu


@pytest.mark.parametrize(
    ("script", "changes", "reason"),
    [
        (NO_GPU, {}, "this browser does not offer it with JSPI"),
        ("delete WebAssembly.Suspending;", {}, "this browser does not offer it with JSPI"),
        ("", {'"webgpu": true': '"webgpu": false'}, "the page was exported without it"),
        ("", {"0.5 / 255": "-1"}, "its images differ"),
    ],
)
def test_page_says_why_the_requested_webgpu_is_not_used(open_page, script, changes, reason):
    visit, model = open_page("colour", "?runtime=webgpu", script, changes)
    expect_text(visit.page, "#alert p", f"Images are decoded with WebAssembly, because WebGPU failed: {reason}")
    page_state = show(visit.page, model.noise(1, seed=3)[0], {})
    np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    expect_text(visit.page, "#speed", re.compile(r"with WebAssembly\.$"))
    assert visit.messages == []


def test_address_can_choose_webassembly(open_page):
    visit, _ = open_page("colour", "?runtime=wasm", REAL_GPU, {"FRAME = 1000 / 60": "FRAME = 0"})
    assert visit.messages == [] and not visit.requests_webgpu


def test_page_returns_to_webassembly_if_the_gpu_is_reset(open_page):
    visit, model = open_page("colour", "?runtime=webgpu")
    assert show(visit.page, model.noise(1, seed=1)[0], {})["image"].size
    expect_text(visit.page, "#speed", re.compile(r"with WebGPU\.$"))
    visit.page.evaluate(
        """async () => {
            const device = await (await import("./ort.webgpu.js")).env.webgpu.device;
            device.destroy();
            await device.lost;
        }"""
    )
    for seed in (2, 3):
        page_state = show(visit.page, model.noise(1, seed=seed)[0], {})
        np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    expect_text(visit.page, "#speed", re.compile(r"with WebAssembly\.$"))
