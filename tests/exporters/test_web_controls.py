"""Controls, messages and address of the exported web page, in a real browser."""

import re
import shutil

import numpy as np
import pytest
from helpers import needs_browser
from web_visit import LONG_NAMES, decode_state, eventually, expect_text, show, state

from cvae import imaging
from cvae.runtime.conditions import condition_rows


@pytest.mark.slow
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
            assert page_state["conditions"] == {"label": "2"}
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
    assert [name for name in focus_order if name][:5] == ["surprise", "play", "download", "link", "tour"]
    assert {"class", "sharp", "more", "reset", "variety", "pad"} <= set(focus_order)


@needs_browser
def test_each_slider_changes_one_dimension_and_sliders_are_sorted_by_effect(visit):
    page, model = visit("colour")
    names = page.locator(".slider:visible span").all_inner_texts()
    assert names == [f"Style {rank}" for rank in range(1, 6)] and page.locator("#conditions *").count() == 0
    titles = [slider.get_attribute("title") for slider in page.locator(".slider input").all()]
    effects = {1: 63, 3: 46, 4: 24, 2: 15, 0: 2.8}  # percent, by latent dimension
    for title, (dimension, effect) in zip(titles, effects.items(), strict=True):
        assert title.startswith(f"Latent dimension {dimension}: ") and f" {effect} %" in title
    before = state(page)
    page.get_by_label("Style 2").focus()
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
    assert page_state["conditions"] == {"label": "class 69"} and page.inner_text("#class-name") == "class 69"
    np.testing.assert_allclose(page_state["image"], decode_state(model, page_state).ravel(), atol=1e-4)
    page.get_by_text("About this model").click()
    assert page.locator("#facts").inner_text().count("<b>at all</b>") == 1  # text, not markup


@pytest.mark.slow
@needs_browser
def test_all_thumbnails_share_one_style(visit):
    page, model = visit("zoo")
    code = model.noise(1, seed=5)[0]
    show(page, code, {"label": "3"})
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


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1280, 360])
def test_long_class_names_are_shown_in_full(visit, width):
    page, _ = visit("long names", viewport={"width": width, "height": 800})
    assert page.locator(".choice").all_text_contents() == list(LONG_NAMES)
    truncated = page.evaluate(
        """[...document.querySelectorAll(".choice span")].filter((name) => {
            const [outer, inner] = [name.closest(".choice"), name].map((element) => element.getBoundingClientRect());
            return name.scrollWidth > name.clientWidth + 1 || inner.right > outer.right || inner.bottom > outer.bottom;
        }).map((name) => name.textContent)"""
    )
    assert truncated == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    line = page.locator(".choice span").nth(LONG_NAMES.index("bus")).bounding_box()["height"]
    for name in ("convertible", "hatchback"):  # each of these words is on a single line
        assert page.locator(".choice span", has_text=name).bounding_box()["height"] < 1.5 * line


@needs_browser
def test_address_restores_the_image(visit):
    page, model = visit("long names", viewport={"width": 1280, "height": 800})
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    assert page.url.endswith("/")  # a new page has a short address
    page.evaluate("history.replaceState(null, '', '#class=hatchback&seed=7')")
    page.reload()
    page.wait_for_selector("body.ready")
    first = state(page)
    assert (first["conditions"], first["origin"]) == ({"label": "hatchback"}, "seed 7")
    assert page.locator("input[name=class]:checked").get_attribute("value") == "1"
    page.get_by_label("Style 2").fill("1.25")
    page.get_by_label("Variety").fill("1.2")
    page.wait_for_url("**/#class=hatchback&seed=7&z3=1.25&variety=1.2")
    changed = state(page)
    unchanged = np.arange(5) != 3
    np.testing.assert_allclose(changed["code"][unchanged], first["code"][unchanged] * 1.2 / 0.8, rtol=1e-5)
    assert changed["code"][3] == 1.25
    page.get_by_role("radio", name="sport utility vehicle").check()
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.endswith("#class=sport%20utility%20vehicle&seed=7&z3=1.25&variety=1.2") and link == page.url
    last = state(page)
    other = page.context.new_page()
    other.goto(link)
    other.wait_for_selector("body.ready")
    np.testing.assert_array_equal(state(other)["image"], last["image"])
    assert other.get_by_label("Variety").input_value() == "1.2" and state(other)["origin"] == "seed 7, changed"
    other.close()
    for go, expected in ((page.go_back, changed), (page.go_back, first), (page.go_forward, changed)):
        go()
        eventually(page, lambda: np.testing.assert_array_equal(state(page)["image"], expected["image"]))  # noqa: B023
    np.testing.assert_allclose(state(page)["image"], decode_state(model, state(page)).ravel(), atol=1e-4)


