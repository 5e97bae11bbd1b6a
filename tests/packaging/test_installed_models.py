"""Zoo models in an installed package: they are complete, small, and close to those in the repository."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import SHARED, needs_mnist

import cvae
from cvae import model_zoo
from cvae.runtime.session import read_spec

ROOT = Path(__file__).resolve().parents[2]
MODELS = ["mnist-ladder", "mnist-resnet-conditional", "mnist-resnet-flow"]
EXPORTED = ("decoder.onnx", "encoder.onnx")
for_each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Extract the wheel, and return the folder. In this folder, `python -m cvae` runs the installed package."""
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


def run_installed(installed: Path, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cvae", *map(str, args)]
    return subprocess.run(command, cwd=installed, capture_output=True, text=True)


def read_weights(path: Path) -> dict[str, onnx.TensorProto]:
    return {weight.name: weight for weight in onnx.load(path).graph.initializer}


def test_wheel_contains_all_files_of_mnist_models_except_weights_for_torch(wheel):
    names = set(wheel.namelist())
    for name in MODELS:
        listed = {path.name for path in model_zoo.model(name).iterdir()} - {"model.safetensors"}
        prefix = f"cvae/model_zoo/{name}/"
        assert {entry.removeprefix(prefix) for entry in names if entry.startswith(prefix)} == listed >= set(EXPORTED)


def test_exported_files_in_the_wheel_take_at_most_17_mb(wheel):
    sizes = {entry.filename: entry.file_size for entry in wheel.infolist() if "/model_zoo/" in entry.filename}
    assert 2 * len(MODELS) <= sum(name.endswith(".onnx") for name in sizes)
    assert sum(size for name, size in sizes.items() if name.endswith(".onnx")) <= 17e6


@for_each_model
@pytest.mark.parametrize("file", EXPORTED)
def test_only_large_weights_of_installed_model_are_rounded_to_16_bits(installed, name, file):
    source, target = model_zoo.model(name) / file, installed / "cvae" / "model_zoo" / name / file
    full, half = read_weights(source), read_weights(target)
    assert len(half) == len(full)
    is_halved = {key: f"{key}.half" in half for key in full}
    assert all(is_halved[key] == (math.prod(weight.dims) >= 20_000) for key, weight in full.items())
    for key, weight in full.items():
        expected = onnx.numpy_helper.to_array(weight)
        if is_halved[key]:
            expected = expected.astype(np.float16)
        actual = onnx.numpy_helper.to_array(half[f"{key}.half" if is_halved[key] else key])
        assert actual.dtype == expected.dtype and np.array_equal(actual, expected), key
    nodes, halved_nodes = onnx.load(source).graph.node, onnx.load(target).graph.node
    casts = [node for node in halved_nodes if node.input[0].endswith(".half")]
    assert list(halved_nodes) == [*casts, *nodes] and len(casts) == sum(is_halved.values()) > 0
    assert {node.op_type for node in casts} == {"Cast"}


@for_each_model
@pytest.mark.parametrize("file", EXPORTED)
def test_spec_of_installed_model_differs_from_the_zoo_only_in_the_agreement(installed, name, file):
    path = model_zoo.model(name) / file
    spec, target_spec = (read_spec(folder / file)[0] for folder in (path.parent, installed / "cvae/model_zoo" / name))
    assert target_spec.agreement == {"weights": "float16"}
    assert vars(target_spec) == {**vars(spec), "agreement": target_spec.agreement}


@for_each_model
def test_outputs_of_installed_model_agree_with_those_of_the_zoo(installed, name):
    full, half = cvae.load(name), cvae.load(installed / "cvae" / "model_zoo" / name)
    images, halved_images = (model.generate(100, seed=0) for model in (full, half))
    labels = None if full.spec.classes is None else np.arange(100) % len(full.spec.classes)
    codes, halved_codes = (model.encode(images, label_index=labels) for model in (full, half))
    for expected, actual in [(images, halved_images), *zip(codes, halved_codes, strict=True)]:
        assert 0 < np.abs(actual - expected).max() <= 2e-3


@pytest.mark.slow
@needs_mnist
def test_bounds_of_installed_models_agree_with_those_of_the_zoo():
    """The bounds are averages over all test images, because the bound of a single image changes by up to 1 nat."""
    command = [sys.executable, ROOT / "benchmarks" / "installed_models.py", "--data-dir", SHARED, "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert set(report) >= set(MODELS)
    for row in report.values():
        assert max(row["pixel_difference"], row["mean_difference"], row["std_difference"]) <= 2e-3
        assert abs(row["bound_difference"]) <= 0.02


def test_commands_accept_an_installed_model(installed):
    generated = run_installed(installed, "generate", "mnist-ladder", "--seed", 1, "--out", "digit.png", "--json")
    assert json.loads(generated.stdout)["model"] == "mnist-ladder", generated.stderr
    info = json.loads(run_installed(installed, "info", "mnist-ladder", "--json").stdout)
    assert Path(info["run"]).is_relative_to(installed) and set(EXPORTED) <= set(info["files"])
    arguments = ["digit.png", "--model", "mnist-ladder", "--out", "reconstruction.png"]
    reconstructed = run_installed(installed, "reconstruct", *arguments)
    assert reconstructed.returncode == 0 and (installed / "reconstruction.png").is_file(), reconstructed.stderr


@pytest.fixture
def large_model(installed):
    """Add a model whose exported files are not in the package, and return its name."""
    (folder := installed / "cvae" / "model_zoo" / "cars").mkdir()
    for name in ("config.json", "evaluation.json", "README.md"):
        (folder / name).write_bytes((installed / "cvae" / "model_zoo" / MODELS[0] / name).read_bytes())
    yield folder.name
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("command", ["generate {}", "zoo copy {}", "evaluate {}"])
def test_error_for_large_model_names_its_folder_in_the_repository(installed, large_model, command):
    result = run_installed(installed, *command.format(large_model).split())
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "'cars' is too large for the installed package" in result.stderr and "model_zoo/cars" in result.stderr


def test_zoo_commands_list_and_show_large_models(installed, large_model):
    listed = json.loads(run_installed(installed, "zoo", "list", "--json").stdout)["models"]
    assert {name for name, model in listed.items() if model["installed"]} == set(MODELS)
    assert "(not installed: model_zoo/cars in the repository)" in run_installed(installed, "zoo", "list").stdout
    assert run_installed(installed, "zoo", "show", large_model).stdout.startswith("---")
