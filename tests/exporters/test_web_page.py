"""Images of the exported web page in a real browser, compared with Python."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs_browser
from PIL import Image
from web_visit import decode_state, eventually, expect_text, numbers, show, state

import cvae
from cvae import imaging

ROOT = Path(__file__).resolve().parents[2]


@needs_browser
@pytest.mark.parametrize("name", ["labels", "plain", "zoo", "colour", "many"])
def test_images_and_codes_agree_with_python(visit, site, name):
    page, model = visit(name)
    noise = model.noise(5, seed=3)
    classes = model.spec.classes or ()
    labels = [classes[4 * i % len(classes)] for i in range(5)] if classes else []
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
    if linear := site(name).linear:  # for this model, NumPy computes the images without onnxruntime
        truth = linear.decode(noise, [classes.index(label) for label in labels] or [0])
        np.testing.assert_allclose(np.reshape(actual[0], images.shape), truth, atol=1e-4)


@needs_browser
@pytest.mark.parametrize(("name", "conditions"), [("zoo", {"label": "7"}), ("colour", {})])
def test_page_displays_the_pixels_of_the_image(visit, name, conditions):
    page, model = visit(name)
    page.get_by_label("Sharp pixels").check()
    page_state = show(page, model.noise(1, seed=5)[0], conditions)
    np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    channels, height, width = model.spec.image_shape
    with Image.open(io.BytesIO(page.locator("#image").screenshot())) as file:
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
    page_state = show(page, code, {"label": "3"}, next={"label": "8"}, mix=0.25)
    expected = model.interpolate(code, code, 5, label=(3, 8))[1]
    np.testing.assert_allclose(page_state["image"], expected.ravel(), atol=1e-4)


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
    """The test does in Python what the page does: average the drawing over squares, centre the result and encode it."""
    page, model = visit("zoo")
    pad, hint = page.locator("#pad"), page.get_by_text("Draw here")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert hint.is_visible()
    stroke = [(0.25, 0.1), (0.65, 0.1), (0.5, 0.35), (0.42, 0.65)]  # a seven, too high and too far to the left
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
    page.mouse.move(*places[0])
    page.mouse.down()
    assert not hint.is_visible()  # the hint disappears with the first stroke
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
        assert (page_state["conditions"], page_state["origin"]) == ({"label": "7"}, "your drawing")
        np.testing.assert_allclose(page_state["code"], code, atol=1e-3)

    eventually(page, check)
    page.get_by_role("radio", name="4").check()
    np.testing.assert_allclose(state(page)["image"], model.restyle(image, 7, 4).ravel(), atol=2e-3)
    page.get_by_label("Redraw as").select_option("1")
    expect_text(page, "#class-name", "1")
    page.get_by_role("button", name="Clear").click()
    assert pad_pixels(page).max() == 0 and hint.is_visible()


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
    assert page_state["conditions"] == ({"label": "7"} if label else {})
    rounded = imaging.read(tmp_path / "own.png", model.spec.image_shape)[None]
    np.testing.assert_allclose(page_state["code"], model.encode(rounded, label)[0][0], atol=2e-3, rtol=1e-3)


@needs_browser
def test_image_can_be_downloaded(visit, tmp_path):
    page, model = visit("labels")
    page.get_by_label("Sharp pixels").check()
    page_state = show(page, model.noise(1, seed=1)[0], {"label": "7"})
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "labels-7.png"
    download.value.save_as(tmp_path / "seven.png")
    with Image.open(tmp_path / "seven.png") as image:
        assert image.size == (560, 560)
        pixels = np.asarray(image.convert("L"))[35::70, 35::70].astype(int)
    assert np.abs(pixels - imaging.to_uint8(decode_state(model, page_state))[0]).max() <= 1


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    ("tour", "motion", "minimum", "maximum"), [("codes", "reduce", 1, 3), ("label", "no-preference", 5, 400)]
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
    assert np.allclose(now["code"], before["code"]) == (tour == "label") and now["mix"] == 0
    assert (now["conditions"] == before["conditions"]) or tour == "label"
    assert page.get_by_role("button", name="Play").get_attribute("aria-pressed") == "false"


SCREENS = {
    "desktop": {},  # 1280 x 720
    "dark": {"viewport": {"width": 1000, "height": 700}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True,
    },
}  # fmt: skip


@pytest.mark.slow
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
    box = page.locator("#image").bounding_box()
    assert 0 <= box["y"] < page.viewport_size["height"] - 200  # the image stays visible beside its sliders
    if screen == "phone":
        page.locator("#pad").scroll_into_view_if_needed()
        pad = page.locator("#pad").bounding_box()
        page.touchscreen.tap(pad["x"] + pad["width"] / 2, pad["y"] + pad["height"] - 30)
        expect_text(page, "#origin", "your drawing")


@pytest.mark.slow
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
    np.testing.assert_allclose(page_state["image"], decode_state(cvae.load(), page_state).ravel(), atol=1e-4)
    assert page_state["conditions"] == {"label": "7"}


@needs_browser
def test_documented_program_runs_in_a_custom_page(site, serve, chromium, tmp_path):
    text = (ROOT / "docs" / "deploy.md").read_text()
    (program,) = re.findall(r"## In a browser.*?```js\n(.*?)```", text, flags=re.DOTALL)
    folder, model, _ = site("zoo")
    shutil.copytree(folder, tmp_path / "site")
    (tmp_path / "site" / "own.js").write_text(program + "\nexport { image, model, normal };")
    (tmp_path / "site" / "own.html").write_text("<!doctype html><title>own</title><body>")
    page = chromium.new_page()
    page.goto(serve(tmp_path / "site") + "/own.html")
    image, noise = page.evaluate(
        """async () => {
            const { image, model, normal } = await import("./own.js");
            return [[...image], [...normal(7, model.spec.latent_dim)]];
        }"""
    )
    pixels = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas");
            return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        }"""
    )
    page.close()
    np.testing.assert_array_equal(np.reshape(pixels, (28, 28, 4))[:, :, 0].ravel(), np.rint(255 * np.array(image)))
    expected = model.decode(np.array(noise, np.float32)[None], 7)
    np.testing.assert_allclose(np.reshape(image, expected.shape), expected, atol=1e-4)