@needs_browser
def test_address_restores_a_code_that_has_no_seed(visit):
    page, model = visit("labels")
    code = model.noise(1, seed=4)[0]
    before = show(page, code, {"label": "3"})
    page.wait_for_url(re.compile("#class=3&code=[-0-9.,]+$"))
    page.get_by_role("button", name="Reset").click()
    page.wait_for_url("**/#class=3&code=0")
    assert not state(page)["code"].any()
    page.go_back()
    eventually(page, lambda: np.testing.assert_allclose(state(page)["code"], code, atol=5.1e-4))
    np.testing.assert_allclose(state(page)["image"], before["image"], atol=5e-3)


@needs_browser
@pytest.mark.parametrize(
    ("fragment", "words"),
    [
        ("class=tank", ['no class "tank"', "convertible, hatchback"]),
        ("seed=abc", ['seed is "abc"', "4294967295"]),
        ("seed=-1", ['seed is "-1"']),
        ("variety=9", ['variety is "9"', "0.1 to 1.5"]),
        ("z5=1", ['"z5" is unknown', "z0 to z4"]),
        ("z1=1e9", ['z1 is "1e9"', "-100 to 100"]),
        ("code=1,2,3,4,5,6", ["at most 5 numbers"]),
        ("code=1,x", ["at most 5 numbers"]),
    ],
)
def test_invalid_address_is_reported_and_changes_nothing(visit, fragment, words):
    page, _ = visit("long names")
    before = state(page)
    page.evaluate("(fragment) => { location.hash = fragment; }", fragment)
    expect_text(page, "#alert p", re.compile("^The address does not fit this model: "))
    text = page.inner_text("#alert p")
    assert all(word in text for word in words), text
    np.testing.assert_array_equal(state(page)["image"], before["image"])


@needs_browser
def test_introduction_names_the_available_controls(visit):
    page, _ = visit("zoo")
    expect_text(page, "#intro", re.compile(r"makes up new images .* Choose a class, press “Surprise me”, .* draw "))
    page, _ = visit("colour")
    expect_text(page, "#intro", re.compile(r"makes up new images .* Press “Surprise me”, move the sliders or draw "))


@needs_browser
def test_unreadable_image_is_reported_in_a_visible_message(visit, tmp_path):
    page, model = visit("zoo")
    (tmp_path / "text.png").write_text("this is not an image")
    imaging.to_pil(model.generate(1, 7, seed=2)[0]).save(tmp_path / "own.png")
    alert = page.get_by_role("alert")
    for remove in (
        lambda: page.keyboard.press("Escape"),
        lambda: page.get_by_role("button", name="Dismiss").click(),
        lambda: page.locator("#open").set_input_files(tmp_path / "own.png"),
    ):
        page.locator("#open").set_input_files(tmp_path / "text.png")
        expect_text(page, "#alert p", re.compile("^text.png is not an image .* open a PNG, JPEG or WebP file$"))
        box = alert.bounding_box()
        assert box["height"] > 30 and 0 <= box["y"] <= page.viewport_size["height"] - box["height"]
        remove()
        expect_text(page, "#alert", "")


@needs_browser
def test_page_reports_a_missing_file(site, serve, chromium, tmp_path):
    shutil.copytree(site("labels").folder, tmp_path / "site")
    (tmp_path / "site" / "decoder.onnx").unlink()
    page = chromium.new_page()
    page.goto(serve(tmp_path / "site"))
    expect_text(page, "#alert p", re.compile(r"decoder\.onnx could not be read \(404"))
    assert page.inner_text("#status") == ""  # the page no longer says that the model is being loaded
    page.close()


