"""Pickling of models, also to pass them to other processes."""

import copy
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cvae
from cvae import model_zoo
from cvae.errors import CvaeError
from cvae.run import DECODER


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(model_zoo.models()[model_zoo.DEFAULT], tmp_path / "model"))


def test_pickled_model_is_loaded_from_its_path_with_its_options(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = cvae.load("model", threads=1)
    data = pickle.dumps(model)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    for other in (pickle.loads(data), copy.deepcopy(model)):
        assert other._options == model._options and other.spec == model.spec
        assert np.array_equal(other.generate(2, label=7, seed=1), model.generate(2, label=7, seed=1))


def test_changed_file_is_reported_in_one_line(folder):
    model = cvae.load(folder)
    data = pickle.dumps(model)
    shutil.copyfile(model_zoo.models()["mnist-ladder"] / DECODER, folder / DECODER)
    with pytest.raises(
        CvaeError, match=r"^'.*decoder.onnx' has changed since the model was pickled; load it again .*$"
    ):
        pickle.loads(data)
    with pytest.raises(CvaeError, match=r"^'.*decoder.onnx' has changed since the model was loaded; load it again .*$"):
        pickle.dumps(model)
    (folder / DECODER).unlink()
    with pytest.raises(CvaeError, match=r"has no decoder.onnx"):
        pickle.loads(data)


@pytest.mark.integration
def test_spawned_workers_can_use_the_model():
    model = cvae.load(threads=1)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(model.generate, [2, 3], [7, 4], [1, 2]))
    for images, n, label, seed in zip(results, (2, 3), (7, 4), (1, 2), strict=True):
        assert np.allclose(images, model.generate(n, label=label, seed=seed), atol=1e-6)
        assert images.labels == [str(label)] * n and images.seed == seed
