"""PyInstaller: the files and modules that our hook collects, and an app that is built with the hook."""

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from helpers import code_blocks

import cvae
from cvae import imaging, model_zoo, registry
from cvae.evaluation.feature_extractor import load_feature_extractor
from cvae.run import CONFIG, DECODER, ENCODER

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGE = (ROOT / "docs" / "embedding.md").read_text("utf-8")

BASE_PACKAGES = {"cvae", "numpy", "onnxruntime", "PIL"}
INCLUDED_EXTRAS = {"pillow_heif"}
"""Packages that an app contains if they are installed."""


@pytest.fixture(scope="module")
def hook() -> dict[str, Any]:
    """Find and run the hook as PyInstaller does, and return its global variables."""
    (name, target), *others = PYPROJECT["project"]["entry-points"]["pyinstaller40"].items()
    assert name == "hook-dirs" and others == []
    (folder,) = metadata.EntryPoint(name, target, "pyinstaller40").load()()
    return runpy.run_path(str(Path(folder) / "hook-cvae.py"))


def test_hook_collects_the_default_model(hook):
    collected = {f"{folder}/{Path(path).name}": Path(path) for path, folder in hook["datas"]}
    for name in (CONFIG, DECODER, ENCODER):
        path = collected[f"cvae/model_zoo/{model_zoo.DEFAULT}/{name}"]
        assert path.samefile(model_zoo.model(model_zoo.DEFAULT) / name)
    assert not any(name.endswith((".py", ".pyc", "model.safetensors")) for name in collected)


def test_hook_collects_the_data_files_of_the_wheel(hook, wheel):
    collected = {f"{folder}/{Path(path).name}" for path, folder in hook["datas"]}
    expected = {name for name in wheel.namelist() if name.startswith("cvae/") and not name.endswith(".py")}
    assert len(expected) > 30 and expected <= collected


def test_hook_collects_the_modules_that_cvae_imports_by_name(hook):
    registries = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
    parts = {builtin.target.partition(":")[0] for entry in registries for builtin in entry._builtin.values()}
    modules = hook["hiddenimports"]
    assert len(modules) == len(set(modules)) and {*cvae._MODULES.values(), *parts} <= set(modules)
    assert not any(name.startswith(("cvae.cli", "cvae.__")) for name in modules)
    for name in modules:
        path = ROOT.joinpath(*name.split("."))
        assert (path / "__init__.py").is_file() or path.with_suffix(".py").is_file(), name


def test_hook_excludes_the_packages_of_the_extras(hook):
    imported = set()
    for name in hook["hiddenimports"]:
        path = ROOT.joinpath(*name.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                imported.add(node.module.partition(".")[0])
    packages = imported - sys.stdlib_module_names
    assert BASE_PACKAGES | {"torch"} <= packages
    assert packages - BASE_PACKAGES - INCLUDED_EXTRAS <= set(hook["excludedimports"])


# -- an app ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """Install the wheel and PyInstaller into a new environment, and return the folder of its programs.

    The environment also has an empty module called torch, which no app may contain.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    command = [programs / "python", "-m", "pip", "install", "--quiet", "pyinstaller>=6", wheel.filename]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"PyInstaller can't be installed: {result.stderr.strip().splitlines()[-1]}")
    (packages,) = folder.glob("**/site-packages")
    (packages / "torch.py").touch()
    return programs


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pyinstaller app.py", "pyinstaller --onefile app.py"])
def test_app_generates_a_seven_without_python(programs, command, tmp_path):
    """Build the app as docs/embedding.md describes, and run it in another folder."""
    program, *_ = code_blocks(PAGE, "python")
    assert command in "".join(code_blocks(PAGE, "console")).splitlines()
    assert "torch" not in program and program.count("\n") == 3
    (tmp_path / "app.py").write_text(program)
    build = [programs / "python", "-m", "PyInstaller", *command.split()[1:]]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(build, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (contents,) = (tmp_path / "build" / "app").glob("PYZ-*.toc")
    modules = set(re.findall(r"\('([\w.]+)'", contents.read_text()))
    assert {"cvae.runtime.model", "cvae.engine.trainer"} <= modules and "torch" not in modules
    (home := tmp_path / "home").mkdir()
    app = tmp_path / "dist" / "app"
    executable = app / "app" if app.is_dir() else app
    assert app.is_dir() == ("--onefile" not in command)
    result = subprocess.run([executable], cwd=home, env={"HOME": str(home)}, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert [path.name for path in home.iterdir()] == ["seven.png"]
    digit = imaging.read(home / "seven.png", (1, 28, 28))
    assert load_feature_extractor("mnist").predict(digit[None]) == [7]
