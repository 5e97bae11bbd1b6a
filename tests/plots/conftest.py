"""Fixtures for tests of plots."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from cvae.config import TrainConfig
from cvae.plots import style


@pytest.fixture
def plot(cvae) -> Callable[..., Any]:
    """Return a function that runs `cvae plot` in an empty folder."""
    return partial(cvae, "plot")


@pytest.fixture
def assert_fails(plot) -> Callable[..., None]:
    """Return a function that checks that `cvae plot` fails with an exit code and an error line, and writes nothing."""

    def check(code: int, words: list[str], *args: object) -> None:
        before = sorted(Path.cwd().rglob("*"))
        result = plot(*args)
        assert (result.code, result.out) == (code, ""), result.err
        line = result.err.splitlines()[-1]
        assert line.startswith("cvae: error: ") and "Traceback" not in result.err
        assert [word for word in words if word not in line] == [], line
        assert sorted(Path.cwd().rglob("*")) == before

    return check


@pytest.fixture(scope="session")
def latent_2d(tmp_path_factory) -> dict[str, Path]:
    """Train and export two models with two latent dimensions: "labels" is conditional, "plain" is not."""
    from cvae.engine import train
    from cvae.exporters.onnx import export

    folder = tmp_path_factory.mktemp("latent_2d")
    runs = {}
    for name, conditional in {"labels": True, "plain": False}.items():
        config = TrainConfig(
            arch="mlp", conditional=conditional, epochs=2, latent_dim=2, prior="normal", trackers=("none",)
        )
        runs[name] = train(config, folder / name, quiet=True)
        export(runs[name])
    return runs


@pytest.fixture
def saved_figures(monkeypatch) -> list[Figure]:
    """Return a list to which each saved figure is added. Images are enlarged without smoothing."""
    monkeypatch.setattr("cvae.imaging.grids.RESAMPLING", Image.Resampling.NEAREST)
    saved: list[Figure] = []
    save = style.save
    monkeypatch.setattr("cvae.plots.style.save", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved
