"""Container of the FastAPI example, tested without Docker: its commands work, and the documents agree with it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import code_blocks, free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "fastapi"
DOCKERFILE = (EXAMPLE / "Dockerfile").read_text()
COMMANDS = [
    line
    for block in code_blocks((ROOT / "docs" / "embedding.md").read_text("utf-8"), "console")
    for line in block.splitlines()
    if line.startswith("docker ")
]


def read_instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each with its arguments on one line."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [(name, arguments) for name, _, arguments in (line.partition(" ") for line in text.splitlines() if line)]


INSTRUCTIONS = read_instructions()
ARGUMENTS = dict(INSTRUCTIONS)
"""Name of an instruction -> arguments of the last instruction with this name."""

INSTALL = INSTRUCTIONS[1][1]
START = json.loads(ARGUMENTS["CMD"])
CHECK = json.loads(ARGUMENTS["HEALTHCHECK"].partition(" CMD ")[2])


def test_service_runs_as_a_user_without_privileges():
    names = [name for name, _ in INSTRUCTIONS]
    assert names == ["FROM", "RUN", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "CMD"]
    assert ARGUMENTS["RUN"].startswith(f"useradd --uid {ARGUMENTS['USER']} ") and ARGUMENTS["USER"] != "0"


def test_container_uses_versions_that_the_package_is_tested_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = ARGUMENTS["FROM"].removeprefix("python:").removesuffix("-slim")
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
    requirements = re.findall(r"'(.*?)'", INSTALL)
    assert len(requirements) == 2 and set(requirements) <= set(project["optional-dependencies"]["dev"])


def test_dockerfile_and_documents_agree():
    build, run, run_model = COMMANDS
    assert build == "docker build --file examples/fastapi/Dockerfile --tag cvae-service ." and build in DOCKERFILE
    assert run == "docker run --rm --publish 8000:8000 cvae-service"
    assert run_model.startswith(run.removesuffix(" cvae-service")) and run_model.endswith(" cvae-service")
    assert ":/model:ro" in run_model and " --env CVAE_MODEL=/model " in run_model
    assert 'environ.get("CVAE_MODEL")' in (EXAMPLE / "app.py").read_text()
    assert START[-2:] == ["--port", ARGUMENTS["EXPOSE"]] == ["--port", "8000"]


def copy_context(target: Path) -> None:
    """Copy the files of this checkout that Docker sends to the build."""
    lines = (EXAMPLE / "Dockerfile.dockerignore").read_text().splitlines()
    comment, everything, *patterns = lines
    assert comment.startswith("#") and everything == "*"
    ignored = [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    included = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    assert len(ignored) + len(included) == len(patterns)
    for name in included:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=shutil.ignore_patterns(*ignored))
        else:
            shutil.copy(ROOT / name, target / name)


def test_build_context_contains_every_file_that_the_package_needs(wheel, tmp_path):
    copy_context(tmp_path)
    needed = {name for name in wheel.namelist() if name.startswith("cvae/")}
    needed |= {"pyproject.toml", "setup.py", "README.md", "LICENSE", *ARGUMENTS["COPY"].split()[:-1]}
    assert sorted(name for name in needed if not (tmp_path / name).is_file()) == []
    assert "--mount=type=bind,target=/source,rw pip install " in INSTALL and " /source " in INSTALL


@pytest.mark.integration
def test_container_is_healthy_while_the_service_runs():
    """The commands are those of the container, except for the address."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    port = free_port()
    start, check = (
        [word.replace("8000", port).replace("0.0.0.0", "127.0.0.1") for word in command] for command in (START, CHECK)
    )
    start, check[0] = [sys.executable, "-m", *start], sys.executable
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(start, cwd=EXAMPLE, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/docs", server)
            assert subprocess.run(check).returncode == 0
        finally:
            server.terminate()
    assert subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 1
