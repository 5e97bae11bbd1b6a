"""Colours and markers of figures, and the files they are saved to."""

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from plot_helpers import read_pixels

from cvae.errors import UsageError
from cvae.plots import style
from cvae.plots.image_grid import image_grid


@pytest.mark.parametrize("count", [1, 8, 9, 10, 110])
def test_colours_and_markers_distinguish_classes(count):
    actual = style.colours(count)
    assert len(actual) == count and all(to_rgb(colour) for colour in actual)
    styles = {(colour, style.MARKERS[i % len(style.MARKERS)]) for i, colour in enumerate(actual)}
    assert len(styles) == count


def test_extension_selects_the_format_and_files_are_reproducible(tmp_path):
    for suffix in style.SUFFIXES:
        for name in "ab":
            figure = Figure()
            figure.subplots().plot([1, 2], label="x")
            style.save(figure, tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    with pytest.raises(UsageError, match=r"'.*x\.pdf'.*\.png or \.svg"):
        style.save(Figure(), tmp_path / "x.pdf")
    assert len(list(tmp_path.iterdir())) == 4


def test_names_are_not_parsed_as_formulas(tmp_path):
    images = np.random.default_rng(0).random((6, 3, 5, 9), np.float32)
    figure = image_grid(images, ["a$b", "$c$_"], ["$", "", "2"], "5$ and $5")
    factor = 10  # a cell is 0.65 inches or 94 pixels wide, so 9 pixels are enlarged tenfold
    assert figure.axes[0].images[0].get_array().shape == (5 * 2 * factor + 1, 9 * 3 * factor + 2, 3)
    style.save(figure, tmp_path / "grid.png")
    read_pixels(tmp_path / "grid.png")


@pytest.mark.slow
def test_tall_image_grid_stays_below_the_size_limit(tmp_path):
    figure = image_grid(np.zeros((3_000, 1, 4, 4), np.float32), [""] * 3_000, [""], "")
    assert figure.get_size_inches().max() * 144 < 2**16


@pytest.mark.slow
def test_plots_do_not_import_torch(trained, tmp_path):
    program = """if True:
        import sys
        from cvae.cli import make_app
        for command in (["latent", "--method", "pca"], ["traverse"], ["losses"], ["progress"]):
            make_app()(["plot", *command, sys.argv[1]], standalone_mode=False)
        make_app()(["plot", "grid", sys.argv[2]], standalone_mode=False)
        print(*{"torch", "torchvision", "onnx", "safetensors", "matplotlib.pyplot"} & set(sys.modules))
    """
    command = [sys.executable, "-W", "error", "-c", program, str(trained["plain"]), str(trained["labels"])]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.splitlines()[-1] == "", result.stderr
    assert all(line.startswith("digits: ") for line in result.stderr.splitlines()), result.stderr
    assert len(list(tmp_path.glob("*.png"))) == 5
