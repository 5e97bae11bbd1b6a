"""Packaging: the packages on disk, the symbolic links, the wheel, and the install commands in tracked files."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import cvae

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
LINKS = ("cli", "exporters", "model_zoo")


def module_files() -> dict[str, Path]:
    """Map each Python file of the installed package to its path in the checkout. Scripts are not installed."""
    folders = {"cvae": ROOT / "cvae", **{name: ROOT / path for name, path in SETUPTOOLS["package-dir"].items()}}
    return {
        f"{name.replace('.', '/')}/{path.relative_to(folder).as_posix()}": path
        for name, folder in folders.items()
        for path in folder.rglob("*.py")
        if not any(part.is_symlink() for part in path.parents)
        and not {"__pycache__", "scripts"} & set(path.relative_to(folder).parts)
    }


def test_pyproject_lists_the_packages_on_disk():
    on_disk = {
        Path(name).parent.as_posix().replace("/", ".") for name in module_files() if name.endswith("__init__.py")
    }
    assert len(on_disk) > 8 and sorted(SETUPTOOLS["packages"]) == sorted(on_disk)


def test_every_python_file_is_in_a_package():
    folders = {Path(name).parent.as_posix().replace("/", ".") for name in module_files()}
    assert folders == set(SETUPTOOLS["packages"])


@pytest.mark.parametrize("name", LINKS)
def test_link_points_to_top_level_folder(name):
    link = ROOT / "cvae" / name
    assert link.is_symlink() and link.readlink() == Path("..") / name and (link / "__init__.py").is_file()
    assert SETUPTOOLS["package-dir"][f"cvae.{name}"] == name
    module = importlib.import_module(f"cvae.{name}")
    assert module.__file__ is not None and Path(module.__file__).resolve() == ROOT / name / "__init__.py"


def test_pyproject_reads_the_version_from_the_package():
    assert "version" not in PYPROJECT["project"] and PYPROJECT["project"]["dynamic"] == ["version"]
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "cvae.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", cvae.__version__)


def test_base_install_has_four_dependencies():
    names = {re.split("[<>=!~ ;\\[]", requirement)[0] for requirement in PYPROJECT["project"]["dependencies"]}
    assert names == {"numpy", "onnxruntime", "pillow", "typer"}


def test_every_public_name_exists():
    assert len(cvae.__all__) == len(set(cvae.__all__)) and dir(cvae) == cvae.__all__
    assert all(getattr(cvae, name) is not None for name in cvae.__all__)


# -- tracked files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            texts[name] = data.decode()
    assert "pyproject.toml" in texts and "cvae/__init__.py" in texts
    return texts


FOREIGN = re.compile(r"pip install\s+(?:-\S+\s+)*['\"]?cvae(?!-onnx)\b")
"""On PyPI, `cvae` is the package of another project."""

PERSONAL = re.compile(r"(?<![\w.$}])(?:/(?:home|Users)/(?!somebody|you\b)\w|/(?:root)/|[A-Z]:\\Users\\)")


@pytest.mark.parametrize("pattern", [FOREIGN, PERSONAL], ids=["pip install", "home"])
def test_no_file_installs_another_project_or_names_a_home_folder(texts, pattern):
    assert {name: match[0] for name, text in texts.items() if (match := pattern.search(text))} == {}


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (FOREIGN, "pip install " + "cvae", True),
        (FOREIGN, "pip install -U " + "'cvae[train]'", True),
        (FOREIGN, "pip install cvae-onnx", False),
        (FOREIGN, "pip install 'cvae-onnx[train]'", False),
        (PERSONAL, "/home/" + "anna/x", True),
        (PERSONAL, '"/Users/' + 'anna"', True),
        (PERSONAL, "https://example.org/home/" + "x", False),
    ],
)
def test_forbidden_patterns_match_their_examples(pattern, text, matches):
    assert bool(pattern.search(text)) == matches


# -- the wheel ---------------------------------------------------------------------------------------------------------


def test_wheel_contains_every_module_and_no_other_package(wheel):
    names = set(wheel.namelist())
    assert {name for name in names if name.endswith(".py")} == set(module_files())
    assert {name.partition("/")[0] for name in names} == {"cvae", f"cvae_onnx-{cvae.__version__}.dist-info"}
    for name, path in module_files().items():
        assert wheel.read(name) == path.read_bytes(), name


def test_wheel_contains_type_marker_recipes_and_page(wheel):
    paths = [*(ROOT / "model_zoo").glob("recipes/*.toml"), *(ROOT / "exporters" / "page").iterdir()]
    expected = {f"cvae/{path.relative_to(ROOT).as_posix()}" for path in paths}
    assert len(expected) >= 11
    assert {"cvae/py.typed", *expected} <= set(wheel.namelist())
    assert wheel.filename is not None and Path(wheel.filename).stat().st_size <= 20e6


def test_wheel_metadata_agrees_with_pyproject(wheel):
    folder = f"cvae_onnx-{cvae.__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("cvae-onnx", cvae.__version__)
    base = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert base == set(PYPROJECT["project"]["dependencies"])
    assert {"train", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    assert "cvae = cvae.__main__:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


@pytest.mark.integration
def test_wheel_for_gpus_differs_only_in_its_name_and_in_the_runtime_that_it_requires(wheel, gpu_wheel):
    def read(archive: zipfile.ZipFile, name: str) -> tuple[dict[str, bytes], list[str], str]:
        info = f"{name}-{cvae.__version__}.dist-info"
        files = {path: archive.read(path) for path in archive.namelist() if not path.startswith(info)}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        return files, metadata.get_all("Requires-Dist", []), metadata["Name"]

    files, requirements, _ = read(wheel, "cvae_onnx")
    gpu_files, gpu_requirements, name = read(gpu_wheel, "cvae_onnx_gpu")
    assert gpu_files == files and name == "cvae-onnx-gpu"
    replaced = [
        re.sub(r"^onnxruntime(?=>)", "onnxruntime-gpu[cuda,cudnn]", re.sub("^cvae-onnx", "cvae-onnx-gpu", requirement))
        for requirement in requirements
    ]
    assert gpu_requirements == replaced != requirements
    assert not any(re.match(r"(onnxruntime|cvae-onnx)\b(?!-gpu)", requirement) for requirement in gpu_requirements)


@pytest.mark.integration
def test_another_package_with_the_same_name_is_detected(tmp_path):
    """If both distributions are installed, our modules are next to the other project's `__init__.py`."""
    shutil.copytree(ROOT / "cvae", tmp_path / "cvae", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cvae" / "__init__.py").write_text('__version__ = "0.0.3"\n')
    result = subprocess.run([sys.executable, "-m", "cvae", "parts"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "another package named cvae" in result.stderr and "pip uninstall -y cvae cvae-onnx" in result.stderr
