"""Base install: everything except training works without the packages for training."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from cvae import model_zoo

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
TRAINING_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "safetensors", "sklearn", "accelerate", "matplotlib")
INSTALL = f"pip install '{ROOT}[train]'"

# Hide these packages from Python, as if they were not installed.
HIDE_PACKAGES = f"""
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {TRAINING_PACKAGES!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def python(program: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", HIDE_PACKAGES + program, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def cvae(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python("from cvae.__main__ import main; main()", *args, cwd=cwd)


def image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("package", TRAINING_PACKAGES)
def test_training_packages_are_hidden(package, tmp_path):
    result = python(f"import {package}", cwd=tmp_path)
    assert f"ModuleNotFoundError: No module named '{package}'" in result.stderr


@pytest.mark.parametrize("program", ["import cvae", "import cvae; dir(cvae)", "import cvae.__main__, cvae.cli"])
def test_import_loads_no_heavy_package(program, tmp_path):
    heavy = {"numpy", "onnxruntime", "PIL", *TRAINING_PACKAGES}
    result = python(f"{program}\nprint(*{heavy!r} & set(sys.modules))", cwd=tmp_path)
    assert (result.returncode, result.stdout.split(), result.stderr) == (0, [], "")


def test_runtime_imports_no_training_package_even_if_installed(trained, tmp_path):
    program = f"""if True:
        import sys, cvae
        model = cvae.load({str(trained["labels"])!r})
        model.reconstruct(model.generate(2, label=7), 7)
        print(*set({TRAINING_PACKAGES!r}) & set(sys.modules))
    """
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout.split(), result.stderr) == (0, [], "")


def test_model_generates_and_interpolates(trained, tmp_path):
    program = """
import cvae
model = cvae.load(sys.argv[1])
print(model.generate(3, label=7, seed=0).shape, model.interpolate(0, 1, 4, label="7").shape)
"""
    result = python(program, trained["labels"], cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("(3, 1, 8, 8) (4, 1, 8, 8)\n", "")


def run_every_command(run: Path, cvae) -> None:
    """Run every command of the base install with the function `cvae`, which returns its standard output."""
    report = json.loads(cvae("generate", run, "--digit", "7", "--seed", "1", "--out", "seven.png", "--json"))
    assert report["labels"] == ["7"] and report["seed"] == 1
    cvae("interpolate", run, "--digit", "3", "--to-label", "8", "--steps", "4", "--out", "steps.gif")
    cvae("reconstruct", "seven.png", "--model", run, "--digit", "7", "--out", "reconstruction.png")
    assert json.loads(cvae("info", run, "--json"))["conditions"][0]["values"] == list("0123456789")
    assert json.loads(cvae("info", run / "decoder.onnx", "--json"))["role"] == "decoder"
    assert "resnet" in json.loads(cvae("parts", "--json"))["--arch"]


def test_every_command_except_training_works(trained, tmp_path):
    notes = []

    def run(*args: object) -> str:
        result = cvae(*args, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        notes.append(result.stderr)
        return result.stdout

    run_every_command(trained["labels"], run)
    assert image_size(tmp_path / "seven.png") == (280, 280)
    assert "'seven.png' has 280x280 pixels, but the model takes 8x8 in grey" in "".join(notes)
    assert {path.name for path in tmp_path.iterdir()} == {"seven.png", "steps.gif", "reconstruction.png"}


def test_web_page_can_be_exported(trained, tmp_path):
    program = """
from cvae.exporters import onnxruntime_web
onnxruntime_web.load_files = lambda webgpu: {"ort.js": b"", "ort.wasm.gz": b""}  # avoids a download
from cvae.__main__ import main
main()
"""
    result = python(program, "export", "web", trained["labels"], cwd=tmp_path)
    assert result.returncode == 0 and (tmp_path / "web" / "index.html").is_file(), result.stderr


@pytest.mark.skipif(model_zoo.DEFAULT not in model_zoo.models(), reason="the zoo lacks its default model")
def test_default_model_comes_from_the_zoo(tmp_path):
    result = cvae("generate", "--digit", "7", "--seed", "1", "--json", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, f"zoo model: {model_zoo.DEFAULT}\n")
    assert json.loads(result.stdout)["labels"] == ["7"]
    with Image.open(tmp_path / "generated.png") as image:
        assert min(image.size) >= 280 and image.convert("L").getextrema()[1] > 200
    assert python("import cvae; print(cvae.load())", cwd=tmp_path).stdout.startswith("<cvae.Model ")


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["train", "--arch", "mlp", "--epochs", "1"], ["train", "--resume"], ["export", "onnx"]],
    ids=" ".join,
)
def test_train_and_export_commands_name_the_missing_packages(trained, tmp_path, arguments):
    shutil.copytree(trained["labels"], tmp_path / "runs" / "mine")
    before = sorted(tmp_path.rglob("*"))
    result = cvae(*arguments, cwd=tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(rf"cvae: error: .*{re.escape(INSTALL)}\n", result.stderr), result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("call", ["train(cvae.TrainConfig(), 'run')", "resume('run')", "load_model('run')"])
def test_train_function_names_the_missing_packages(tmp_path, call):
    result = python(f"import cvae; cvae.{call}", cwd=tmp_path)
    assert "MissingExtraError: " in result.stderr and result.stderr.endswith(f"{INSTALL}\n")


EXPLORE = """
import cvae, pydoc
from cvae import *
text = pydoc.render_doc(cvae, renderer=pydoc.plaintext)
for name in cvae.__all__:
    assert name in globals() and hasattr(cvae, name) and name in dir(cvae), name
    assert name == "__version__" or name in text, name
for call in (cvae.train, lambda: cvae.resume("run"), lambda: load_model("run")):
    try:
        call()
    except ImportError as error:
        print(type(error).__name__)
"""


def test_help_and_import_of_all_names_work(tmp_path):
    result = python(EXPLORE, cwd=tmp_path)
    assert (result.stdout.split(), result.stderr) == (["MissingExtraError"] * 3, "")
    assert list(tmp_path.iterdir()) == []


def test_unknown_attribute_raises_attribute_error(tmp_path):
    result = python("import cvae; print(hasattr(cvae, 'trian'))", cwd=tmp_path)
    assert result.stdout == "False\n"


@pytest.mark.slow
def test_base_install_runs_every_command(trained, tmp_path):
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    checkout = shutil.copytree(ROOT, tmp_path / "checkout", ignore=ignored, symlinks=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    folder = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [folder / "python", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", checkout], check=True)
    installed = json.loads(subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True).stdout)
    names = {package["name"] for package in installed}
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert names >= {"cvae-onnx", *(re.split("[<>=]", requirement)[0] for requirement in required)}
    assert not names & {*TRAINING_PACKAGES, "scikit-learn"}
    work = tmp_path / "work"
    work.mkdir()

    def run(*args: object) -> str:
        result = subprocess.run([folder / "cvae", *map(str, args)], cwd=work, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run_every_command(trained["labels"], run)
    explored = subprocess.run([folder / "python", "-c", EXPLORE], cwd=work, capture_output=True, text=True)
    assert (explored.stdout.split(), explored.stderr) == (["MissingExtraError"] * 3, "")
    for name in model_zoo.models():
        run("generate", name, "--seed", "1", "--out", f"{name}.png")
        run("reconstruct", f"{name}.png", "--model", name, "--out", "reconstruction.png")
    result = subprocess.run([folder / "cvae", "train"], cwd=work, capture_output=True, text=True)
    fix = f"pip install '{checkout}[train]'"
    assert result.returncode == 1 and fix in result.stderr and result.stderr.count("\n") == 1


def test_exported_files_can_be_evaluated(tmp_path):
    """The data set is an .npz file."""
    folder = tmp_path / "model"
    shutil.copytree(model_zoo.models()[model_zoo.DEFAULT], folder)
    program = """if True:
        import sys
        import numpy as np
        labels = np.arange(20) % 10
        train, test = np.zeros((20, 28, 28), np.uint8), np.eye(28, dtype=bool)[None].repeat(20, 0)
        np.savez("set.npz", train=train, train_labels=labels, test=test, test_labels=labels)
        from cvae.__main__ import main
        main()
    """
    result = python(
        program, "evaluate", folder / "decoder.onnx", "--data", "npz:set.npz", "--binarize", "none", "--samples", 2,
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["backend"].startswith("onnxruntime") and report["protocol"]["images"] == 20
    assert report["importance_weighted"]["nats"] > 100  # a diagonal is not a digit


def test_anomalies_can_be_detected(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_zoo.models()[model_zoo.DEFAULT], folder)
    program = """if True:
        import numpy as np
        import cvae
        normal = cvae.load().generate(20, seed=0)
        np.save("normal.npy", (255 * normal[:, 0]).astype(np.uint8))
        from cvae import imaging
        for i in range(2):
            imaging.save(imaging.to_pil(1 - i - (1 - 2 * i) * normal[i]), f"{i}.png")  # a negative and a normal image
        from cvae.__main__ import main
        main()
    """
    result = python(program, "detect", "fit", folder, "--data", "npz:normal.npy", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    result = python(
        program, "detect", "score", "0.png", "1.png", "--model", folder, "--by", "bound", "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert [row["verdict"] for row in json.loads(result.stdout)["images"]] == ["anomaly", "normal"]
