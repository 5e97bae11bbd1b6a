"""`cvae generate`: the images that it writes, compared with torch."""

import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import DIGITS, noise, read_grid, run_torch, same_images
from PIL import Image

from cvae.cli import _shared


@pytest.mark.parametrize(
    ("model", "flags", "columns", "rows", "labels"),
    [
        ("labels", ["--digit", "7"], 1, 1, [7]),
        ("labels", ["--label", "3", "-n", "5"], 3, 2, [3] * 5),
        ("labels", ["--label", "3", "--label", "5"], 2, 1, [3, 5]),
        ("labels", ["--label", "3,5", "-n", "3"], 3, 2, [3] * 3 + [5] * 3),
        ("labels", ["--digit", "7-9", "--grid"], 8, 3, [k for k in (7, 8, 9) for _ in range(8)]),
        ("labels", ["--label-index", "0-9"], 4, 3, DIGITS),
        ("labels", [], 4, 3, DIGITS),
        ("labels", ["-n", "2"], 2, 10, [k for k in DIGITS for _ in range(2)]),
        ("labels", ["--grid"], 8, 10, [k for k in DIGITS for _ in range(8)]),
        ("labels", ["--grid", "-n", "3"], 3, 10, [k for k in DIGITS for _ in range(3)]),
        ("plain", [], 1, 1, [None]),
        ("plain", ["-n", "6"], 3, 2, [None] * 6),
        ("plain", ["--grid"], 8, 8, [None] * 64),
    ],
    ids=str,
)
def test_generated_images_match_torch_for_the_same_noise(cvae, trained, model, flags, columns, rows, labels):
    report = cvae("generate", trained[model], *flags, "--seed", 5, "--json").json
    names = None if model == "plain" else [str(label) for label in labels]
    assert report == {"out": "generated.png", "model": model, "images": len(labels), "labels": names, "seed": 5}
    actual = read_grid("generated.png", columns, rows)
    images = run_torch(trained[model], "decode", noise(5, len(labels)), None if model == "plain" else labels)
    assert same_images(actual[: len(labels)], images) and (actual[len(labels) :] == 128).all()
    assert actual[: len(labels)].std(axis=(1, 2)).min() > 20


def test_generate_writes_different_images_for_each_class(cvae, trained):
    cvae("generate", trained["labels"], "--grid", "--seed", 0)
    means = read_grid("generated.png", 8, 10).reshape(10, 8, 8, 8).mean(axis=1)
    assert all(np.abs(a - b).max() > 30 for i, a in enumerate(means) for b in means[:i])


def test_generate_writes_the_same_image_for_the_same_seed(cvae, trained):
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        assert cvae("generate", trained["plain"], "-n", 4, "--seed", seed, "--out", f"{name}.png").code == 0
    a, b, c = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_generate_reports_its_random_seed(cvae, trained):
    first, second = (cvae("generate", trained["plain"], "--json").json["seed"] for _ in range(2))
    assert first != second
    data = Path("generated.png").read_bytes()
    assert str(second) in cvae("generate", trained["plain"], "--seed", second, "--out", "same.png").out
    assert Path("same.png").read_bytes() == data


def test_digit_flag_is_an_alias_of_label(cvae, trained):
    for flags in (["--digit", "7"], ["--label", "7"], ["--digit", "7", "--label", "7"]):
        cvae("generate", trained["labels"], *flags, "--seed", 3, "--out", f"{len(flags)}{flags[0]}.png")
    first, *others = [path.read_bytes() for path in Path().iterdir()]
    assert len(others) == 2 and all(other == first for other in others)


def test_images_at_temperature_zero_are_identical(cvae, trained):
    cvae("generate", trained["labels"], "--digit", 3, "-n", 4, "--temperature", 0)
    actual = read_grid("generated.png", 2, 2)
    assert same_images(actual, run_torch(trained["labels"], "decode", np.zeros((4, 8), np.float32), [3] * 4))


@pytest.mark.parametrize(
    ("extension", "image_format"), [("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF"), ("webp", "WEBP")]
)
def test_file_extension_selects_image_format(cvae, trained, extension, image_format):
    assert cvae("generate", trained["plain"], "--out", f"new/folder/x.{extension}").code == 0
    with Image.open(f"new/folder/x.{extension}") as image:
        assert image.format == image_format and image.size == (280, 280)


def test_unknown_extension_is_rejected_before_images_are_generated(cvae, trained):
    result = cvae("generate", trained["labels"], "--out", "x.foo")
    assert (result.code, result.err.count("\n")) == (2, 1) and result.err.startswith("cvae: error: can't write 'x.foo'")


def test_generate_replaces_existing_file(cvae, trained):
    Path("generated.png").write_text("old")
    assert cvae("generate", trained["plain"]).code == 0
    assert read_grid("generated.png", 1, 1).std() > 20 and [path.name for path in Path().iterdir()] == ["generated.png"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_generate_shows_image_only_if_stderr_is_a_terminal(cvae, trained, monkeypatch, stream):
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    result = cvae("generate", trained["plain"], "--seed", 1)
    assert result.code == 0 and "\033_G" not in result.out and ("\033_G" in result.err) == (stream == "stderr")


@pytest.mark.parametrize(("scale", "size"), [([], 280), (["--scale", 1], 8), (["--scale", 5], 40)])
def test_scale_enlarges_the_image_in_the_file(cvae, trained, scale, size):
    assert cvae("generate", trained["plain"], *scale).code == 0
    with Image.open("generated.png") as image:
        assert image.size == (size, size)


def test_images_in_an_array_cycle_through_the_labels(cvae, trained):
    report = cvae(
        "generate", trained["labels"], "--label", "3,5", "-n", 2, "--seed", 1, "--out", "x.npz", "--json"
    ).json
    assert (report["images"], report["labels"], report["out"]) == (4, ["3", "5"], ["x.npz"])
    with np.load("x.npz") as arrays:
        assert arrays["labels"].tolist() == [3, 5, 3, 5]
        images = run_torch(trained["labels"], "decode", noise(1, 4), [3, 5, 3, 5])
        assert np.abs(arrays["images"] - 255 * images).max() <= 0.51
    assert cvae("generate", trained["labels"], "-n", 3, "--out", "y", "--json").json["labels"] == list("0123456789")


@pytest.mark.parametrize(
    ("done", "left", "seconds", "text"),
    [(0, 5, 1, None), (5, 0, 0, None), (100, 900, 2, "50/s  0:18 left"), (3, 3600 * 3, 3, "1.0/s  3:00:00 left")],
)
def test_progress_bar_shows_rate_and_time_left(done, left, seconds, text):
    assert _shared.format_speed(done, left, seconds) == text


def test_progress_bar_is_drawn_on_a_terminal(cvae, trained, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = cvae("generate", trained["plain"], "-n", 64, "--out", "x.npy")
    assert result.code == 0 and "64/64" in result.err and "/s  0:00 left" in result.err
