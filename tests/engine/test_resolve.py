"""Settings that depend on the data and the machine."""

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import QUICK, STEPS, have_equal_tensors, load_weights, read_records
from helpers import SHARED, needs_mnist

from cvae.config import Config, TrainConfig
from cvae.data import Split, load_dataset
from cvae.engine import resume, train
from cvae.engine.resolve import choose_compile, choose_precision, configure
from cvae.errors import UsageError
from cvae.serialization import from_dict


@pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") == "default",
    reason="torch.compile generates vector code that torch then rejects",
)
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_run_reaches_the_bound_of_an_eager_run_and_resumes_exactly(tmp_path, quick_run, monkeypatch):
    compiled = train(replace(QUICK, compile=True), tmp_path / "compiled", quiet=True)
    bounds = [
        [r[split]["bound"] for r in read_records(run)[:3] for split in ("train", "validation")]
        for run in (quick_run, compiled)
    ]
    np.testing.assert_allclose(bounds[1], bounds[0], rtol=1e-3)

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(QUICK, compile=True), tmp_path / "parts", quiet=True, on_epoch=stop)
    assert have_equal_tensors(load_weights(resume(tmp_path / "parts", quiet=True)), load_weights(compiled))


def test_compile_is_enabled_for_long_runs_if_torch_can_compile(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert [choose_compile(None, steps, "cpu") for steps in (100, 10**6)] == [False, True]
    assert [choose_compile(compile, 10**6, "cpu") for compile in (False, True)] == [False, True]

    def broken(function):
        raise RuntimeError("No working C++ compiler found\nin many lines")

    monkeypatch.setattr(torch, "compile", broken)
    assert choose_compile(None, 10**6, "cpu") is False
    with pytest.raises(UsageError, match=r"--compile does not work here: .*No working C\+\+ compiler found in many"):
        choose_compile(True, 10, "cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "cpu_name": "Intel(R) Xeon(R) Processor"}, "bf16"),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R) Processor"}, "fp32"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9B45"}, "bf16"),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC 7763"}, "fp32"),
        ({"avx512_bf16": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_precision_is_the_faster_one_on_the_cpu(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", "cpu") == expected


@pytest.mark.slow
@needs_mnist
@pytest.mark.parametrize(("arch", "num_images", "epochs"), [("mlp", 6_000, 2), ("resnet", 54_000, 3)])
def test_bf16_reaches_the_bound_of_fp32(tmp_path, arch, num_images, epochs):
    """The bound may be better, or up to 0.3 nats worse, because the results of such short runs vary by chance."""
    config = TrainConfig(
        arch=arch,
        conditional=True,
        data="mnist",
        data_dir=str(SHARED),
        limit=num_images,
        epochs=epochs,
        lr=1e-3,
        trackers=("none",),
    )
    fp32, bf16 = (
        read_records(train(replace(config, precision=precision), tmp_path / precision, quiet=True))[-1]["test"]["bound"]
        for precision in ("fp32", "bf16")
    )
    assert fp32 < 200
    assert bf16 < fp32 + 0.3


def test_defaults_depend_on_the_data():
    dataset = load_dataset(QUICK)
    colour = replace(dataset, train=Split(images=np.zeros((600, 3, 8, 8), np.uint8), labels=dataset.train.labels))
    binary = replace(dataset, train=replace(dataset.train, images=(dataset.train.images > 127) * np.uint8(255)))
    automatic = replace(QUICK, likelihood=None)
    assert configure(automatic, dataset).model.likelihood.name == "gaussian-optimal"  # shades of grey
    assert configure(automatic, binary).model.likelihood.name == "bernoulli"
    assert configure(automatic, colour).model.likelihood.name == "gaussian-optimal"
    assert configure(replace(QUICK, epochs=None), dataset).training.epochs == math.ceil(1000 / STEPS)
    config = configure(replace(QUICK, options={"objective": {"beta": 4}}), dataset)
    assert config.training.options["objective"] == {"beta": 4.0, "free_bits": 0.0, "antithetic": True}
    assert from_dict(Config, json.loads(config.to_json())).to_json() == config.to_json()


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(1, 2), (5, 2), (13, 4), (16, 8), (159, 8), (160, 16), (639, 32), (640, 64), (54_000, 64)],
)
def test_batch_size_of_a_small_data_set_leaves_several_steps_per_epoch(num_images, expected):
    dataset = load_dataset(QUICK)
    train = Split(images=np.zeros((num_images, 1, 8, 8), np.uint8), labels=np.zeros(num_images, np.int64))
    training = configure(replace(QUICK, batch_size=None, epochs=None), replace(dataset, train=train)).training
    steps = max(1, num_images // expected)
    assert (training.batch_size, training.epochs) == (expected, max(2, math.ceil(1000 / steps)))
    assert configure(QUICK, replace(dataset, train=train)).training.batch_size == QUICK.batch_size


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"), [(1, None, 0), (10, None, 5), (1_000, None, 100), (1, 30, 30)]
)
def test_warmup_of_a_short_run_is_a_twentieth_of_its_steps(epochs, warmup, expected):
    dataset = load_dataset(QUICK)
    train = Split(images=np.zeros((100, 1, 8, 8), np.uint8), labels=np.zeros(100, np.int64))  # 10 steps per epoch
    config = replace(QUICK, batch_size=10, epochs=epochs, warmup=warmup)
    assert configure(config, replace(dataset, train=train)).training.warmup == expected


GRID_DROPOUT = {"arch": {"width": 4, "latent_channels": 2, "grid_dropout": 0.5}, "prior": {"dims": 4}}


@pytest.mark.parametrize(
    ("changes", "cause", "message"),
    [
        (
            {"arch": "ladder", "size": 16, "options": GRID_DROPOUT, "shift": 1},
            {"consistency": 0.1},
            r"--consistency compares .* but arch\.grid_dropout drops",
        ),
        ({"arch": "ladder", "options": {}}, {"options": {"arch": {"grid_dropout": 0.5}}}, r"arch\.grid_dropout has no"),
        (
            {"arch": "ladder", "size": 16, "options": GRID_DROPOUT},
            {"options": {**GRID_DROPOUT, "prior": {}}},
            r"the prior 'flow' would learn; set prior\.dims=4",
        ),
        (
            {"objective": "iwae", "losses": ("perceptual",), "options": {"objective": {"dreg": False}}},
            {"options": {"objective": {"dreg": True}}},
            r"objective\.dreg=true weights all gradients .* --loss perceptual",
        ),
        (
            {"arch": "ladder", "options": {"arch": {"smallest": 2, "latent_channels": 2}}},
            {"options": {"arch": {"smallest": 4, "latent_channels": 2}}},
            r"arch\.latent_channels has no effect, .* lower arch\.smallest",
        ),
        ({}, {"consistency": 0.0}, "--consistency 0 compares images with transformed copies, but none"),
        ({"binarize": "static", "shift": 1}, {"rotate": 5.0}, "--binarize static samples pixels before --rotate"),
        ({"conditional": False}, {"drop_conditions": 0.5}, r"--drop-conditions 0\.5 has no effect .* --conditional"),
        ({"conditional": False}, {"conditioning": "concat"}, "--conditioning concat has no effect .* --conditional"),
    ],
)
def test_options_that_do_not_work_together_are_rejected(changes, cause, message):
    config = replace(QUICK, **changes)
    dataset = load_dataset(config)
    configure(config, dataset)
    with pytest.raises(UsageError, match=message):
        configure(replace(config, **cause), dataset)


def test_options_of_an_unused_part_are_rejected():
    with pytest.raises(UsageError, match="conditioning"):
        configure(replace(QUICK, conditional=False, options={"conditioning": {"x": 1}}), load_dataset(QUICK))
