"""Telemetry of onnxruntime, which is disabled no matter which module or command is used first."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvae import model_zoo

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "ORT_DISABLE_TELEMETRY"

MODULES = [
    ".".join(["cvae", *path.relative_to(ROOT).with_suffix("").parts]).replace("cvae.cvae.", "cvae.")
    for folder in ("cvae", "cli", "exporters")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if re.search(r"^\s*(import|from) onnxruntime\b", path.read_text("utf-8"), flags=re.MULTILINE)
]
"""Every module of the package that imports onnxruntime directly."""

COMMANDS = {
    "generate": "generate model --digit 7 --out seven.png",
    "reconstruct": "reconstruct input.png --model model --digit 7 --out reconstruction.png",
    "interpolate": "interpolate model --digit 3 --to-label 8 --steps 2 --out steps.gif",
    "restyle": "restyle input.png --model model --digit 3 --to 7 --out restyled.png",
    "info": "info model",
    "scan": "scan model",
    "evaluate": "evaluate model --exported --data npz:set.npz --limit 2 --generated 10 --features mnist",
    "detect fit": "detect fit model --data npz:set.npz --split test",
    "detect score": "detect score input.png --model model",  # after `detect fit`, in the same folder
}

IMPORT = """
import sys
sys.modules["torch"] = None  # saves seconds: torch is slow to import, and most modules import it after onnxruntime
try:
    import {module}
except ImportError:
    if "onnxruntime" not in sys.modules:
        del sys.modules["torch"]
        import {module}
assert "onnxruntime" in sys.modules
"""

PROGRAMS = {
    **{f"cvae {name}": f"from cvae.__main__ import main; main({line.split()!r})" for name, line in COMMANDS.items()},
    **{f"import {module}": IMPORT.format(module=module) for module in MODULES},
    "cvae.load": "import cvae; cvae.load()",
    "bundled classifier": "from cvae.evaluation import feature_extractor as f; f.load_feature_extractor('mnist')",
}

RUN_PROGRAMS = """
import json, os, sys
import numpy, PIL.Image, scipy.ndimage, typer  # imported once for all children; none of them imports onnxruntime

for index, program in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.environ["HOME"] = os.path.abspath(f"home-{index}")
        output = os.open(f"output-{index}", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        exec(program)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Run each program in a new process with its own home folder, and print the exit codes."""


def python(program: str, *args: str, home: Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program without the user's settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "CVAE_"))}
    command = [sys.executable, "-c", program, *args]
    env |= {"HOME": str(home), **variables}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture(scope="module", autouse=True)
def telemetry(tmp_path_factory) -> None:
    """Skip the tests if this onnxruntime writes nothing to the home folder by default: they would prove nothing."""
    home = tmp_path_factory.mktemp("home")
    result = python("import onnxruntime", home=home, cwd=home)
    assert result.returncode == 0, result.stderr
    if not files(home):
        pytest.skip("this onnxruntime has no telemetry: it is older than 1.32, or not for Linux")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, tuple[str, str, list[str]]]:
    """Run each of `PROGRAMS`, and return its exit code, its output and the files in its home folder."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "model").mkdir()
    for path in model_zoo.models()[model_zoo.DEFAULT].glob("*.onnx"):
        (folder / "model" / path.name).symlink_to(path)
    pixels, labels = np.eye(28, dtype=np.uint8)[None].repeat(20, 0) * 255, np.arange(20) % 10
    Image.fromarray(pixels[0]).save(folder / "input.png")
    np.savez(folder / "set.npz", train=pixels, train_labels=labels, test=pixels, test_labels=labels)
    for index in range(len(PROGRAMS)):
        (folder / f"home-{index}").mkdir()
    result = python(RUN_PROGRAMS, json.dumps(list(PROGRAMS.values())), home=folder, cwd=folder)
    assert result.returncode == 0, result.stderr
    return {
        name: (code, (folder / f"output-{index}").read_text(), files(folder / f"home-{index}"))
        for index, (name, code) in enumerate(zip(PROGRAMS, result.stdout.split(), strict=True))
    }


def test_modules_that_import_onnxruntime_are_found():
    assert {"cvae.runtime.session", "cvae.evaluation.feature_extractor", "cvae.exporters.onnx.parity"} <= set(MODULES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_written_to_the_home_folder(results, name):
    code, output, files_written = results[name]
    assert code == "0", output
    assert files_written == []


def test_unwritable_home_folder_causes_no_warning(tmp_path):
    home = tmp_path / "file"
    home.touch()
    assert python("import onnxruntime", home=home, cwd=tmp_path).stderr  # otherwise this test would prove nothing
    result = python("import cvae.runtime.session", home=home, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(("setting", "expected"), [({}, "1"), ({VARIABLE: "0"}, "0"), ({VARIABLE: ""}, "")])
def test_telemetry_setting_of_the_user_is_respected(tmp_path, setting, expected):
    program = f"import os, cvae; print(os.environ[{VARIABLE!r}])"
    assert python(program, home=tmp_path, cwd=tmp_path, **setting).stdout == f"{expected}\n"


@pytest.mark.parametrize("folder", ["examples", "docs", "benchmarks", "fuzz", "model_zoo"])
def test_programs_that_import_onnxruntime_themselves_disable_telemetry(folder):
    direct = re.compile(
        r"^import onnxruntime\b|[(\"' ]onnxruntime-node[\"']\)?;|<onnxruntime_cxx_api\.h>", re.MULTILINE
    )
    suffixes = {".py", ".js", ".cpp", ".md", ".ipynb"}
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix in suffixes and "node_modules" not in path.parts and direct.search(path.read_text("utf-8")):
            assert VARIABLE in path.read_text("utf-8"), path
