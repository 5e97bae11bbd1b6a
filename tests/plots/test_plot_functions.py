"""Functions of `cvae.plot`, which return figures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from plot_helpers import ZOO

import cvae as package


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("latent", {"method": "pca", "limit": 50}),
        ("traverse", {"label": 3, "dimensions": 2, "steps": 3, "range": 2.0, "limit": 50}),
        ("reconstructions", {"n": 3}),
        ("nearest", {"n": 3, "neighbours": 2, "features": "pixels"}),
        ("grid", {"columns": 3, "seed": 1}),
        ("losses", {}),
        ("progress", {"epochs": [0, 20]}),
    ],
)
def test_function_returns_the_figure_that_the_command_saves(plot, trained, saved_figures, function, options):
    shutil.copytree(trained["labels"], "run")
    notes: list[str] = []
    figure = getattr(package.plot, function)("run", note=notes.append, **options)
    assert isinstance(figure, Figure) and saved_figures == [] and [path.name for path in Path().iterdir()] == ["run"]
    flags = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in options.items()}
    arguments = [item for name, value in flags.items() for item in ("-n" if name == "n" else f"--{name}", value)]
    result = plot(function, "run", *arguments, "--out", "plot.png", "--json")
    assert result.json == {**package.plot.describe(figure), "out": "plot.png"}
    assert result.err.splitlines() == notes
    for axes, expected in zip(figure.axes, saved_figures[0].axes, strict=True):
        assert axes.get_title() == expected.get_title()
        for image, expected_image in zip(axes.images, expected.images, strict=True):
            np.testing.assert_array_equal(image.get_array(), expected_image.get_array())


def test_function_saves_the_figure_if_out_is_set(in_tmp):
    figure = package.plot.losses([ZOO, "mnist-ladder"], out="a.svg")
    assert Path("a.svg").read_text().startswith("<?xml")
    assert package.plot.describe(figure)["epochs"].keys() == {ZOO, "mnist-ladder"}
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook displays
