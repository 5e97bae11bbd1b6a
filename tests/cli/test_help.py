"""Help, version, and the alias `cvae archs`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import noise, run_torch
from PIL import Image

import cvae as package
from cvae.cli import make_app
from cvae.config import SHORT_FLAGS, TrainConfig
from cvae.data_config import GROUPS
from cvae.flags import flags_of

app = make_app()
COMMANDS = [c.callback.__name__ for c in app.registered_commands if c.callback and not c.hidden]
SUBCOMMANDS = [["export", "onnx"]] + [
    [str(group.name), command.name or command.callback.__name__]
    for group in app.registered_groups
    if group.typer_instance
    for command in group.typer_instance.registered_commands
    if command.callback
]


def test_app_has_every_documented_command():
    documented = "train tune evaluate generate interpolate reconstruct restyle info parts runs export"
    assert set(documented.split()) <= set(COMMANDS)


def sections(text: str) -> dict[str, str]:
    """Return the text of each section of a help page, by the heading of the section."""
    parts = re.split(r"\n\n([A-Z][\w ]*):\n", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + SUBCOMMANDS, ids=" ".join)
def test_help_of_every_command_has_sections_and_examples(cvae, command):
    result = cvae(*command, "--help")
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80 and "\x1b" not in result.out
    groups = sections(result.out)
    examples = groups.pop("Examples", "") or groups.pop("Example")
    assert all(re.match(rf"  cvae {' '.join(command)}\b", line) for line in examples.splitlines())
    assert "--json" in groups["Output"] and not re.search(r"\w\.\.\.( |$)", result.out.partition("\n")[2], re.MULTILINE)
    assert [heading for heading, text in groups.items() if "  --device " in text] in ([], ["Hardware"])


def test_short_help_flag_prints_the_same_help(cvae):
    assert cvae("info", "-h") == cvae("info", "--help")


def test_main_help_lists_every_command(cvae):
    for arguments, code in (["--help"], 0), ([], 2):
        result = cvae(*arguments)
        assert result.code == code
        text = result.out + result.err
        assert all(re.search(rf"^  {name}  +\S", text, flags=re.MULTILINE) for name in COMMANDS)
        assert re.findall(r"^(\w+):$", text, flags=re.MULTILINE) == [
            "Train", "Use", "Inspect", "Share", "Options", "Examples",
        ]  # fmt: skip
        assert max(map(len, text.splitlines())) <= 80 and not re.search(r"\w\.\.\.$", text, re.MULTILINE)


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
        # The image is enlarged smoothly, because the fixture `cvae` turns smoothing off only in this process.
        assert np.abs(np.asarray(file).astype(int) - np.asarray(large)).max() <= 2
    result = run("generate", trained["labels"], "--digit", 12)
    assert result.returncode == 2 and result.stdout == "" and re.fullmatch(r"cvae: error: .*'12'.*\n", result.stderr)


def test_options_of_train_are_in_groups(cvae):
    groups = sections(cvae("train", "--help").out)
    assert list(groups) == ["Options", *GROUPS, "Examples"]
    for name, spec in {**flags_of(TrainConfig), **SHORT_FLAGS}.items():
        assert f"  {spec.spelling(name)} " in groups[spec.group], name
    assert "--set " in groups["Model"] and "--out " in groups["Output"] and "--recipe " in groups["Options"]


def test_defaults_are_shown_in_a_uniform_format(cvae):
    text = " ".join(cvae("generate", "--help").out.split())
    for end in ("varied images. [default: 1]", "[default: cpu]", "[default: generated.png]", "noise. [default: random"):
        assert end in text
    assert "Number of images" in text and "x>=" not in text
    text = " ".join(cvae("train", "--help").out.split())
    assert "probability 1/2. [default: no-flip]" in text and "Learning rate. [default: 0.005]" in text
    assert "[default: 12; 0.1 to 50]" in " ".join(cvae("interpolate", "--help").out.split())


def test_export_help_groups_the_options_by_exporter(cvae):
    assert {"Options of onnx", "Options of triton", "Options of web and triton"} < sections(
        cvae("export", "--help").out
    ).keys()
    groups = sections(cvae("export", "triton", "--help").out)
    assert "Options of onnx" not in groups and "--encoder" in groups["Options of triton"]
    assert "--out" in groups["Options of web and triton"]


def test_archs_is_hidden_alias_of_parts(cvae):
    assert cvae("archs") == cvae("parts")
    assert not re.search(r"^  archs\b", cvae("--help").out, flags=re.MULTILINE)
