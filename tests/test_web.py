"""The exported page: what is in its folder, and what it does in a real browser, against Python's images."""

import gzip
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import cvae as package
from cvae import imaging
from cvae.errors import CvaeError, UsageError
from cvae.exporters import onnxruntime_web, web
from cvae.model_zoo import DEFAULT
from cvae.spec import KEY, Spec

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


# -- models whose images can be computed by hand -----------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Linear:
    """image = sigmoid(noise W + class), in colour, wider than high: a decoder and its encoder as ONNX files."""

    shape, latent_dim = (3, 6, 10), 5

    def __init__(self, folder: Path, classes: int = 0) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.classes = folder, classes
        self.weight = rng.normal(size=(self.latent_dim, 180)).astype(np.float32)
        self.weight *= np.array([[0.1], [3], [0.5], [2], [1]], np.float32)
        self.offset = rng.normal(size=(max(classes, 1), 180)).astype(np.float32)
        folder.mkdir()
        for role in ("decoder", "encoder"):
            (folder / f"{role}.onnx").write_bytes(self.graph(role))

    def decode(self, noise: np.ndarray, labels: list[int]) -> np.ndarray:
        return sigmoid(noise @ self.weight + self.offset[labels]).reshape(-1, *self.shape)

    def graph(self, role: str, weights: str = "w") -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        def tensor(name: str, shape: tuple[int, ...], kind: int = TensorProto.FLOAT) -> Any:
            return helper.make_tensor_value_info(name, kind, ["batch", *shape])

        constants = {"w": self.weight, "o": self.offset, "shape": np.array([-1, *self.shape])}
        constants |= {
            "v": np.ascontiguousarray(self.weight.T),
            "first": np.array([0]),
            "row": np.array([-1, self.weight.shape[1]]),
        }
        noise, image = tensor("noise", (self.latent_dim,)), tensor("image", self.shape)
        label = [tensor("label", (), TensorProto.INT64)] if self.classes else []
        if role == "decoder":
            inputs, outputs = [noise, *label], [image]
            nodes = [
                helper.make_node("MatMul", ["noise", "w"], ["product"]),
                helper.make_node("Gather", ["o", "label" if self.classes else "first"], ["class"]),
                helper.make_node("Add", ["product", "class"], ["logits"]),
                helper.make_node("Sigmoid", ["logits"], ["flat"]),
                helper.make_node("Reshape", ["flat", "shape"], ["image"]),
            ]
        else:
            inputs, outputs = [image, *label], [tensor("mean", (self.latent_dim,)), tensor("std", (self.latent_dim,))]
            nodes = [
                helper.make_node("Reshape", ["image", "row"], ["flat"]),
                helper.make_node("MatMul", ["flat", "v"], ["mean"]),
                helper.make_node("Sigmoid", ["mean"], ["share"]),  # may be 0, which a standard deviation must not be
                helper.make_node("Sigmoid", ["share"], ["std"]),
            ]
        used = {name for node in nodes for name in node.input}
        initial = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
        model = helper.make_model(
            helper.make_graph(nodes, role, inputs, outputs, initial), opset_imports=[helper.make_opsetid("", 20)]
        )
        model.ir_version = 10
        spec = Spec(
            role=role, name=f"linear {self.classes}", architecture="linear", image_shape=self.shape,
            latent_dim=self.latent_dim, classes=tuple(f"kind {i}" for i in range(self.classes)) or None,
            likelihood="bernoulli", prior="normal", data="none", data_terms="none <b>at all</b>", weights=weights,
        )  # fmt: skip
        helper.set_model_props(model, {KEY: spec.to_json()})
        return model.SerializeToString()


@pytest.fixture
def linear(tmp_path: Path) -> Linear:
    return Linear(tmp_path / "linear")


