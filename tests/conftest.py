"""What several test files share."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from cvae.__main__ import main
from cvae.atomic import write_file
from cvae.config import TrainConfig
from cvae.errors import CvaeError, UsageError

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real data beside the checkout, where there is any."""

needs_mnist = pytest.mark.skipif(not (SHARED / "MNIST").exists(), reason=f"MNIST is not at {SHARED}")


def blocks(text: str, language: str) -> list[str]:
    """The blocks of a language in a Markdown text."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two small runs on the bundled digits, trained and exported: "labels" and "plain"."""
    from cvae.engine import train
    from cvae.exporters.onnx import export

    folder = tmp_path_factory.mktemp("trained")
    runs = {}
    for name, conditional in {"labels": True, "plain": False}.items():
        prior = "flow" if conditional else "normal"
        asked = TrainConfig(
            arch="mlp", conditional=conditional, epochs=20, lr=5e-3, latent_dim=8, prior=prior, trackers=("none",)
        )
        runs[name] = train(asked, folder / name, quiet=True)
        export(runs[name])
    return runs


@pytest.fixture(scope="session")
def downloaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A package of the index as its file, not installed: for a definition or a header that it brings along."""
    folder = request.config.cache.mkdir("wheels")

    def fetch(requirement: str) -> zipfile.ZipFile:
        kept = folder / f"{requirement}.whl"
        if not kept.exists():
            beside = tmp_path_factory.mktemp("download")
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
            done = subprocess.run([*command, "--dest", beside, requirement], capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"no package index has {requirement} here: {done.stderr.strip().splitlines()[-1]}")
            write_file(kept, next(beside.glob("*.whl")).read_bytes())  # another process may be at it too
        return zipfile.ZipFile(kept)

    return fetch


@pytest.fixture(scope="session")
def sdk(downloaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a release archive of onnxruntime for C and C++: `include`, and `lib` with its own library.

    The library is that of the Python package. Headers are in no package of onnxruntime's; another one has them along.
    They are of the API's version 17, which every later library serves.
    """
    import onnxruntime

    found = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found or not shutil.which("g++"):
        pytest.skip("needs g++, and an onnxruntime that brings libonnxruntime.so: Linux")
    folder = tmp_path_factory.mktemp("onnxruntime")
    for name in ("include", "lib"):
        (folder / name).mkdir()
    with downloaded("amd-quark==0.13") as headers:
        for name in headers.namelist():
            if "/onnxruntime-1.17.0/" in name and name.endswith(".h"):
                (folder / "include" / Path(name).name).write_bytes(headers.read(name))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(found[0])
    return folder


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, where there are no runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """What --json printed, of a command that worked."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def cvae(in_tmp, capsys, monkeypatch) -> Callable[..., Done]:
    """Run a command in an empty folder. Pictures are enlarged without smoothing, to be read pixel by pixel."""
    monkeypatch.setattr("cvae.imaging.grids.RESAMPLING", Image.Resampling.NEAREST)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main() sets these
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)

    def run(*args: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, *capsys.readouterr())

    return run


def load(data: object, **flags: Any) -> Any:
    """The data set that `--data` names."""
    from cvae.data import load_dataset

    return load_dataset(TrainConfig(data=str(data), **flags))


def refused(data: object, *words: str, kind: type[CvaeError] = UsageError, **flags: Any) -> None:
    """Loading fails with one line in which all the words are."""
    with pytest.raises(CvaeError) as caught:
        load(data, **flags)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert "\n" not in message
    for word in words:
        assert word in message


def edit_output(path: Path, name: str, op: str, value: float) -> None:
    """Change an exported file so that it computes `op` of its output and a number."""
    import numpy as np
    import onnx

    model = onnx.load(path)
    (node,) = [node for node in model.graph.node if name in node.output]
    node.output[list(node.output).index(name)] = f"{name}_before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value).reshape(()), "edit"))
    model.graph.node.append(onnx.helper.make_node(op, [f"{name}_before", "edit"], [name]))
    onnx.save(model, path)
