"""Commands and programs in the documents, run as written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import code_blocks
from PIL import Image

from cvae.api.train_config import DEFAULTS
from cvae.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
DOCUMENTS = [ROOT / "README.md", *EXAMPLES, *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*DOCUMENTS, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
GALLERY = ROOT / "docs" / "gallery.md"
"""Page whose commands test_gallery.py runs."""
CONTINUOUS = (ROOT / "docs" / "python.md", ROOT / "docs" / "generate.md")
"""Pages on which each program continues the one before it."""
GUIDES = (ROOT / "docs" / "conditions.md",)
"""Pages whose programs and commands build on each other, so they run in order."""

INSTALL_COMMANDS = re.compile(r"^(CVAE_ONNX_GPU=1 )?(pip install|make) ")
"""Pattern of the commands that slow tests and CI run in a separate environment."""

OTHER_RUNTIMES = re.compile(r"^(npm|node|cd examples/node|cvae export web|python -m http\.server) ?")
"""Pattern of the commands that need npm or a browser. test_node.py and test_web_page.py run them."""


def commands(path: Path) -> list[str]:
    """Return the commands of a page; for a guide, also its programs."""
    languages = "bash|python" if path in GUIDES else "bash"
    lines: list[str] = []
    for language, block in re.findall(rf"```({languages})\n(.*?)```", path.read_text(), flags=re.DOTALL):
        lines += [shlex.join(["python", "-c", block])] if language == "python" else block.splitlines()
    return [line for line in lines if line and not INSTALL_COMMANDS.match(line) and not OTHER_RUNTIMES.match(line)]


NUMBER = re.compile(r"-?\d[\d,.]*(e-\d+)?")


def shown_outputs(path: Path) -> dict[str, list[str]]:
    """Return the output lines that a document shows below each command, without lines of "..."."""
    pairs = re.findall(r"```bash\n([^\n]*)\n```\n+```text\n(.*?)```", path.read_text(), flags=re.DOTALL)
    return {command: [line for line in output.splitlines() if line != "..."] for command, output in pairs}


def normalize(line: str) -> str:
    """Replace everything in a line of output that depends on the machine, the seed or the number of epochs."""
    line = re.sub(r"\b(bf16|fp32)\b", "PRECISION", line)  # before the numbers, because it contains one
    line = NUMBER.sub("#", line).replace("# epochs of", "# epoch of")
    return " ".join(line.replace(" * ", " ").split())


def use_default_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the default data set, which conftest.py replaces with a smaller one."""
    data = TrainConfig.data
    monkeypatch.setitem(TrainConfig.__init__.__kwdefaults__, "data", data)
    monkeypatch.setitem(DEFAULTS, "data", data)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Make a folder with photos and a small stand-in for MNIST, and return the environment for commands."""
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            noise = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "photos" / name / f"{i}.png")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in {"train": 300, "t10k": 50}.items():
        images = np.random.default_rng(0).integers(0, 255, (count, 28, 28), dtype=np.uint8)
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], ">i4").tobytes() + labels.tobytes())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    packages = (
        f"{tmp_path / 'site'}{os.pathsep}{ROOT}"  # the plug-in and this checkout, instead of an installed package
    )
    return {**os.environ, "PATH": path, "CVAE_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": packages}


@pytest.mark.integration
@pytest.mark.parametrize(
    "document",
    [
        page if page.name == "README.md" and page.parent == ROOT else pytest.param(page, marks=pytest.mark.slow)
        for page in DOCUMENTS
        if page != GALLERY
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_command_in_the_documents_works(document, home, tmp_path, cvae, monkeypatch):
    """The commands run in this process, to save the import of torch; those of the plug-in run in new processes."""
    monkeypatch.setenv("CVAE_DATA_DIR", home["CVAE_DATA_DIR"])
    monkeypatch.setattr("cvae.evaluation.run_scorer.classifier.MIN_STEPS", 20)
    use_default_data_set(monkeypatch)
    if "plugin" in str(document):
        install = ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", "site", document.parent]
        subprocess.run([sys.executable, "-m", *map(str, install)], cwd=tmp_path, check=True)
    outputs = shown_outputs(document)
    assert len(outputs) == {ROOT / "README.md": 2, ROOT / "docs" / "training.md": 1}.get(document, 0)
    for command in commands(document):
        # The documented runs take minutes, so train for two epochs on few images, and search with two trials.
        trains = command.startswith(("cvae train", "cvae tune")) and "--resume" not in command
        short_command = command + " --limit 500" * trains
        if trains and "--epochs" not in command:
            short_command += " --minutes 0.02" if "--minutes" in command else " --epochs 2"
        short_command += " --trials 2" * command.startswith("cvae tune")
        if "plugin" in str(document) or not command.startswith("cvae "):
            result = subprocess.run(short_command, shell=True, cwd=tmp_path, env=home, capture_output=True, text=True)
            assert result.returncode == 0, f"{command}\n{result.stderr}"
        else:
            result = cvae(*shlex.split(short_command)[1:])
            assert result.code == 0, f"{command}\n{result.err}"
            lines = {normalize(line) for line in (result.out + result.err).splitlines()}
            expected = outputs.get(command, [])[: 1 if command == "cvae runs" else None]  # the runs here are others
            assert {normalize(line) for line in expected} <= lines, command
        if out := re.search(r"--out (\S+\.(?:png|gif))", command):
            with Image.open(tmp_path / out[1]) as image:
                assert np.asarray(image.convert("L")).std() > 2, f"{command}: the image is blank"


@pytest.mark.slow
@pytest.mark.integration
def test_every_program_in_the_documents_works(home, tmp_path):
    for document in DOCUMENTS:
        if document in GUIDES:
            continue
        programs = code_blocks(document.read_text(), "python")
        for program in ["\n".join(programs)] if document in CONTINUOUS else programs:
            result = subprocess.run(
                [sys.executable, "-c", program], cwd=tmp_path, env=home, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_images_of_the_documents_exist(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_every_recipe_is_valid_and_names_existing_parts():
    from cvae import model_zoo
    from cvae.recipes import read_recipe
    from cvae.registry import ARCHITECTURES, DATASETS
    from cvae.serialization import from_dict

    assert len(model_zoo.recipes()) >= 2
    for name, path in model_zoo.recipes().items():
        config = from_dict(TrainConfig, read_recipe(path), name)
        assert config.arch in ARCHITECTURES and config.data.partition(":")[0] in DATASETS