# -- the folder --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the files of onnxruntime-web, so that nothing is fetched."""
    monkeypatch.setattr(onnxruntime_web, "files", lambda: {"ort.js": b"js", "ort.wasm.gz": b"wasm"})


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize("encoder", [True, False])
def test_the_folder_holds_the_page_the_runtime_and_the_model(linear, tmp_path, encoder):
    if not encoder:
        (linear.folder / "encoder.onnx").unlink()
    written = web.export(linear.folder, out=tmp_path / "site")
    page = {path.name for path in (ROOT / "exporters" / "page").iterdir()}
    own = {"decoder.onnx", "model.json", "ort.js", "ort.wasm.gz", *["encoder.onnx"] * encoder}
    assert {path.name for path in written} == {path.name for path in (tmp_path / "site").iterdir()} == page | own
    assert (tmp_path / "site" / "decoder.onnx").read_bytes() == (linear.folder / "decoder.onnx").read_bytes()
    manifest = json.loads((tmp_path / "site" / "model.json").read_text())
    assert manifest == {"encoder": encoder, "dimensions": [1, 3, 4, 2, 0]}  # by the size of their weights


@pytest.mark.usefixtures("no_runtime")
def test_another_model_s_encoder_is_refused(linear, tmp_path):
    (linear.folder / "encoder.onnx").write_bytes(linear.graph("encoder", weights="other"))
    with pytest.raises(UsageError, match=r"other weights .* cvae export onnx"):
        web.export(linear.folder, out=tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.usefixtures("no_runtime")
def test_the_command_says_how_to_see_it_and_refuses_in_one_line(cvae, trained):
    done = cvae("export", "web", trained["plain"], "--json")
    assert done.err == "to see it: python -m http.server --directory web\n"
    assert "web/index.html" in done.facts["files"] and Path("web/index.html").is_file()
    done = cvae("export", "web", "--out", "zoo")
    assert done.code == 0 and done.err.startswith(f"zoo model: {DEFAULT}\n")
    shutil.copytree(trained["plain"], "runs/raw", ignore=shutil.ignore_patterns("*.onnx"))
    for arguments, code, words in (
        (["web", trained["plain"]], 2, ["'web'", "--out"]),  # it is there
        (["web", "--out", "new"], 1, ["cvae export onnx runs/raw"]),
        (["web", "--out", "new", "--license", "MIT"], 2, ["exporter 'web'", "'license'"]),
        (["onnx", "runs/raw", "--out", "new"], 2, ["exporter 'onnx'", "'out'"]),
        (["web", "nothing", "--out", "new"], 2, ["'nothing'"]),
    ):
        done = cvae("export", *arguments)
        assert done.code == code and done.out == "" and all(word in done.err for word in words), done.err
        assert done.err.splitlines()[-1].startswith("cvae: error: ") and not Path("new").exists()


# -- where onnxruntime-web comes from ----------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder as `python -m http.server` does; the address, without a slash at the end."""
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


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """A small package in place of the real one, of which nobody has it yet: no npm, no registry, no CDN."""
    contents = {name: f"{name} as published".encode() for name in onnxruntime_web.FILES}
    path = tmp_path / "onnxruntime-web" / "-" / f"onnxruntime-web-{onnxruntime_web.VERSION}.tgz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**contents, "large.map": bytes(1000)}.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    digests = {name: onnxruntime_web.integrity(data) for name, data in contents.items()}
    monkeypatch.setattr(onnxruntime_web, "FILES", digests)
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", onnxruntime_web.integrity(path.read_bytes()))
    monkeypatch.setattr(onnxruntime_web, "CDN", "http://127.0.0.1:9/")  # nothing listens there
    monkeypatch.delenv(onnxruntime_web.REGISTRY, raising=False)
    monkeypatch.setenv("CVAE_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return path


def fake_npm(package: Path, script: str) -> None:
    path = package.parents[2] / "bin" / "npm"
    path.parent.mkdir()
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{script}\n")
    path.chmod(0o755)


def unpack_cdn(package: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(package) as archive:
        archive.extractall(package.parent, filter="data")
    monkeypatch.setattr(onnxruntime_web, "CDN", serve(package.parent / "package" / "dist") + "/")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
@pytest.mark.parametrize("way", ["npm", "registry", "cdn", "npm that fails, then cdn"])
def test_the_runtime_is_fetched_once_and_kept(published, serve, monkeypatch, way):
    if "npm" in way:
        fake_npm(published, "exit 1" if "fails" in way else f'/bin/cp "{published}" . && echo "$@" > "{published}.log"')
    if way == "registry":
        monkeypatch.setenv(onnxruntime_web.REGISTRY, serve(published.parents[2]) + "/")
    if "cdn" in way:
        unpack_cdn(published, serve, monkeypatch)
    expected = {"ort.js": b"ort.wasm.bundle.min.mjs as published"}
    files = onnxruntime_web.files()
    assert files["ort.js"] == expected["ort.js"]
    assert gzip.decompress(files["ort.wasm.gz"]) == b"ort-wasm-simd-threaded.wasm as published"
    if way == "npm":
        assert f"pack onnxruntime-web@{onnxruntime_web.VERSION}" in Path(f"{published}.log").read_text()
    monkeypatch.setattr(onnxruntime_web, "fetch", lambda: pytest.fail("it was fetched again"))
    assert onnxruntime_web.files() == files


def test_a_damaged_copy_is_fetched_again(published, serve, monkeypatch):
    unpack_cdn(published, serve, monkeypatch)
    files = onnxruntime_web.files()
    (kept,) = (published.parents[2] / "cache").rglob("*.wasm.gz")
    whole = kept.read_bytes()
    flipped = whole[:10] + bytes([whole[10] ^ 0xFF]) + whole[11:]
    for damage in (b"", whole[:-9], flipped, gzip.compress(b"something else")):
        kept.write_bytes(damage)
        assert onnxruntime_web.files() == files


@pytest.mark.parametrize("way", ["registry", "cdn"])
def test_other_bytes_than_those_published_are_refused(published, serve, monkeypatch, way):
    if way == "registry":
        monkeypatch.setenv(onnxruntime_web.REGISTRY, serve(published.parents[2]))
        published.write_bytes(published.read_bytes() + b"\0")
    else:
        unpack_cdn(published, serve, monkeypatch)
        for path in published.parent.rglob("*.wasm"):
            path.write_bytes(b"something else")
    with pytest.raises(CvaeError, match="SHA-512") as caught:
        onnxruntime_web.files()
    assert "\n" not in str(caught.value) and not (published.parents[2] / "cache").exists()


def test_without_a_network_one_line_names_the_fix(published, monkeypatch):
    monkeypatch.setenv(onnxruntime_web.REGISTRY, "http://127.0.0.1:9")
    with pytest.raises(CvaeError) as caught:
        onnxruntime_web.files()
    message = str(caught.value)
    assert "\n" not in message and "connect to a network" in message and "set npm_config_registry" in message
    assert onnxruntime_web.PACKAGE in message and "refused" in message


# -- in a browser ------------------------------------------------------------------------------------------------------


class Site(NamedTuple):
    """An exported page, and the model that it shows as Python sees it."""

    folder: Path
    model: Any
    linear: Linear | None


@pytest.fixture(scope="module")
def sites(trained, tmp_path_factory) -> dict[str, Site]:
    """Exported pages by name, below a path."""
    folder = tmp_path_factory.mktemp("sites")
    linear = {name: Linear(folder / name, count) for name, count in {"colour": 0, "many": 70}.items()}
    sources = {**trained, "zoo": DEFAULT, **{name: model.folder for name, model in linear.items()}}
    found = {}
    for name, source in sources.items():
        out = folder / "below a path" / name
        try:
            web.export(source, out=out)
        except CvaeError as error:
            if "could not be fetched" not in str(error):
                raise
            pytest.skip(str(error))
        found[name] = Site(out, package.load(source), linear.get(name))
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """An open page, what it complained of on its console, and what it asked for."""

    def __init__(self, chromium: Any, address: str, **options: Any) -> None:
        self.page = chromium.new_context(**options).new_page()
        self.address, self.complaints, self.asked = address, [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body.ready", timeout=60_000)
        self.page.wait_for_selector("#pad", timeout=60_000)

    def check(self) -> None:
        """All well, and nothing asked for outside its folder."""
        origin = self.address.partition("/below")[0]
        allowed = (self.address, f"blob:{origin}/", "data:")
        assert self.complaints == []
        assert self.asked and [url for url in self.asked if not url.startswith(allowed)] == []


@pytest.fixture(scope="module")
def visits() -> dict[str, Visit]:
    """The pages that several tests use, since each takes seconds to load."""
    return {}


@pytest.fixture
def visit(sites, serve, chromium, visits) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Open a page by name, or with options a page of the test's own; with the model that it shows."""
    used = []

    def visit(name: str, **options: Any) -> tuple[Any, Any]:
        folder, model, _ = sites[name]
        if options or name not in visits:
            found = Visit(chromium, f"{serve(folder.parents[1])}/below%20a%20path/{name}/", **options)
            if not options:
                visits[name] = found
        else:
            found = visits[name]
            found.page.locator("#drawn-as").evaluate("(select) => { select.value = ''; }")
            found.page.locator("#clear").click()
        used.append((found, bool(options)))
        return found.page, model

    yield visit
    for found, own in used:
        found.check()
        if own:
            found.page.context.close()


def says(page: Any, selector: str, text: str | re.Pattern[str]) -> None:
    """Wait until it does."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text)


def eventually(page: Any, check: Callable[[], None]) -> None:
    """Wait until nothing is wrong; what still is after a while is raised."""
    for _ in range(200):
        with suppress(AssertionError):
            return check()
        page.wait_for_timeout(50)
    return check()


def numbers(array: np.ndarray) -> list[float]:
    return array.ravel().tolist()


def state(page: Any) -> dict[str, Any]:
    """What is shown, once it is drawn."""
    shown = page.evaluate(
        """async () => {
            const { state, waitForImage } = await import("./app.js");
            await waitForImage();
            return { ...state, code: [...state.code], image: [...state.image] };
        }"""
    )
    return {key: np.array(value, np.float32) if isinstance(value, list) else value for key, value in shown.items()}


def show(page: Any, code: np.ndarray, label: int = 0, **more: Any) -> dict[str, Any]:
    page.evaluate(
        """async ([code, label, more]) => {
            const { show, draw, waitForImage, state } = await import("./app.js");
            show(Float32Array.from(code), label, "test");
            Object.assign(state, more);
            draw();
            await waitForImage();
        }""",
        [numbers(code), label, more],
    )
    return state(page)


def decoded(model: Any, shown: dict[str, Any]) -> np.ndarray:
    """Python's image of what a page shows."""
    label = None if model.spec.classes is None else shown["label"]
    return model.decode(shown["code"][None], label)[0]


@needs_browser
@pytest.mark.parametrize("name", ["labels", "plain", "zoo", "colour", "many"])
def test_images_and_codes_agree_with_python(visit, sites, name):
    page, model = visit(name)
    noise = model.noise(5, seed=3)
    classes = len(model.spec.classes or ())
    labels = [4 * i % classes for i in range(5)] if classes else []
    images = model.decode(noise, labels or None)
    found = page.evaluate(
        """async ([noise, images, labels]) => {
            const { model } = await import("./app.js");
            const decoded = await model.decode(Float32Array.from(noise), labels);
            const { mean, std } = await model.encode(Float32Array.from(images), labels);
            return [[...decoded], [...mean], [...std]];
        }""",
        [numbers(noise), numbers(images), labels],
    )
    for ours, theirs in zip(found, (images, *model.encode(images, labels or None)), strict=True):
        np.testing.assert_allclose(np.reshape(ours, theirs.shape), theirs, atol=1e-4, rtol=1e-4)
    if linear := sites[name].linear:  # of which the truth is known without onnxruntime
        truth = linear.decode(noise, labels or [0])
        np.testing.assert_allclose(np.reshape(found[0], images.shape), truth, atol=1e-4)


@needs_browser
@pytest.mark.parametrize(("name", "label"), [("zoo", 7), ("colour", 0)])
def test_the_pixels_on_the_screen_are_those_of_the_image(visit, name, label):
    page, model = visit(name)
    page.get_by_label("Sharp pixels").check()
    shown = show(page, model.noise(1, seed=5)[0], label)
    np.testing.assert_allclose(shown["image"], decoded(model, shown).ravel(), atol=1e-4)
    channels, height, width = model.spec.image_shape
    with Image.open(io.BytesIO(page.locator("#picture").screenshot())) as file:
        picture = np.asarray(file.convert("RGB")).astype(int)
    rows = ((np.arange(height) + 0.5) * picture.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * picture.shape[1] / width).astype(int)
    expected = imaging.to_uint8(decoded(model, shown)).transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    inner = (slice(1, -1), slice(1, -1))  # the corners are round
    assert np.abs(picture[rows][:, columns][inner] - expected[inner]).max() <= 2
    assert expected.std() > 20 and channels in (1, 3)


@needs_browser
def test_between_two_classes_the_picture_is_the_mean_that_python_shows(visit):
    page, model = visit("zoo")
    code = model.noise(1, seed=5)[0]
    shown = show(page, code, 3, next=8, mix=0.25)
    expected = model.interpolate(code, code, 5, label=(3, 8))[1]
    np.testing.assert_allclose(shown["image"], expected.ravel(), atol=1e-4)


@needs_browser
def test_everything_can_be_done_by_keyboard(visit):
    page, model = visit("zoo", viewport={"width": 1000, "height": 700})
    before = state(page)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, ring = page.evaluate(
            """() => {
                const at = document.activeElement;
                return [at.id || at.name || "", getComputedStyle(at.closest(".choice, .button") ?? at).outlineStyle];
            }"""
        )
        reached.append(name)
        assert ring == "solid" or name == "", name
        if reached[-1] == "surprise":
            page.keyboard.press("Enter")
            surprised = state(page)
            assert not np.allclose(surprised["code"], before["code"]) and surprised["origin"].startswith("seed ")
        elif reached[-1] == "class":
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
            shown = state(page)
            assert shown["label"] == 2
            np.testing.assert_array_equal(shown["code"], surprised["code"])  # the same hand
            np.testing.assert_allclose(shown["image"], decoded(model, shown).ravel(), atol=1e-4)
            assert page.inner_text("#class-name") == "2"
        elif reached[-1] == "pad":
            page.keyboard.press("Space")
            for key in ["ArrowDown"] * 6 + ["ArrowUp"] * 12:
                page.keyboard.press(key)
            says(page, "#origin", "your drawing")
            assert page.inner_text("#class-name") == "1" == page.inner_text("#status")[-1]
            pad, pen = (page.locator(name).bounding_box() for name in ("#pad", "#pen-at"))
            centre = [(pen[at] + pen[size] / 2 - pad[at]) / pad[size] for at, size in (("x", "width"), ("y", "height"))]
            assert np.abs(np.subtract(centre, [0.5, 0.5 - 6 / 28])).max() < 0.02  # 6 pixels up of the middle
            assert page.locator("#pen-at.down").count() == 1
            for key in ("Tab", "Tab", "Enter", "Shift+Tab", "Shift+Tab"):  # to Clear and back
                page.keyboard.press(key)
            assert page.evaluate("document.activeElement.id") == "pad"
            again = page.locator("#pen-at").bounding_box()
            assert abs(again["y"] + again["height"] / 2 - pad["y"] - pad["height"] / 2) < 0.02 * pad["height"]
            assert page.locator("#pen-at.down").count() == 0
            break
    assert [name for name in reached if name][:5] == ["surprise", "play", "download", "tour", "sharp"]
    assert {"class", "more", "centre", "variety", "pad"} <= set(reached)


@needs_browser
def test_a_slider_moves_its_dimension_alone_and_the_most_telling_comes_first(visit):
    page, model = visit("colour")
    names = page.locator(".slider:visible span").all_inner_texts()
    assert names == ["z1", "z3", "z4", "z2", "z0"] and not page.locator("#classes").is_visible()
    before = state(page)
    page.get_by_label("Dimension 3").focus()
    page.keyboard.press("End")
    after = state(page)
    assert np.flatnonzero(after["code"] != before["code"]).tolist() == [3] and after["code"][3] == 3
    assert page.locator(".slider").nth(1).locator("output").inner_text() == "+3.00"
    np.testing.assert_allclose(after["image"], decoded(model, after).ravel(), atol=1e-4)
    page.get_by_role("button", name="Reset").click()
    assert not state(page)["code"].any()


@needs_browser
def test_more_classes_than_thumbnails_are_a_list(visit):
    page, model = visit("many")
    page.get_by_label("Class", exact=True).select_option("kind 69")
    shown = state(page)
    assert shown["label"] == 69 and page.inner_text("#class-name") == "kind 69"
    np.testing.assert_allclose(shown["image"], decoded(model, shown).ravel(), atol=1e-4)
    page.get_by_text("About this model").click()
    assert page.locator("#facts").inner_text().count("<b>at all</b>") == 1  # a text, not markup


@needs_browser
def test_all_thumbnails_are_the_same_hand(visit):
    page, model = visit("zoo")
    code = model.noise(1, seed=5)[0]
    show(page, code, 3)
    expected = imaging.to_uint8(model.decode(np.tile(code, (10, 1)), range(10)))[:, 0]

    def check() -> None:
        found = page.evaluate(
            """[...document.querySelectorAll(".choice canvas")].map((canvas) => {
                const copy = new OffscreenCanvas(28, 28).getContext("2d"); // Chromium warns of reading one often
                copy.drawImage(canvas, 0, 0);
                return [...copy.getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0);
            })"""
        )
        assert np.abs(np.reshape(found, (10, 28, 28)) - expected.astype(int)).max() <= 1

    eventually(page, check)


def pad_pixels(page: Any) -> np.ndarray:
    """What is on the pad: (H, W) in 0..1."""
    height, width, data = page.evaluate(
        """() => {
            const { height, width } = document.querySelector("#pad");
            const { data } = document.querySelector("#pad").getContext("2d").getImageData(0, 0, width, height);
            return [height, width, [...data].filter((_, i) => i % 4 === 0)];
        }"""
    )
    return np.reshape(data, (height, width)) / 255


@needs_browser
def test_a_drawing_is_read_redrawn_and_restyled(visit):
    """The page's code is Python's for the drawing, averaged over squares and put into the middle here once more."""
    page, model = visit("zoo")
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    way = [(0.25, 0.1), (0.65, 0.1), (0.5, 0.35), (0.42, 0.65)]  # a seven, too high and too far to the left
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in way]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()
    says(page, "#status", re.compile("^Redrawn"))
    pixels = pad_pixels(page)
    side = pixels.shape[0] // 28
    image = pixels.reshape(28, side, 28, side).mean(axis=(1, 3))
    y, x = ((np.indices((28, 28)) * image).sum(axis=(1, 2)) / image.sum() - 13.5).round().astype(int)
    assert y < -2 and x < 0
    image = np.roll(image, (-y, -x), (0, 1)).astype(np.float32)[None, None]
    code = model.encode(image, 7)[0][0]

    def check() -> None:
        shown = state(page)
        assert (shown["label"], shown["origin"]) == (7, "your drawing")
        np.testing.assert_allclose(shown["code"], code, atol=1e-3)

    eventually(page, check)
    page.get_by_role("radio", name="4").check()
    np.testing.assert_allclose(state(page)["image"], model.restyle(image, 7, 4).ravel(), atol=2e-3)
    page.get_by_label("Redraw as").select_option("1")
    says(page, "#class-name", "1")
    page.get_by_role("button", name="Clear").click()
    assert pad_pixels(page).max() == 0


@needs_browser
@pytest.mark.parametrize("name", ["zoo", "colour"])
def test_a_picture_can_be_opened(visit, tmp_path, name):
    page, model = visit(name)
    label = 7 if model.spec.classes else None
    image = model.generate(1, label, seed=2)
    imaging.to_pil(image[0]).save(tmp_path / "own.png")
    page.locator("#open").set_input_files(tmp_path / "own.png")
    says(page, "#origin", "your image")
    shown = state(page)
    assert shown["label"] == (label or 0)
    rounded = imaging.read(tmp_path / "own.png", model.spec.image_shape)[None]
    np.testing.assert_allclose(shown["code"], model.encode(rounded, label)[0][0], atol=2e-3, rtol=1e-3)
    (tmp_path / "text.png").write_text("no picture")
    page.locator("#open").set_input_files(tmp_path / "text.png")
    says(page, "#status", re.compile("^text.png is not an image"))


@needs_browser
def test_the_picture_can_be_downloaded(visit, tmp_path):
    page, model = visit("labels")
    page.get_by_label("Sharp pixels").check()
    shown = show(page, model.noise(1, seed=1)[0], 7)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "labels-7.png"
    download.value.save_as(tmp_path / "seven.png")
    with Image.open(tmp_path / "seven.png") as picture:
        assert picture.size == (560, 560)
        pixels = np.asarray(picture.convert("L"))[35::70, 35::70].astype(int)
    assert np.abs(pixels - imaging.to_uint8(decoded(model, shown))[0]).max() <= 1


@needs_browser
@pytest.mark.parametrize(
    ("tour", "motion", "least", "most"), [("codes", "reduce", 1, 3), ("classes", "no-preference", 5, 400)]
)
def test_an_animation_plays_and_pauses(visit, tour, motion, least, most):
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
    painted = page.evaluate("paints")
    assert least <= painted <= most
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
def test_it_fits_the_screen(visit, tmp_path, screen):
    page, _ = visit("zoo", **SCREENS[screen])
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.screenshot(path=tmp_path / f"{screen}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for control in page.locator("button:visible, select:visible, .button:visible, .choice:visible").all():
        assert control.bounding_box()["height"] >= 38, control
    with Image.open(tmp_path / f"{screen}.png") as picture:
        corner = picture.convert("L").getpixel((2, 2))
    assert corner < 40 if screen == "dark" else corner > 220
    page.locator(".slider:visible").last.scroll_into_view_if_needed()
    box = page.locator("#picture").bounding_box()
    assert 0 <= box["y"] < page.viewport_size["height"] - 200  # the picture is in sight of its sliders
    if screen == "phone":
        page.locator("#pad").scroll_into_view_if_needed()
        pad = page.locator("#pad").bounding_box()
        page.touchscreen.tap(pad["x"] + pad["width"] / 2, pad["y"] + pad["height"] - 30)
        says(page, "#origin", "your drawing")


@needs_browser
def test_a_folder_that_is_not_whole_is_said(sites, serve, chromium, tmp_path):
    shutil.copytree(sites["labels"].folder, tmp_path / "site")
    (tmp_path / "site" / "decoder.onnx").unlink()
    page = chromium.new_page()
    page.goto(serve(tmp_path / "site"))
    page.wait_for_selector("[role=alert]")
    assert "decoder.onnx could not be read (404" in page.inner_text("#status")
    page.close()


@needs_browser
def test_the_commands_of_the_document_give_a_seven(chromium, tmp_path):
    """As written, but for the port, which the system chooses here."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"## In a browser.*?```bash\n(.*?)```", text, flags=re.DOTALL)
    first, server = block.splitlines()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(first, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if "could not be fetched" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, *server.split()[1:], "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            address = re.search(r"http://\S+/", serving.stdout.readline())
            assert address is not None and server.startswith("python -m http.server ")
            page = chromium.new_page()
            page.goto(address[0])
            page.get_by_role("radio", name="7").check(timeout=60_000)
            shown = state(page)
            page.close()
        finally:
            serving.terminate()
    np.testing.assert_allclose(shown["image"], decoded(package.load(), shown).ravel(), atol=1e-4)
    assert shown["label"] == 7


@needs_browser
def test_the_program_of_the_document_draws_in_a_page_of_one_s_own(sites, serve, chromium, tmp_path):
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
