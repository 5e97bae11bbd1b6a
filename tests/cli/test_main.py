"""Output of the command line: characters that the terminal cannot show, warnings and log messages."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cvae import model_zoo
from cvae.__main__ import main
from cvae.messages import one_line_warnings

pytestmark = pytest.mark.integration

ENCODINGS = ["ascii", "cp1252", "latin-1"]


def cvae(*args: object, cwd: Path, encoding: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "cvae", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True)


@pytest.fixture
def zoo_model(tmp_path) -> Path:
    """Copy the default zoo model to a folder whose name few encodings can represent."""
    return Path(shutil.copytree(model_zoo.model(model_zoo.DEFAULT), tmp_path / "猫"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_name_that_cannot_be_encoded_is_printed_with_escapes(zoo_model, encoding):
    result = cvae("info", "猫", cwd=zoo_model.parent, encoding=encoding)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"\\u732b" in result.stdout


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_image_is_written_to_file_whose_name_cannot_be_encoded(zoo_model, encoding):
    result = cvae(
        "generate", "猫", "--label", "7", "--seed", "1", "--out", "猫.png", cwd=zoo_model.parent, encoding=encoding
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"\\u732b.png") and (zoo_model.parent / "猫.png").is_file()


@pytest.mark.slow
def test_training_succeeds_in_folder_whose_name_cannot_be_encoded(tmp_path):
    flags = ["--data", "digits", "--limit", "100", "--epochs", "1", "--arch", "mlp", "--tracker", "none", "--no-export"]
    result = cvae("train", *flags, "--out", "runs/猫", cwd=tmp_path, encoding="cp1252")
    assert result.returncode == 0, result.stderr
    assert b"runs/\\u732b: trained" in result.stdout and (tmp_path / "runs" / "猫" / "model.safetensors").is_file()


def test_error_that_cannot_be_encoded_is_one_line(tmp_path):
    result = cvae("info", "猫", cwd=tmp_path, encoding="ascii")
    assert result.returncode == 2 and result.stderr.startswith(b"cvae: error: ") and result.stderr.count(b"\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode on other systems")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_name_that_is_not_utf_8_is_printed_with_replacements(zoo_model, encoding):
    folder = zoo_model.rename(zoo_model.with_name(os.fsdecode(b"run\xff")))
    result = cvae(
        "generate", folder.name, "--label", "7", "--out", os.fsdecode(b"\xff.png"), cwd=folder.parent, encoding=encoding
    )
    assert (result.returncode, result.stdout[:5]) == (0, b"?.png"), result.stderr
    assert cvae("info", folder.name, cwd=folder.parent, encoding=encoding).returncode == 0


def test_encodable_characters_are_unchanged(zoo_model):
    result = cvae("info", "猫", cwd=zoo_model.parent, encoding="utf-8")
    assert "猫" in result.stdout.decode()


def test_output_stream_without_encoding_is_supported(zoo_model, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # StringIO has no `reconfigure`
    with pytest.raises(SystemExit) as caught:
        main(["info", str(zoo_model), "--json"])
    assert caught.value.code == 0
    assert json.loads(sys.stdout.getvalue())["latent_dim"] > 0


def test_warning_is_printed_in_one_line(tmp_path):
    program = """if True:
        import warnings
        import cvae.cli
        cvae.cli.run = lambda args: warnings.warn("a cause;\\n  and a fix", stacklevel=1)
        from cvae.__main__ import main
        main([])
    """
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "cvae: warning: a cause; and a fix\n")


def test_error_in_a_thread_is_printed_in_one_line(capsys):
    def fail() -> None:
        raise OSError(28, "No space left\non device")

    with one_line_warnings():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    error = capsys.readouterr().err
    assert error == "cvae: warning: a background thread has failed: OSError: [Errno 28] No space left on device\n"


@pytest.mark.slow
def test_log_message_of_another_package_is_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "cvae", "plot", "losses", "mnist-resnet-conditional", "--out", tmp_path / "x.png"],
        env={**os.environ, "HOME": "/dev/null", "MPLCONFIGDIR": "/dev/null/x"},  # matplotlib can't write there
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = result.stderr.splitlines()
    assert result.returncode == 0 and any("Matplotlib created a temporary cache" in line for line in lines), lines
    assert all(line.startswith("cvae: warning: ") for line in lines), lines


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "count"), [(None, 0), ("torch", 1)])
def test_torch_compile_warning_is_hidden_by_default(tmp_path, setting, count):
    program = """if True:
        import logging
        import cvae.cli
        def warn(args):
            import torch
            logging.getLogger("torch.utils.cpp_extension").warning("no CUDA runtime is found")
        cvae.cli.run = warn
        from cvae.__main__ import main
        main([])
    """
    env = {name: value for name, value in os.environ.items() if name != "TORCH_LOGS"}
    env |= {} if setting is None else {"TORCH_LOGS": setting}
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("no CUDA runtime")) == (0, count), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full")
@pytest.mark.parametrize("args", [["info", model_zoo.DEFAULT], ["parts", "--json"], ["--version"]], ids=" ".join)
def test_full_standard_output_is_reported_in_one_line(tmp_path, args):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "cvae", *args]
        result = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1 and result.stderr.count(b"\n") == 1
    assert b"can't write to standard output: No space left on device" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the working folder of a process")
@pytest.mark.parametrize("args", [["train"], ["export", "web", model_zoo.DEFAULT]], ids=" ".join)
def test_missing_working_folder_is_reported_in_one_line(tmp_path, monkeypatch, capsys, args):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(SystemExit) as exit_info:
        main(args)
    error = capsys.readouterr().err
    assert exit_info.value.code == 1 and "the working folder does not exist" in error and error.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other limits and permissions")
@pytest.mark.parametrize(
    "command", ["info {}", "generate {}", "scan {}", "train --out {}", "train --data folder:{}", "export web --out {}"]
)
def test_path_that_the_system_rejects_is_reported_in_one_line(in_tmp, capsys, command):
    with pytest.raises(SystemExit) as exit_info:
        main(command.format("a" * 300).split())
    *_, line = capsys.readouterr().err.splitlines()
    assert exit_info.value.code == 1 and line.startswith("cvae: error: can't ")
    assert line.endswith("File name too long") and "'aaa" in line
