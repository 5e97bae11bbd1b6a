"""Runs that are killed, interrupted or restarted, and failures of the disk and the data."""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cvae.atomic import TEMPORARY_FILES, lock_folder, write_file
from cvae.config import TrainConfig
from cvae.engine import resume, train
from cvae.engine import step as step_module
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.trainer import Trainer
from cvae.errors import CvaeError, UsageError
from cvae.registry import OBJECTIVES

FLAGS = ["--data", "digits", "--arch", "mlp", "--prior", "normal", "--precision", "fp32", "--tracker", "none"]
FLAGS += ["--no-export"]
QUICK = TrainConfig(
    arch="mlp", prior="normal", latent_dim=4, epochs=3, limit=600, batch_size=32, precision="fp32", trackers=("none",)
)


def start(folder: Path, *flags: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "cvae", "train", *FLAGS, "--out", "run", *flags]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **options)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.05)


def check_files(run: Path) -> list[dict]:
    """Check that every file of a run is complete, and return its metrics."""
    for path in run.rglob("*.safetensors"):
        if not path.name.startswith("."):
            load_file(path)
    for path in run.rglob("*.json"):
        if not path.name.startswith("."):
            json.loads(path.read_bytes())
    metrics = run / "metrics.jsonl"
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


KILL_LOOP = """
import os, signal, sys, time
import torch, cvae.engine, cvae.data.digits
from cvae.__main__ import main
torch.optim.Adam([torch.zeros(1)])  # imports many modules, once for all child processes
for line in sys.stdin:  # a delay in seconds: start a training process and kill it after this time
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        main(sys.argv[1:] if not os.path.exists("run/config.json") else ["train", "--resume", "--out", "run"])
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [30])
def test_run_survives_kill_9_at_random_times(tmp_path, num_kills):
    """The run continues without losing a reported epoch, and ends with the weights of an uninterrupted run."""
    flags = ["train", *FLAGS, "--ema", "0.99", "--epochs", "150", "--size", "12", "--set", "arch.hidden=[300]"]
    full = subprocess.run([sys.executable, "-m", "cvae", *flags, "--out", "full"], cwd=tmp_path, capture_output=True)
    assert full.returncode == 0, full.stderr
    expected = load_file(tmp_path / "full" / "model.safetensors")

    def equals_uninterrupted_run(run: Path) -> bool:
        actual = load_file(run / "model.safetensors")
        return len(check_files(run)) == 150 + 1 and all(torch.equal(actual[name], expected[name]) for name in expected)

    command = [sys.executable, "-c", KILL_LOOP, *flags, "--out", "run"]
    run, rng, max_delay, epochs, kills, partial_files = tmp_path / "run", random.Random(0), 0.6, 0, 0, 0
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainers:
        while kills < num_kills or epochs == 0:
            trainers.stdin.write(f"{rng.uniform(0.05, max_delay)}\n")
            trainers.stdin.flush()
            status = int(trainers.stdout.readline())
            if status == 0:  # a fast machine finished the run before the kill
                assert equals_uninterrupted_run(run)
                shutil.rmtree(run)
                epochs = 0
                continue
            assert status == signal.SIGKILL, f"the run could not be continued: wait status {status}"
            kills += 1
            partial_files += len(list(run.rglob(TEMPORARY_FILES)))
            count = len(check_files(run))
            assert count >= epochs
            if count == epochs:  # a slow machine finished no epoch in this time
                max_delay *= 1.1
            epochs = count
        trainers.stdin.close()
    assert epochs > 0
    assert equals_uninterrupted_run(resume(run, quiet=True))
    assert not list(run.rglob(TEMPORARY_FILES))
    print(f"{partial_files} of {kills} kills interrupted the write of a file")


@pytest.mark.integration
@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_first_signal_saves_checkpoint_and_explains_how_to_resume(tmp_path, signum):
    process = start(tmp_path, "--epochs", "100000")
    wait_for(tmp_path / "run" / "model.safetensors", process)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert (
        "continue with: cvae train --resume --out run, or in Python with: cvae.resume('run')" in stderr
        and "Traceback" not in stderr
    )
    checkpoint, damaged = load_checkpoint(tmp_path / "run" / "last")
    assert checkpoint.state["step"] > 0 and not damaged


@pytest.mark.slow
@pytest.mark.integration
def test_second_signal_stops_immediately_and_keeps_last_checkpoint(tmp_path):
    code = (
        "import time\nfrom cvae.engine.trainer import Trainer\nstep = Trainer._train_step\n"
        "def slow(self, *batch):\n    step(self, *batch)\n"
        "    if self.state.step == 60: open('slow', 'w'); time.sleep(600)\n"
        "Trainer._train_step = slow\nfrom cvae.__main__ import main\nmain()"
    )
    command = [sys.executable, "-c", code, "train", *FLAGS, "--epochs", "100000", "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "slow", process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # after one signal, the process still finishes its step
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in stderr
    checkpoint, damaged = load_checkpoint(tmp_path / "run" / "last")
    assert 0 < checkpoint.state["step"] < 60 and not damaged


@pytest.mark.slow
@pytest.mark.integration
def test_full_disk_is_reported_in_one_line_and_last_checkpoint_survives(tmp_path):
    """A limit on the size of files makes a write fail halfway, as a full disk would."""
    run = train(replace(QUICK, epochs=1), tmp_path / "run", quiet=True)
    before = load_checkpoint(run / "last")[0].state["step"]
    size = max(path.stat().st_size for path in (run / "last").iterdir())
    command = [sys.executable, "-m", "cvae", "train", "--resume", "--out", "run", "--epochs", "3"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("cvae: error:")]
    assert "can't write" in line and "File too large" in line and "Traceback" not in result.stderr
    assert load_checkpoint(run / "last")[0].state["step"] == before
    assert not list(run.rglob(TEMPORARY_FILES))
    resume(run, epochs=3, quiet=True)


@pytest.mark.integration
def test_resume_in_read_only_folder_fails_and_keeps_last_checkpoint(tmp_path, monkeypatch):
    """The error is simulated, because tests in containers often run as root, who can write anywhere."""
    run = train(replace(QUICK, epochs=1), tmp_path / "run", quiet=True)

    def refuse(self, target):
        raise OSError(30, "Read-only file system", str(target))

    with monkeypatch.context() as patch, pytest.raises(CvaeError, match=r"can't write .*Read-only file system"):
        patch.setattr(Path, "replace", refuse)
        resume(run, epochs=2, quiet=True)
    checkpoint, damaged = load_checkpoint(run / "last")
    assert len(checkpoint.state["records"]) == 1 and not damaged
    resume(run, epochs=2, quiet=True)


@pytest.mark.integration
def test_run_survives_deleted_data_but_resume_requires_the_data(tmp_path):
    """The run continues, because its data are in memory. Resuming it fails until the data are restored."""
    data = tmp_path / "data.npz"
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8)
    np.savez(data, train=images)
    config = replace(QUICK, data=f"npz:{data}", limit=None)
    run = train(config, tmp_path / "run", quiet=True, on_epoch=lambda record: data.unlink(missing_ok=True))
    assert len(check_files(run)) == 3
    with pytest.raises(UsageError, match="there is no such file"):
        resume(run, epochs=4, quiet=True)
    np.savez(data, train=images)
    assert len(check_files(resume(run, epochs=4, quiet=True))) == 4


@pytest.fixture
def nonfinite_batch(monkeypatch, request):
    """Make the image, only the loss, or the loss and its gradient nonfinite at step 25."""
    elbo = OBJECTIVES.get("elbo")
    calls = []

    def nonfinite_elbo(model, image, label, kl_weight, **options):
        calls.append(1)
        if len(calls) != 26:
            return elbo(model, image, label, kl_weight, **options)
        loss = elbo(model, image * float("nan") if request.param == "image" else image, label, kl_weight, **options)
        if request.param == "gradient":
            return loss._replace(loss=loss.loss * float("nan"))
        return loss._replace(loss=loss.loss + float("inf")) if request.param == "loss" else loss

    monkeypatch.setattr(step_module, "OBJECTIVES", type("", (), {"get": staticmethod(lambda name: nonfinite_elbo)}))
    return calls


NONFINITE = pytest.mark.parametrize("nonfinite_batch", ["image", "gradient", "loss"], indirect=True)


@pytest.mark.integration
@NONFINITE
@pytest.mark.parametrize("clip", [100.0, 0.0])
def test_nonfinite_loss_raises_error_with_step_and_keeps_finite_weights(tmp_path, nonfinite_batch, clip):
    with pytest.raises(CvaeError, match=r"not finite at step 25: .*--lr.*--on-nan skip"):
        train(replace(QUICK, clip=clip), tmp_path / "run", quiet=True)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "model.safetensors").values())
    assert load_checkpoint(tmp_path / "run" / "last")[0].state["step"] == 18
    run = resume(tmp_path / "run", on_nan="skip", quiet=True)
    assert len(check_files(run)) == 3 + 1


@pytest.mark.integration
@NONFINITE
@pytest.mark.parametrize("arch", ["mlp", "conv"])  # conv has batch norm; in both, the likelihood has a running sigma
def test_on_nan_skip_skips_only_the_nonfinite_batch(tmp_path, nonfinite_batch, monkeypatch, arch):
    states = {}
    step = Trainer._train_step

    def step_and_record(self, *batch):
        step(self, *batch)
        state = self.training_step.bare_model.state_dict().values()
        states[self.state.step - 1] = torch.cat([tensor.detach().flatten().double() for tensor in state])

    monkeypatch.setattr(Trainer, "_train_step", step_and_record)
    options = {"arch": {"width": 4, "hidden": 16}} if arch == "conv" else {}
    run = train(replace(QUICK, arch=arch, on_nan="skip", ema=0.9, options=options), tmp_path / "run", quiet=True)
    assert torch.equal(states[25], states[24]) and not torch.equal(states[26], states[25])
    skipped = [record.get("skipped", 0) for record in check_files(run)]
    assert skipped == [0, 1, 0, 0]
    assert all(np.isfinite(record["train"]["loss"]) for record in check_files(run)[:3])


@pytest.mark.integration
def test_run_stopped_before_its_first_checkpoint_starts_over(tmp_path):
    full = train(QUICK, tmp_path / "full", quiet=True)
    write_file(tmp_path / "run" / "config.json", (full / "config.json").read_bytes())
    run = resume(tmp_path / "run", quiet=True)
    assert (run / "model.safetensors").read_bytes() == (full / "model.safetensors").read_bytes()


@pytest.mark.integration
def test_second_writer_of_a_run_is_rejected(tmp_path):
    with lock_folder(tmp_path / "run"), pytest.raises(UsageError, match="another process is writing"):
        train(QUICK, tmp_path / "run", quiet=True)
    train(replace(QUICK, epochs=1), tmp_path / "run", quiet=True)


@pytest.mark.integration
def test_simultaneous_runs_get_different_folders(in_tmp):
    from concurrent.futures import ThreadPoolExecutor

    from cvae.run import create_run_folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(create_run_folder, ["run"] * 32))
    assert len(set(folders)) == 32 and all(folder.is_dir() for folder in folders)


DISTRIBUTED = ["train", *FLAGS, "--epochs", "4", "--device", "cpu", "--binarize", "dynamic", "--shift", "1"]

CRASHING_TRAINER = """
import os, signal
from cvae.engine.trainer import Trainer
step = Trainer._train_step
def crash(self, *batch):
    step(self, *batch)
    if self.state.step == 30 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
