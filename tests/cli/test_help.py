"""Help, version and the list of parts."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import noise, run_torch
from PIL import Image

import cvae as package
from cvae import registry
from cvae.cli import app

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
SUBCOMMANDS = [["export", "onnx"]] + [
    [str(group.name), command.name or command.callback.__name__]
    for group in app.registered_groups
    if group.typer_instance
    for command in group.typer_instance.registered_commands
    if command.callback
]


def test_app_has_every_documented_command():
    documented = "train tune evaluate generate interpolate reconstruct restyle info parts export"
    assert set(documented.split()) <= set(COMMANDS)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + SUBCOMMANDS, ids=" ".join)
def test_help_of_every_command_has_an_example(cvae, command, flag):
    result = cvae(*command, flag)
    assert (result.code, result.err) == (0, "")
    assert re.search(r"Example: cvae \w+", result.out)


def test_main_help_lists_every_command(cvae):
    for arguments, code in (["--help"], 0), ([], 2):
        result = cvae(*arguments)
        assert result.code == code
        assert all(re.search(rf"^  {name}  +\S", result.out + result.err, flags=re.MULTILINE) for name in COMMANDS)


def test_version_flag_prints_version(cvae):
    assert cvae("--version") == (0, f"cvae-onnx {package.__version__}\n", "")


@pytest.mark.parametrize("start", [["-m", "cvae"], None], ids=["python -m cvae", "cvae"])
def test_cvae_runs_as_module_and_as_script(trained, tmp_path, start):
    script = Path(sys.executable).with_name("cvae")
    command = [script] if start is None else [sys.executable, "-W", "error", *start]

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *map(str, args)], cwd=tmp_path, capture_output=True, text=True)

    result = run("generate", trained["labels"], "--digit", 7, "--seed", 1, "--out", "seven.png")
    assert (result.returncode, result.stdout, result.stderr) == (0, "seven.png (1 image, seed 1)\n", "")
    image = run_torch(trained["labels"], "decode", noise(1, 1), [7])[0, 0]
    large = Image.fromarray(np.rint(image * 255).astype(np.uint8)).resize((280, 280), Image.Resampling.LANCZOS)
    with Image.open(tmp_path / "seven.png") as file:
        # Enlarging is smooth here, because the fixture `cvae` patches only its own process.
        assert np.abs(np.asarray(file).astype(int) - np.asarray(large)).max() <= 2
    result = run("generate", trained["labels"], "--digit", 12)
    assert result.returncode == 2 and result.stdout == "" and re.fullmatch(r"cvae: error: .*'12'.*\n", result.stderr)


def test_parts_lists_every_part(cvae):
    report = cvae("parts", "--json").json
    registries = {value for value in vars(registry).values() if isinstance(value, registry.Registry)}
    assert sorted(map(sorted, report.values())) == sorted(map(sorted, registries))
    text = cvae("parts").out
    assert all(re.search(rf"^  {name} +\S", text, flags=re.MULTILINE) for names in report.values() for name in names)


def test_archs_is_hidden_alias_of_parts(cvae):
    assert cvae("archs") == cvae("parts")
    assert not re.search(r"^  archs\b", cvae("--help").out, flags=re.MULTILINE)
