"""Exported web page in a real browser, compared with Python."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from linear_model import Linear
from PIL import Image

import cvae as package
from cvae import imaging
from cvae.errors import CvaeError
from cvae.exporters import web
from cvae.model_zoo import DEFAULT

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class Site(NamedTuple):
    """Exported page, and its model in Python."""

    folder: Path
    model: Any
    linear: Linear | None


@pytest.fixture(scope="module")
def sites(trained, tmp_path_factory) -> dict[str, Site]:
    """Export a page for each model, to a folder whose path contains a space."""
    folder = tmp_path_factory.mktemp("sites")
    linear = {name: Linear(folder / name, count) for name, count in {"colour": 0, "many": 70}.items()}
    sources = {**trained, "zoo": DEFAULT, **{name: model.folder for name, model in linear.items()}}
    pages = {}
    for name, source in sources.items():
        out = folder / "below a path" / name
        try:
            web.export(source, out=out)
        except CvaeError as error:
            if "could not be downloaded" not in str(error):
                raise
            pytest.skip(str(error))
        pages[name] = Site(out, package.load(source), linear.get(name))
    return pages


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is open, with its console messages and the addresses that it requested."""

    def __init__(self, chromium: Any, address: str, **options: Any) -> None:
        self.page = chromium.new_context(**options).new_page()
        self.address, self.messages, self.requests = address, [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body.ready", timeout=60_000)
        self.page.wait_for_selector("#pad", timeout=60_000)

    def check(self) -> None:
        """Check that the page reported no error and requested nothing outside its folder."""
        origin = self.address.partition("/below")[0]
        allowed = (self.address, f"blob:{origin}/", "data:")
        assert self.messages == []
        assert self.requests and [url for url in self.requests if not url.startswith(allowed)] == []


@pytest.fixture(scope="module")
def visits() -> dict[str, Visit]:
    """Return the pages that several tests share, since each page takes seconds to load."""
    return {}


@pytest.fixture
def visit(sites, serve, chromium, visits) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Return a function that opens a page by name and returns it with its model. A page with options is not shared."""
    visits_of_test = []

    def visit(name: str, **options: Any) -> tuple[Any, Any]:
        folder, model, _ = sites[name]
        if options or name not in visits:
            page_visit = Visit(chromium, f"{serve(folder.parents[1])}/below%20a%20path/{name}/", **options)
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
    """Return the state of the page, once its image is drawn."""
    page_state = page.evaluate(
        """async () => {
            const { state, waitForImage } = await import("./app.js");
            await waitForImage();
            return { ...state, code: [...state.code], image: [...state.image] };
        }"""
    )
    return {key: np.array(value, np.float32) if isinstance(value, list) else value for key, value in page_state.items()}


def show(page: Any, code: np.ndarray, label: int = 0, **overrides: Any) -> dict[str, Any]:
    page.evaluate(
        """async ([code, label, overrides]) => {
            const { show, draw, waitForImage, state } = await import("./app.js");
            show(Float32Array.from(code), label, "test");
            Object.assign(state, overrides);
            draw();
            await waitForImage();
        }""",
        [numbers(code), label, overrides],
    )
    return state(page)


def decode_state(model: Any, page_state: dict[str, Any]) -> np.ndarray:
    """Return the image that Python decodes for the state of a page."""
    label = None if model.spec.classes is None else page_state["label"]
    return model.decode(page_state["code"][None], label)[0]


@needs_browser
@pytest.mark.parametrize("name", ["labels", "plain", "zoo", "colour", "many"])
def test_images_and_codes_agree_with_python(visit, sites, name):
    page, model = visit(name)
    noise = model.noise(5, seed=3)
    classes = len(model.spec.classes or ())
    labels = [4 * i % classes for i in range(5)] if classes else []
    images = model.decode(noise, labels or None)
    actual = page.evaluate(
        """async ([noise, images, labels]) => {
            const { model } = await import("./app.js");
            const decoded = await model.decode(Float32Array.from(noise), labels);
            const { mean, std } = await model.encode(Float32Array.from(images), labels);
            return [[...decoded], [...mean], [...std]];
        }""",
        [numbers(noise), numbers(images), labels],
    )
    for values, expected in zip(actual, (images, *model.encode(images, labels or None)), strict=True):
        np.testing.assert_allclose(np.reshape(values, expected.shape), expected, atol=1e-4, rtol=1e-4)
    if linear := sites[name].linear:  # its images are known without onnxruntime
        truth = linear.decode(noise, labels or [0])
        np.testing.assert_allclose(np.reshape(actual[0], images.shape), truth, atol=1e-4)


@needs_browser
@pytest.mark.parametrize(("name", "label"), [("zoo", 7), ("colour", 0)])
def test_page_displays_the_pixels_of_the_image(visit, name, label):
    page, model = visit(name)
    page.get_by_label("Sharp pixels").check()
    page_state = show(page, model.noise(1, seed=5)[0], label)
    np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    channels, height, width = model.spec.image_shape
    with Image.open(io.BytesIO(page.locator("#picture").screenshot())) as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    rows = ((np.arange(height) + 0.5) * pixels.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * pixels.shape[1] / width).astype(int)
    expected = imaging.to_uint8(decode_state(model, page_state)).transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    inner = (slice(1, -1), slice(1, -1))  # the page rounds the corners
    assert np.abs(pixels[rows][:, columns][inner] - expected[inner]).max() <= 2
    assert expected.std() > 20 and channels in (1, 3)


@needs_browser
def test_image_interpolated_between_two_classes_agrees_with_python(visit):
    page, model = visit("zoo")
    code = model.noise(1, seed=5)[0]
    page_state = show(page, code, 3, next=8, mix=0.25)
    expected = model.interpolate(code, code, 5, label=(3, 8))[1]
    np.testing.assert_allclose(page_state["image"], expected.ravel(), atol=1e-4)


@needs_browser
def test_page_can_be_used_with_the_keyboard(visit):
    page, model = visit("zoo", viewport={"width": 1000, "height": 700})
    before = state(page)
    focus_order = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
                const at = document.activeElement;
                return [at.id || at.name || "", getComputedStyle(at.closest(".choice, .button") ?? at).outlineStyle];
            }"""
        )
        focus_order.append(name)
        assert outline == "solid" or name == "", name
        if focus_order[-1] == "surprise":
            page.keyboard.press("Enter")
            surprised = state(page)
            assert not np.allclose(surprised["code"], before["code"]) and surprised["origin"].startswith("seed ")
        elif focus_order[-1] == "class":
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
            page_state = state(page)
            assert page_state["label"] == 2
            np.testing.assert_array_equal(page_state["code"], surprised["code"])  # the style does not change
            np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
            assert page.inner_text("#class-name") == "2"
        elif focus_order[-1] == "pad":
            page.keyboard.press("Space")
            for key in ["ArrowDown"] * 6 + ["ArrowUp"] * 12:
                page.keyboard.press(key)
            expect_text(page, "#origin", "your drawing")
            assert page.inner_text("#class-name") == "1" == page.inner_text("#status")[-1]
            pad, pen = (page.locator(name).bounding_box() for name in ("#pad", "#pen-at"))
            centre = [(pen[at] + pen[size] / 2 - pad[at]) / pad[size] for at, size in (("x", "width"), ("y", "height"))]
            assert np.abs(np.subtract(centre, [0.5, 0.5 - 6 / 28])).max() < 0.02  # 6 pixels above the middle
            assert page.locator("#pen-at.down").count() == 1
            for key in ("Tab", "Tab", "Enter", "Shift+Tab", "Shift+Tab"):  # move the focus to the Clear button and back
                page.keyboard.press(key)
            assert page.evaluate("document.activeElement.id") == "pad"
            pen = page.locator("#pen-at").bounding_box()
            assert abs(pen["y"] + pen["height"] / 2 - pad["y"] - pad["height"] / 2) < 0.02 * pad["height"]
            assert page.locator("#pen-at.down").count() == 0
            break
    assert [name for name in focus_order if name][:5] == ["surprise", "play", "download", "tour", "sharp"]
    assert {"class", "more", "centre", "variety", "pad"} <= set(focus_order)


