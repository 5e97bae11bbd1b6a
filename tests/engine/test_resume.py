"""Resumed runs and their checkpoints."""

import errno
import os
import pickle
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import NARROW, QUICK, STEPS, have_equal_tensors, load_weights, read_records

from cvae.config import Config
from cvae.engine import resume, train
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.trainer import Trainer
from cvae.errors import CvaeError, Interrupted

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("arch", "stop_at", "augmentation"),  # stop within the first epoch, at its end, or within the second epoch
    [
        ("mlp", 1, {}),
        ("mlp", STEPS, {}),
        ("mlp", STEPS + 7, {}),
        ("conv", STEPS + 7, {}),
        ("resnet", STEPS + 7, {}),
        ("resnet", STEPS + 7, {"rotate": 10.0, "zoom": 0.1, "consistency": 0.1}),
        ("resnet", STEPS + 7, {"optimizer": "muon", "center": True, "mean_init": True, "lr_scales": ("*.bias=2",)}),
    ],
)
def test_resume_gives_the_weights_of_the_uninterrupted_run(
    tmp_path, monkeypatch, precision, arch, stop_at, augmentation
):
    options = {"arch": NARROW[arch]}
    config = replace(
        QUICK, arch=arch, options=options, precision=precision, ema=0.9, kl_warmup=1.0, binarize="dynamic", epochs=2,
        shift=1, crop=0.9, accumulate=2, **augmentation,
    )  # fmt: skip
    full = train(config, tmp_path / "full", quiet=True)
    step = Trainer._train_step

    def step_and_stop(self, *batch):
        step(self, *batch)
        if self.state.step == stop_at:
            self.stop.signals.add(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step_and_stop)
        with pytest.raises(Interrupted, match=f"step {stop_at} .* cvae train --resume --out"):
            train(config, tmp_path / "parts", quiet=True)
    torch.manual_seed(99)  # a new process has a different random state
    resume(tmp_path / "parts", quiet=True)
    assert have_equal_tensors(load_weights(tmp_path / "parts"), load_weights(full))
    metrics = [
        [
            {k: v for k, v in r.items() if k not in ("seconds", "images_per_second")}
            for r in read_records(tmp_path / name)
        ]
        for name in ("full", "parts")
    ]
    assert metrics[0] == metrics[1]


def test_time_of_an_epoch_includes_the_part_before_an_interruption(tmp_path, monkeypatch):
    step = Trainer._train_step

    def step_and_stop(self, *batch):
        step(self, *batch)
        if self.state.step == STEPS + 7:
            time.sleep(0.5)
            self.stop.signals.add(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step_and_stop)
        with pytest.raises(Interrupted):
            train(QUICK, tmp_path / "run", quiet=True)
    assert read_records(resume(tmp_path / "run", quiet=True))[1]["seconds"] > 0.5


def test_resume_with_more_epochs_continues_the_run(quick_run, tmp_path):
    longer = train(QUICK, tmp_path / "longer", quiet=True)
    resume(longer, epochs=5, quiet=True)
    assert [record.get("epoch") for record in read_records(longer)] == [1, 2, 3, 4, 5, None]
    assert Config.read(longer / "config.json").training.epochs == 5


def test_training_never_uses_pickle(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for module, names in {pickle: ("dump", "dumps", "load", "loads"), torch: ("save", "load")}.items():
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    resume(train(replace(QUICK, epochs=1), tmp_path / "run", quiet=True), epochs=2, quiet=True)
    assert {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()} == {
        ".json", ".jsonl", ".safetensors", ".png",
    }  # fmt: skip


@pytest.mark.parametrize("corruption", ["truncated", "flipped bit", "invalid JSON"])
def test_previous_checkpoint_is_loaded_if_the_newest_is_damaged(tmp_path, corruption):
    run = train(QUICK, tmp_path / "run", quiet=True)
    older, newer = sorted((run / "last").glob("*.safetensors"))
    data = newer.read_bytes()
    if corruption == "invalid JSON":
        newer.with_suffix(".json").write_text("{")
    else:
        newer.write_bytes(data[:-1000] if corruption == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    checkpoint, damaged = load_checkpoint(run / "last")
    assert checkpoint.state["step"] == int(older.stem) and damaged == [newer.stem]
    older.unlink()
    with pytest.raises(CvaeError, match=rf"are damaged \({newer.stem}, {older.stem}\); remove the folder"):
        load_checkpoint(run / "last")


def test_resume_rejects_changed_data(tmp_path):
    def save(count):
        np.savez(tmp_path / "data.npz", train=np.zeros((count, 8, 8), np.uint8))

    save(100)
    config = replace(QUICK, data=f"npz:{tmp_path / 'data.npz'}", conditional=False, limit=None)
    run = train(config, tmp_path / "run", quiet=True)
    save(101)
    with pytest.raises(CvaeError, match="the numbers of images are train 101, not train 100"):
        resume(run, epochs=5, quiet=True)
    np.savez(tmp_path / "data.npz", train=np.zeros((100, 9, 9), np.uint8))
    with pytest.raises(CvaeError, match="the images are of shape 1x9x9, not 1x8x8"):
        resume(run, epochs=5, quiet=True)


def test_resume_saves_the_sample_images_that_a_stopped_run_lacks(tmp_path, monkeypatch):
    full = train(QUICK, tmp_path / "full", quiet=True)
    save = Trainer._save_sample_images

    def fail_after_last_epoch(self):
        if self.state.step == QUICK.epochs * STEPS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_sample_images", fail_after_last_epoch)
        with pytest.raises(CvaeError, match="No space left on device"):
            train(QUICK, tmp_path / "run", quiet=True)
    run = resume(tmp_path / "run", quiet=True)
    images = {path.name: path.read_bytes() for path in (full / "samples").iterdir()}
    assert {path.name: path.read_bytes() for path in (run / "samples").iterdir()} == images
    assert len(read_records(run)) == QUICK.epochs + 1
