"""Workflows of GitHub: permissions, and actions that are pinned by hash."""

import re
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash(path):
    """A tag can be moved to other code. The comment tells Dependabot the version."""
    uses = re.findall(r"^.*\buses:(.*)$", path.read_text("utf-8"), re.MULTILINE)
    assert uses
    for action in uses:
        assert re.fullmatch(r" [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_an_action_has_the_same_hash_everywhere():
    text = "".join(path.read_text("utf-8") for path in WORKFLOWS)
    pins = set(re.findall(r"uses: ([\w.-]+/[\w.-]+)@(.*)", text))
    assert len({action for action, _ in pins}) == len(pins)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_may_only_read(path):
    assert "\npermissions:\n  contents: read\n" in path.read_text("utf-8")
    assert "pull_request_target" not in path.read_text("utf-8")


def test_release_builds_the_wheels_for_cpus_and_for_gpus():
    (release,) = [path.read_text("utf-8") for path in WORKFLOWS if path.stem == "release"]
    assert "run: python -m build --no-isolation\n" in release
    assert "run: CVAE_ONNX_GPU=1 python -m build --no-isolation --wheel" in release
    assert "pip install --no-deps dist/cvae_onnx-*.whl" in release  # not both wheels, which contain the same files
