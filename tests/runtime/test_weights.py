"""Runs whose weights have changed since the export: whatever uses the decoder rejects them."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cvae as package
from cvae.errors import UsageError
from cvae.runtime.weights import hash_file


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """Return a run with exported files."""
    return Path(shutil.copytree(trained["labels"], tmp_path / "runs" / "digits"))


def change(weights: Path) -> None:
    """Change one byte of a file, to simulate further training."""
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def test_load_rejects_an_outdated_decoder_and_names_the_fix(run):
    package.load(run)
    change(run / "model.safetensors")
    with pytest.raises(UsageError) as caught:
        package.load(run)
    message = str(caught.value)
    assert "\n" not in message and "decoder.onnx" in message and f"cvae export onnx {run}" in message


@pytest.mark.parametrize(
    "command",
    [
        ["generate"],
        ["interpolate"],
        ["evaluate", "--exported"],
        ["plot", "grid"],
        ["detect", "fit"],
        ["export", "triton"],
        ["export", "web"],
    ],
    ids=" ".join,
)
def test_every_command_rejects_an_outdated_decoder(cvae, run, command):
    change(run / "model.safetensors")
    result = cvae(*command, run)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1 and f"export it again with: cvae export onnx {run}" in result.err
    assert not list(Path().glob("*.png")) and not Path("web").exists() and not Path("model_repository").exists()


def test_export_makes_the_run_usable_again(cvae, trained, run):
    shutil.copy(trained["plain"] / "model.safetensors", run)
    shutil.copy(trained["plain"] / "config.json", run)
    assert cvae("generate", run).code == 2
    assert cvae("export", "onnx", run).code == 0
    assert cvae("generate", run).code == 0


def test_info_shows_which_weights_were_exported(cvae, run):
    assert cvae("info", run, "--json").json["exported"] == "from these weights"
    change(run / "model.safetensors")
    assert (
        cvae("info", run, "--json").json["exported"]
        == f"from different weights; export again with: cvae export onnx {run}"
    )
    (run / "decoder.onnx").unlink()
    assert cvae("info", run, "--json").json["exported"] is None


def test_decoder_is_not_checked_if_its_path_is_given_or_the_weights_are_missing(run):
    change(run / "model.safetensors")
    package.load(run / "decoder.onnx").generate(1)
    (run / "model.safetensors").unlink()
    package.load(run).generate(1)


def test_weights_with_unchanged_size_and_modification_time_are_not_read_again(run):
    weights = run / "model.safetensors"
    digest, status = hashlib.sha256(weights.read_bytes()).hexdigest(), weights.stat()
    assert hash_file(weights) == digest
    change(weights)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_file(weights) == digest  # from the cache
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert hash_file(weights) == hashlib.sha256(weights.read_bytes()).hexdigest() != digest


def test_only_regular_files_have_a_hash(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert [hash_file(tmp_path / name) for name in ("missing", "folder", "pipe")] == [None] * 3


@pytest.mark.integration
def test_loading_a_run_imports_no_slow_packages(run):
    program = (
        "import sys, cvae; cvae.load(sys.argv[1]); "
        "print([name for name in ('torch', 'safetensors', 'onnx') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program, run], text=True) == "[]\n"
