"""Error messages: the command that installs an extra."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from cvae import errors
from cvae.errors import MissingExtraError, gpu_install_commands, install_command

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def install_from(tmp_path, monkeypatch):
    """Return a function that makes cvae look like a package that pip installed from the source in direct_url.json."""
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "cvae" / "errors.py"))
    monkeypatch.chdir(tmp_path)

    def install(direct_url: str | None, name: str = "cvae-onnx") -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        if direct_url is not None:
            (folder / "direct_url.json").write_text(direct_url)

        monkeypatch.syspath_prepend(tmp_path)  # before the folder of the real installation

    return install


def test_install_command_in_a_checkout_names_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert install_command("train") == "pip install '.[train]'"
    monkeypatch.chdir(tmp_path)
    assert str(MissingExtraError("cvae train")).endswith(f" not installed: pip install '{ROOT}[train]'")


def test_install_command_names_the_source_of_the_installation(install_from, tmp_path):
    wheel = tmp_path / "my files" / "cvae_onnx-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    install_from(json.dumps({"url": wheel.as_uri(), "archive_info": {}}))
    assert install_command("hub") == f"pip install '{wheel}[hub]'"


@pytest.mark.parametrize(
    ("direct_url", "requirement"),
    [
        (None, "cvae-onnx[plot]"),
        ('{"url": "file:///removed/checkout", "dir_info": {}}', "cvae-onnx[plot]"),
        ('{"url": "https://host/a.whl", "archive_info": {}}', "cvae-onnx[plot] @ https://host/a.whl"),
        (
            '{"url": "https://host/a", "vcs_info": {"vcs": "git", "commit_id": "1234"}}',
            "cvae-onnx[plot] @ git+https://host/a@1234",
        ),
        ("{damaged", "cvae-onnx[plot]"),
    ],
)
def test_install_command_names_a_remote_source_or_the_package_on_pypi(install_from, direct_url, requirement):
    install_from(direct_url)
    assert install_command("plot") == f"pip install '{requirement}'"


def test_install_command_uses_pypi_if_metadata_are_missing(install_from, monkeypatch):
    def fail(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", fail)
    assert install_command("plot") == "pip install 'cvae-onnx[plot]'"


def test_metadata_of_a_build_for_gpus_do_not_count_as_an_installation(install_from, tmp_path):
    install_from(None)
    folder = tmp_path / "cvae_onnx_gpu.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: cvae-onnx-gpu\nVersion: 0.1.0\n")
    assert install_command("plot") == "pip install 'cvae-onnx[plot]'"


GIT = '{"url": "https://host/a", "vcs_info": {"vcs": "git", "commit_id": "1234"}}'


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        (None, "pip install 'cvae-onnx-gpu[plot]'"),
        ('{"url": "https://host/a.whl"}', "pip install 'cvae-onnx-gpu[plot] @ https://host/a.whl'"),
        (GIT, "CVAE_ONNX_GPU=1 pip install 'cvae-onnx-gpu[plot] @ git+https://host/a@1234'"),
    ],
)
def test_install_command_keeps_the_distribution_for_gpus(install_from, direct_url, command):
    install_from(direct_url, "cvae-onnx-gpu")
    assert install_command("plot") == command


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        (None, "pip install cvae-onnx-gpu"),
        ('{"url": "https://host/a.whl"}', "pip install cvae-onnx-gpu"),
        (GIT, "CVAE_ONNX_GPU=1 pip install git+https://host/a@1234"),
    ],
)
def test_runtime_for_gpus_replaces_the_other_runtime(install_from, direct_url, command):
    install_from(direct_url)
    assert gpu_install_commands() == f"pip uninstall -y cvae-onnx onnxruntime, then {command}"


def test_runtime_for_gpus_is_repaired_if_another_package_has_overwritten_it(install_from):
    install_from(None, "cvae-onnx-gpu")
    commands = gpu_install_commands()
    assert commands == "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