@needs_browser
def test_each_kind_of_condition_has_a_control(visit):
    page, model = visit("conditional", viewport={"width": 1280, "height": 800})
    assert state(page)["conditions"] == {"label": None, "age": None, "traits": None}
    page.get_by_role("radio", name="b").check()
    page.get_by_role("slider", name="age").fill("2.5")
    page.get_by_role("switch", name="hat").check()
    chosen = state(page)
    assert chosen["conditions"] == {"label": "b", "age": 2.5, "traits": {"beard": False, "hat": True}}
    np.testing.assert_allclose(chosen["image"], decode_state(model, chosen).ravel(), atol=1e-5)
    expect_text(page, "#class-name", "b, age 2.5 years, hat")
    assert page.locator(".value output").inner_text() == "2.5 years"
    page.get_by_role("radio", name="any").check()
    page.get_by_label("any age").check()
    page.get_by_label("any traits").check()
    unknown = state(page)
    assert unknown["conditions"] == {"label": None, "age": None, "traits": None}
    np.testing.assert_allclose(unknown["image"], model.decode(unknown["code"][None]).ravel(), atol=1e-5)
    assert np.abs(unknown["image"] - chosen["image"]).max() > 0.1
    page.get_by_label("any age").uncheck()  # restores the value of the slider
    assert state(page)["conditions"] == {"label": None, "age": 2.5, "traits": None}


@needs_browser
def test_address_restores_conditions(visit):
    page, model = visit("conditional", viewport={"width": 1280, "height": 800})
    page.get_by_role("radio", name="c").check()
    page.get_by_role("slider", name="age").fill("7.25")
    page.get_by_role("switch", name="beard").check()
    page.wait_for_url("**/#class=c&age=7.25&traits=beard&seed=0")
    page.get_by_role("switch", name="beard").uncheck()
    page.wait_for_url("**/#class=c&age=7.25&traits=none&seed=0")  # otherwise, both changes may share a history entry
    page.get_by_label("any age").check()
    page.wait_for_url("**/#class=c&traits=none&seed=0")
    page.go_back()
    page.go_back()
    chosen = {"label": "c", "age": 7.25, "traits": {"beard": True, "hat": False}}
    eventually(page, lambda: np.testing.assert_equal(state(page)["conditions"], chosen))
    page.reload()
    page.wait_for_selector("body.ready")
    restored = state(page)
    assert restored["conditions"] == chosen
    np.testing.assert_allclose(restored["image"], decode_state(model, restored).ravel(), atol=1e-5)
    for fragment, text in (
        ("age=11", 'age is "11", but must be a number from 0 to 10'),
        ("class=d", 'it has no class "d"; its classes are a, b, c'),
        ("traits=hat,tie", 'traits has no "tie"; choose among beard, hat, or "none"'),
    ):
        page.evaluate("(fragment) => { location.hash = fragment; }", fragment)
        expect_text(page, "#alert p", f"The address does not fit this model: {text}")
        assert state(page)["conditions"] == chosen


@pytest.mark.slow
@needs_browser
def test_animation_sweeps_a_number(visit):
    page, _ = visit("conditional", viewport={"width": 1280, "height": 800})
    page.get_by_label("Animate").select_option("age")
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(1200)
    page.get_by_role("button", name="Pause").click()
    stopped = state(page)
    assert 0 < stopped["conditions"]["age"] < 10 and stopped["conditions"]["label"] is None and stopped["mix"] == 0


@needs_browser
def test_image_is_encoded_under_the_conditions_on_the_page(visit, tmp_path):
    page, model = visit("conditional", viewport={"width": 1280, "height": 800})
    imaging.to_pil(model.generate(1, seed=2)[0]).save(tmp_path / "own.png")
    page.get_by_role("slider", name="age").fill("2.5")
    page.locator("#open").set_input_files(tmp_path / "own.png")
    expect_text(page, "#status", "Redrawn as age 2.5 years")
    image = imaging.read(tmp_path / "own.png", model.spec.image_shape)[None]
    rows = condition_rows(model.spec, 1, values={"age": 2.5})  # the other conditions are unknown
    np.testing.assert_allclose(state(page)["code"], model.encode_rows(image, rows).mean[0], atol=1e-3, rtol=1e-3)
    assert not page.get_by_label("Redraw as").is_visible()
