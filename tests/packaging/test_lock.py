"""Locked packages of the workflows: `.ci/*.txt` has the hashes of all files that pip may install."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
BUILD = PYPROJECT["build-system"]["requires"]
TOOLS = [line for line in (ROOT / ".ci" / "tools.in").read_text().splitlines() if not line.startswith("#")]

REQUIREMENTS = {
    "base": PROJECT["dependencies"],
    "dev": [*PROJECT["dependencies"], *EXTRAS, *BUILD],
    "tools": [*TOOLS, *BUILD],
}
"""Requirements that each lock must fulfil."""

PIN = re.compile(
    r"(?P<name>[\w.-]+)==(?P<version>[\w.]+)(?: ; [^\\\n]+)?"  # a marker may follow
    r"(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
)


def read(name: str) -> str:
    return (ROOT / ".ci" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_locked_package_has_a_version_and_hashes(name: str) -> None:
    """There is nothing else in the file, such as the address of an index."""
    assert PIN.sub("", read(name)) == ""


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_lock_fulfils_the_requirements(name: str) -> None:
    """If this test fails, run `make lock`."""
    versions: dict[str, list[str]] = {}
    for pin in PIN.finditer(read(name)):
        versions.setdefault(canonicalize_name(pin["name"]), []).append(pin["version"])
    for requirement in map(Requirement, REQUIREMENTS[name]):
        if requirement.name != PROJECT["name"]:  # an extra that contains another one
            pins = versions.get(canonicalize_name(requirement.name))
            assert pins and all(map(requirement.specifier.contains, pins)), requirement


def test_workflows_install_only_locked_packages() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text("utf-8")
        installs = re.findall(r".*\b(?:pip install|pipx|uvx|uv tool)\b.*", text)
        assert all("--require-hashes" in line or "--no-deps dist/cvae_onnx-*.whl" in line for line in installs), path
        if re.search(r"\.ci/run|\bmake\b", text):
            assert "\nenv:\n  LOCKED: 1 " in text