@needs_browser
def test_sliders_change_one_dimension_and_are_sorted_by_effect(visit):
    page, model = visit("colour")
    names = page.locator(".slider:visible span").all_inner_texts()
    assert names == ["z1", "z3", "z4", "z2", "z0"] and not page.locator("#classes").is_visible()
    before = state(page)
    page.get_by_label("Dimension 3").focus()
    page.keyboard.press("End")
    after = state(page)
    assert np.flatnonzero(after["code"] != before["code"]).tolist() == [3] and after["code"][3] == 3
    assert page.locator(".slider").nth(1).locator("output").inner_text() == "+3.00"
    np.testing.assert_allclose(after["image"], decode_state(model, after).ravel(), atol=1e-4)
    page.get_by_role("button", name="Reset").click()
    assert not state(page)["code"].any()


@needs_browser
def test_many_classes_are_shown_as_a_list(visit):
    page, model = visit("many")
    page.get_by_label("Class", exact=True).select_option("class 69")
    page_state = state(page)
    assert page_state["label"] == 69 and page.inner_text("#class-name") == "class 69"
    np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    page.get_by_text("About this model").click()
    assert page.locator("#facts").inner_text().count("<b>at all</b>") == 1  # text, not markup


@needs_browser
def test_all_thumbnails_share_one_style(visit):
    page, model = visit("zoo")
    code = model.noise(1, seed=5)[0]
    show(page, code, 3)
    expected = imaging.to_uint8(model.decode(np.tile(code, (10, 1)), range(10)))[:, 0]

    def check() -> None:
        actual = page.evaluate(
            """[...document.querySelectorAll(".choice canvas")].map((canvas) => {
                // Chromium warns about repeated reads of one canvas, so the test reads a copy.
                const copy = new OffscreenCanvas(28, 28).getContext("2d");
                copy.drawImage(canvas, 0, 0);
                return [...copy.getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0);
            })"""
        )
        assert np.abs(np.reshape(actual, (10, 28, 28)) - expected.astype(int)).max() <= 1

    eventually(page, check)