Trainer._train_step = crash
from cvae.__main__ import main
main()
"""


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *arguments]
    return subprocess.run(launch, cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.integration
def test_two_processes_reproduce_the_loss_curve_of_one_process(tmp_path):
    flags = [*DISTRIBUTED, "--no-export", "--out"]
    one = subprocess.run([sys.executable, "-m", "cvae", *flags, "one"], cwd=tmp_path, capture_output=True, text=True)
    two = torchrun(tmp_path, "-m", "cvae", *flags, "two")
    for result in (one, two):
        assert result.returncode == 0, result.stderr
        assert result.stdout.count(": trained") == 1
    curves = []
    for name in ("one", "two"):
        *epochs, test = check_files(tmp_path / name)
        curves.append([r[split][term] for r in epochs for split in ("train", "validation") for term in r[split]])
        curves[-1].append(test["test"]["bound"])
    assert len(curves[0]) == 4 * 7 + 1
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


@pytest.mark.slow
def test_lost_process_ends_the_run_with_an_error_that_says_how_to_resume(tmp_path):
    (tmp_path / "crashing.py").write_text(CRASHING_TRAINER)
    lost = torchrun(tmp_path, "crashing.py", *DISTRIBUTED, "--out", "lost")
    assert lost.returncode != 0
    assert (
        "lost the connection to another process near step 30" in lost.stderr
        and "cvae train --resume --out lost" in lost.stderr
    )


@pytest.mark.slow
def test_restarted_distributed_run_equals_uninterrupted_run(tmp_path):
    """The network has batch norm: each process averages the statistics over its own part of a batch."""
    (tmp_path / "crashing.py").write_text(CRASHING_TRAINER)
    small = [flag for option in ("width=4", "max_width=8", "hidden=16") for flag in ("--set", f"arch.{option}")]
    flags = ["train", *FLAGS, "--arch", "conv", *small, "--ema", "0.9", "--epochs", "4", "--device", "cpu", "--out"]
    full = torchrun(tmp_path, "-m", "cvae", *flags, "full")
    restarted = torchrun(tmp_path, "--max-restarts", "1", "crashing.py", *flags, "restarted")
    for result in (full, restarted):
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "full" / "model.safetensors").read_bytes() == (
        tmp_path / "restarted" / "model.safetensors"
    ).read_bytes()
    metrics = [
        [(r.get("validation"), r.get("test")) for r in check_files(tmp_path / name)] for name in ("full", "restarted")
    ]
    assert metrics[0] == metrics[1]


def test_several_processes_require_out_folder(monkeypatch, in_tmp, capsys):
    from cvae.__main__ import main

    variables = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_info:
        main(["train"])
    assert exit_info.value.code == 2 and "pass it as out (--out)" in capsys.readouterr().err
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_variable_of_an_earlier_job_is_named(monkeypatch, in_tmp, capsys, name):
    from cvae.__main__ import main

    monkeypatch.setenv(name, "2")
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--out", "run"])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and f"{name}=2 is set" in error and f"unset {name}" in error
    assert error.count("\n") == 1 and not list(in_tmp.iterdir())