def pad_pixels(page: Any) -> np.ndarray:
    """Return the pixels of the drawing pad, (H, W) in 0..1."""
    height, width, data = page.evaluate(
        """() => {
            const { height, width } = document.querySelector("#pad");
            const { data } = document.querySelector("#pad").getContext("2d").getImageData(0, 0, width, height);
            return [height, width, [...data].filter((_, i) => i % 4 === 0)];
        }"""
    )
    return np.reshape(data, (height, width)) / 255


@needs_browser
def test_drawing_is_encoded_reconstructed_and_restyled(visit):
    """The test repeats in Python what the page does: average the drawing over squares, centre it and encode it."""
    page, model = visit("zoo")
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    stroke = [(0.25, 0.1), (0.65, 0.1), (0.5, 0.35), (0.42, 0.65)]  # a seven, too high and too far to the left
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()
    expect_text(page, "#status", re.compile("^Redrawn"))
    pixels = pad_pixels(page)
    side = pixels.shape[0] // 28
    image = pixels.reshape(28, side, 28, side).mean(axis=(1, 3))
    y, x = ((np.indices((28, 28)) * image).sum(axis=(1, 2)) / image.sum() - 13.5).round().astype(int)
    assert y < -2 and x < 0
    image = np.roll(image, (-y, -x), (0, 1)).astype(np.float32)[None, None]
    code = model.encode(image, 7)[0][0]

    def check() -> None:
        page_state = state(page)
        assert (page_state["label"], page_state["origin"]) == (7, "your drawing")
        np.testing.assert_allclose(page_state["code"], code, atol=1e-3)

    eventually(page, check)
    page.get_by_role("radio", name="4").check()
    np.testing.assert_allclose(state(page)["image"], model.restyle(image, 7, 4).ravel(), atol=2e-3)
    page.get_by_label("Redraw as").select_option("1")
    expect_text(page, "#class-name", "1")
    page.get_by_role("button", name="Clear").click()
    assert pad_pixels(page).max() == 0


@needs_browser
@pytest.mark.parametrize("name", ["zoo", "colour"])
def test_image_file_can_be_opened(visit, tmp_path, name):
    page, model = visit(name)
    label = 7 if model.spec.classes else None
    image = model.generate(1, label, seed=2)
    imaging.to_pil(image[0]).save(tmp_path / "own.png")
    page.locator("#open").set_input_files(tmp_path / "own.png")
    expect_text(page, "#origin", "your image")
    page_state = state(page)
    assert page_state["label"] == (label or 0)
    rounded = imaging.read(tmp_path / "own.png", model.spec.image_shape)[None]
    np.testing.assert_allclose(page_state["code"], model.encode(rounded, label)[0][0], atol=2e-3, rtol=1e-3)
    (tmp_path / "text.png").write_text("this is not an image")
    page.locator("#open").set_input_files(tmp_path / "text.png")
    expect_text(page, "#status", re.compile("^text.png is not an image"))


@needs_browser
def test_image_can_be_downloaded(visit, tmp_path):
    page, model = visit("labels")
    page.get_by_label("Sharp pixels").check()
    page_state = show(page, model.noise(1, seed=1)[0], 7)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "labels-7.png"
    download.value.save_as(tmp_path / "seven.png")
    with Image.open(tmp_path / "seven.png") as image:
        assert image.size == (560, 560)
        pixels = np.asarray(image.convert("L"))[35::70, 35::70].astype(int)
    assert np.abs(pixels - imaging.to_uint8(decode_state(model, page_state))[0]).max() <= 1


@needs_browser
@pytest.mark.parametrize(
    ("tour", "motion", "minimum", "maximum"), [("codes", "reduce", 1, 3), ("classes", "no-preference", 5, 400)]
)
def test_animation_plays_and_pauses(visit, tour, motion, minimum, maximum):
    page, _ = visit("labels", **({"reduced_motion": motion} if motion == "reduce" else {}))
    page.locator("#tour").select_option(tour)
    before = state(page)
    page.evaluate(
        """() => {
            window.paints = 0;
            const paint = CanvasRenderingContext2D.prototype.drawImage;
            CanvasRenderingContext2D.prototype.drawImage = function (...args) { paints++; paint.apply(this, args); };
        }"""
    )
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(1200)
    page.get_by_role("button", name="Pause").click()
    assert minimum <= page.evaluate("paints") <= maximum
    page.wait_for_timeout(100)
    now = state(page)
    assert np.allclose(now["code"], before["code"]) == (tour == "classes") and now["mix"] == 0
    assert (now["label"] == before["label"]) or tour == "classes"
    assert page.get_by_role("button", name="Play").get_attribute("aria-pressed") == "false"


SCREENS = {
    "desktop": {},  # 1280 x 720
    "dark": {"viewport": {"width": 1000, "height": 700}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True,
    },
}  # fmt: skip


@needs_browser
@pytest.mark.parametrize("screen", SCREENS)
def test_page_fits_the_screen(visit, tmp_path, screen):
    page, _ = visit("zoo", **SCREENS[screen])
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.screenshot(path=tmp_path / f"{screen}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for control in page.locator("button:visible, select:visible, .button:visible, .choice:visible").all():
        assert control.bounding_box()["height"] >= 38, control
    with Image.open(tmp_path / f"{screen}.png") as image:
        corner = image.convert("L").getpixel((2, 2))
    assert corner < 40 if screen == "dark" else corner > 220
    page.locator(".slider:visible").last.scroll_into_view_if_needed()
    box = page.locator("#picture").bounding_box()
    assert 0 <= box["y"] < page.viewport_size["height"] - 200  # the image stays visible beside its sliders
    if screen == "phone":
        page.locator("#pad").scroll_into_view_if_needed()
        pad = page.locator("#pad").bounding_box()
        page.touchscreen.tap(pad["x"] + pad["width"] / 2, pad["y"] + pad["height"] - 30)
        expect_text(page, "#origin", "your drawing")


@needs_browser
def test_page_reports_missing_file(sites, serve, chromium, tmp_path):
    shutil.copytree(sites["labels"].folder, tmp_path / "site")
    (tmp_path / "site" / "decoder.onnx").unlink()
    page = chromium.new_page()
    page.goto(serve(tmp_path / "site"))
    page.wait_for_selector("[role=alert]")
    assert "decoder.onnx could not be read (404" in page.inner_text("#status")
    page.close()


@needs_browser
def test_documented_commands_serve_a_page_that_generates_a_seven(chromium, tmp_path):
    """The commands run as documented, except for the port, which the system chooses."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"## In a browser.*?```bash\n(.*?)```", text, flags=re.DOTALL)
    first, server = block.splitlines()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    result = subprocess.run(first, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if "could not be downloaded" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    command = [sys.executable, *server.split()[1:], "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            address = re.search(r"http://\S+/", serving.stdout.readline())
            assert address is not None and server.startswith("python -m http.server ")
            page = chromium.new_page()
            page.goto(address[0])
            page.get_by_role("radio", name="7").check(timeout=60_000)
            page_state = state(page)
            page.close()
        finally:
            serving.terminate()
    np.testing.assert_allclose(page_state["image"], decode_state(package.load(), page_state).ravel(), atol=1e-4)
    assert page_state["label"] == 7


@needs_browser
def test_documented_program_runs_in_a_custom_page(sites, serve, chromium, tmp_path):
    text = (ROOT / "docs" / "deploy.md").read_text()
    (program,) = re.findall(r"## In a browser.*?```js\n(.*?)```", text, flags=re.DOTALL)
    site, model, _ = sites["zoo"]
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "own.js").write_text(program + "\nexport { image, model, normal };")
    (tmp_path / "site" / "own.html").write_text("<!doctype html><title>own</title>")
    page = chromium.new_page()
    page.goto(serve(tmp_path / "site") + "/own.html")
    image, noise = page.evaluate(
        """async () => {
            const { image, model, normal } = await import("./own.js");
            return [[...image], [...normal(7, model.spec.latent_dim)]];
        }"""
    )
    page.close()
    expected = model.decode(np.array(noise, np.float32)[None], 7)
    np.testing.assert_allclose(np.reshape(image, expected.shape), expected, atol=1e-4)
