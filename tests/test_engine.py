"""The trainer: exact, resumable, without a pickle, and right about its own figures."""

import contextlib
import copy
import json
import math
import os
import pickle
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_mnist
from PIL import Image
from safetensors.torch import load_file

from cvae.config import Config, TrainConfig
from cvae.data import DiskImages, Split, load_dataset
from cvae.engine import launch as launch_module
from cvae.engine import load_model, resume, train
from cvae.engine import step as step_module
from cvae.engine import trainer as trainer_module
from cvae.engine.batches import Batches
from cvae.engine.checkpoint import load_checkpoint
from cvae.engine.progress import report_every
from cvae.engine.randomness import WHOLE, Shard
from cvae.engine.resolve import choose_compile, choose_precision, configure
from cvae.engine.schedule import kl_factor, lr_factor
from cvae.engine.step import RecordedStep, TrainingStep
from cvae.engine.trainer import Trainer
from cvae.engine.validation import Validator
from cvae.errors import CvaeError, Interrupted, UsageError
from cvae.evaluation.bounds import bounds
from cvae.evaluation.run_scorer import RunScorer
from cvae.models import VAE
from cvae.models.likelihoods import Bernoulli
from cvae.models.objectives import Loss
from cvae.serialization import from_dict

QUICK = TrainConfig(
    arch="mlp",
    conditional=True,
    latent_dim=4,
    likelihood="bernoulli",
    epochs=3,
    limit=600,
    batch_size=32,
    lr=5e-3,
    precision="fp32",
    trackers=("none",),
    options={"arch": {"hidden": (24,)}},
)
STEPS = 600 // 32
"""In an epoch of QUICK."""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(QUICK, tmp_path_factory.mktemp("runs") / "a", quiet=True)


def test_a_run_holds_what_the_design_says(run):
    assert {entry.name for entry in run.iterdir()} == {
        "config.json",
        "model.safetensors",
        "last",
        "metrics.jsonl",
        "samples",
    }
    assert len(list((run / "last").glob("*.safetensors"))) == len(list((run / "last").glob("*.json"))) == 2
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]


def test_the_bound_falls_and_is_the_sum_of_its_terms(run):
    *epochs, test = records(run)
    bounds = [record["validation"]["bound"] for record in epochs]
    assert bounds == sorted(bounds, reverse=True)
    for figures in [record[split] for record in epochs for split in ("train", "validation")] + [test["test"]]:
        assert figures["bound"] == pytest.approx(figures["distortion"] + figures["rate"])


def test_the_test_bound_is_that_of_the_saved_weights(run):
    """Recomputed from the run's files with other noise, and averaged over it."""
    model, config = load_model(run)
    test = load_dataset(config.training).test
    image, label = torch.from_numpy(test.images).float() / 255, torch.from_numpy(test.labels)
    torch.manual_seed(5)
    with torch.no_grad():
        terms = [model(image, label) for _ in range(100)]
    bounds = torch.stack([distortion.mean() + rate.sum(1).mean() for distortion, rate, *_ in terms])
    assert records(run)[-1]["test"]["bound"] == pytest.approx(float(bounds.mean()), abs=4 * float(bounds.std()))


@pytest.mark.parametrize("tight", [None, "importance_weighted"])
def test_the_weights_kept_are_those_of_the_tightest_validation_bound(tmp_path, monkeypatch, tight):
    """It is best in the second epoch of three; where there is an importance-weighted one, the ELBO tells nothing."""
    scores, seen = iter([3.0, 1.0, 2.0, 0.0]), []

    def scored(validator: Validator, model: VAE, batches: Batches) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        figures = {"distortion": 0.0, "rate": 0.0, "bound": float(len(seen))}
        return {**figures, tight or "bound": next(scores)}

    monkeypatch.setattr(Validator, "evaluate", scored)
    kept = weights(train(QUICK, tmp_path / "run", quiet=True))
    assert same(kept, seen[1])
    assert not same(kept, seen[2])


def test_an_importance_weighted_run_is_validated_on_its_own_bound(tmp_path):
    objective = {"objective": {"samples": 8}}
    run = train(replace(QUICK, objective="iwae", options=QUICK.options | objective), tmp_path / "run", quiet=True)
    *epochs, test = records(run)
    scorer, images = RunScorer(run, "cpu"), load_dataset(Config.read(run / "config.json").training).test
    expected = bounds(scorer, images.images, images.labels, samples=8)
    assert test["test"]["importance_weighted"] == pytest.approx(expected.importance_weighted.mean(), abs=0.2)
    assert test["test"]["bound"] == pytest.approx(expected.bound.mean(), abs=0.4)
    for record in epochs:
        assert record["validation"]["importance_weighted"] < record["validation"]["bound"]


def test_sample_pictures_show_ten_classes_and_originals_above_reconstructions(run):
    with Image.open(run / "samples" / "epoch-0003-samples.png") as samples:
        assert samples.size == (8 * 9 - 1, 10 * 9 - 1)  # 8 columns and 10 rows of 8x8 with a gap of one
    with Image.open(run / "samples" / "epoch-0003-reconstructions.png") as picture:
        pairs = np.asarray(picture)
    assert pairs.shape == (2 * 9 - 1, 8 * 9 - 1)
    validation = load_dataset(QUICK).validation.images
    assert (pairs[:8, :8] == validation[0, 0]).all()
    assert pairs[9:].std() > 20
    before = {path.name for path in (run / "samples").glob("epoch-0000-*")}  # what the network drew untrained
    assert before == {f"epoch-0000-{name}.png" for name in ("interpolations", "reconstructions", "samples")}


def test_sample_pictures_show_the_way_from_the_first_image_of_a_class_to_the_second(run):
    with Image.open(run / "samples" / "epoch-0003-samples.png") as picture:
        samples = np.asarray(picture)
    with Image.open(run / "samples" / "epoch-0003-interpolations.png") as picture:
        way = np.asarray(picture)
    assert way.shape == samples.shape
    assert np.abs(way[:, :8].astype(int) - samples[:, :8]).max() <= 1  # from the first column
    assert np.abs(way[:, -8:].astype(int) - samples[:, 9:17]).max() <= 1  # to the second
    assert (way[:, 36:44] != way[:, :8]).any()


def test_a_single_class_is_one_row_of_pictures(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(40, np.int64))
    run = train(replace(QUICK, data=f"npz:{tmp_path / 'one.npz'}", limit=None, epochs=1), tmp_path / "run", quiet=True)
    sizes = {}
    for name in ("samples", "interpolations", "reconstructions"):
        with Image.open(run / "samples" / f"epoch-0001-{name}.png") as picture:
            sizes[name] = picture.size
    assert sizes == {"samples": (71, 8), "interpolations": (71, 8), "reconstructions": (35, 17)}  # of 4 to validate


def test_the_same_seed_gives_the_same_weights_and_another_others(run, tmp_path):
    assert same(weights(train(QUICK, tmp_path / "again", quiet=True)), weights(run))
    assert not same(weights(train(replace(QUICK, seed=1), tmp_path / "other", quiet=True)), weights(run))


NARROW = {"mlp": {"hidden": (24,)}, "conv": {"width": 4, "hidden": 16}, "resnet": {"width": 4}}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("arch", "stop_at"),  # in an epoch, at its end, in the next
    [("mlp", 1), ("mlp", STEPS), ("mlp", STEPS + 7), ("conv", STEPS + 7), ("resnet", STEPS + 7)],
)
def test_resume_gives_the_weights_of_the_uninterrupted_run(tmp_path, monkeypatch, precision, arch, stop_at):
    options = {"arch": NARROW[arch]}
    asked = replace(
        QUICK, arch=arch, options=options, precision=precision, ema=0.9, kl_warmup=1.0, binarize="dynamic", epochs=2,
        shift=1, crop=0.9, accumulate=2,
    )  # fmt: skip
    whole = train(asked, tmp_path / "whole", quiet=True)
    step = Trainer._train_step

    def stopping(self, *batch):
        step(self, *batch)
        if self.state.step == stop_at:
            self.stop.signals.add(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stopping)
        with pytest.raises(Interrupted, match=f"step {stop_at} .* cvae train --resume --out"):
            train(asked, tmp_path / "parts", quiet=True)
    torch.manual_seed(99)  # what a new process would not have
    resume(tmp_path / "parts", quiet=True)
    assert same(weights(tmp_path / "parts"), weights(whole))
    unclocked = [
        [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in records(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert unclocked[0] == unclocked[1]


def test_the_same_seed_draws_the_same_samples(run, tmp_path):
    again = train(QUICK, tmp_path / "again", quiet=True)
    pictures = sorted(path.name for path in (run / "samples").iterdir())
    assert pictures
    for name in pictures:
        assert (run / "samples" / name).read_bytes() == (again / "samples" / name).read_bytes()


def gradients(asked: TrainConfig, out: Path, monkeypatch) -> dict[str, torch.Tensor]:
    """Of the first step."""
    found = {}

    def update(self, scalars, metrics, before):
        found.update({name: p.grad.clone() for name, p in self.bare_model.named_parameters()})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingStep, "_update", update)
        train(asked, out, quiet=True)
    return found


@pytest.mark.parametrize("prior", ["normal", "flow"])
@pytest.mark.parametrize("arch", ["mlp", "resnet"])
def test_accumulated_gradients_are_those_of_the_large_batch(tmp_path, monkeypatch, arch, prior):
    asked = replace(QUICK, arch=arch, prior=prior, options={"arch": NARROW[arch]}, binarize="dynamic", flip=True)
    whole = gradients(asked, tmp_path / "whole", monkeypatch)
    parts = gradients(replace(asked, accumulate=8), tmp_path / "parts", monkeypatch)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5)
    assert max(gradient.abs().max() for gradient in whole.values()) > 0.1


def test_a_batch_that_cannot_be_cut_equally_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--batch-size 32 .* 3 equal parts"):
        train(replace(QUICK, accumulate=3), tmp_path / "run", quiet=True)


def test_an_objective_may_take_several_samples_of_each_image(tmp_path, monkeypatch):
    """Its noise is that of the whole batch, too: 3 samples of each image, at once or in parts."""

    def three(model, image, label, kl_weight, *, beta, free_bits):
        distortion, rate, *_ = model(image, label, samples=3)
        assert distortion.view(-1, 3).std(1).min() > 0  # of one image, with different noise
        return Loss((distortion + rate.sum(1)).mean(), distortion.mean(), rate.sum(1).mean())

    monkeypatch.setattr(step_module, "OBJECTIVES", type("", (), {"get": staticmethod(lambda name: three)}))
    whole = gradients(QUICK, tmp_path / "whole", monkeypatch)
    parts = gradients(replace(QUICK, accumulate=4), tmp_path / "parts", monkeypatch)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5)


def as_recorded(monkeypatch) -> None:
    """Take the steps as on one GPU, where a graph is recorded of them: here launch by launch."""
    monkeypatch.setattr(trainer_module, "can_record", lambda *_: True)


@pytest.mark.parametrize("arch", ["mlp", "conv", "resnet"])
def test_step_that_can_be_recorded_gives_the_same_bytes(tmp_path, monkeypatch, arch):
    """Rates that float32 holds exactly: on the device all scalars are in float32."""
    config = replace(
        QUICK, arch=arch, options={"arch": NARROW[arch]}, binarize="dynamic", shift=1, crop=0.9, lr=2**-8,
        schedule="constant", kl_warmup=0.0, epochs=2,
    )  # fmt: skip
    expected = train(config, tmp_path / "eager", quiet=True)
    as_recorded(monkeypatch)
    recorded = train(config, tmp_path / "recorded", quiet=True)
    assert same(weights(recorded), weights(expected))
    times = {"seconds", "images_per_second"}
    a, b = ([{k: v for k, v in r.items() if k not in times} for r in records(run)] for run in (expected, recorded))
    assert a == b


def test_step_that_can_be_recorded_follows_all_schedules_and_averages(tmp_path, monkeypatch):
    config = replace(QUICK, ema=0.9, kl_warmup=1.5, schedule="cosine", lr=3e-3, warmup=10, objective="iwae")
    expected = load_checkpoint(train(config, tmp_path / "eager", quiet=True) / "last")[0].tensors
    as_recorded(monkeypatch)
    recorded = load_checkpoint(train(config, tmp_path / "recorded", quiet=True) / "last")[0].tensors
    assert recorded.keys() == expected.keys() and any(name.startswith("ema.") for name in recorded)
    for name, tensor in expected.items():
        torch.testing.assert_close(recorded[name], tensor, rtol=2e-3, atol=2e-4)


def test_step_that_can_be_recorded_resumes_within_an_epoch_and_in_another_mode(tmp_path, monkeypatch):
    config = replace(QUICK, ema=0.9, binarize="dynamic", epochs=2)
    step = Trainer._train_step

    def stopping(self, *batch):
        step(self, *batch)
        if self.state.step == STEPS + 7:
            self.stop.signals.add(signal.SIGTERM)

    def interrupted(out: Path) -> Path:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Trainer, "_train_step", stopping)
            train(config, out, quiet=True)
        return out

    eager = interrupted(tmp_path / "eager")
    as_recorded(monkeypatch)
    expected = train(config, tmp_path / "whole", quiet=True)
    assert same(weights(resume(interrupted(tmp_path / "parts"), quiet=True)), weights(expected))
    for name, tensor in weights(resume(eager, quiet=True)).items():
        torch.testing.assert_close(tensor, weights(expected)[name], rtol=2e-3, atol=2e-4)


def test_warm_up_of_a_recording_leaves_no_trace(tmp_path, monkeypatch):
    """With an optimizer that has stepped before, and with a new one."""
    as_recorded(monkeypatch)
    steps: list[RecordedStep] = []
    init = RecordedStep.__init__
    monkeypatch.setattr(RecordedStep, "__init__", lambda self, *a, **k: (steps.append(self), init(self, *a, **k))[1])
    train(replace(QUICK, arch="conv", options={"arch": NARROW["conv"]}, ema=0.9, epochs=1), tmp_path / "a", quiet=True)
    (step,) = steps
    step.epoch_batches(0, 3)
    for fresh in (False, True):
        if fresh:
            step.optimizer.optimizer.state.clear()
        tensors = [*step._tensors()]
        values = [tensor.detach().clone() for tensor in tensors]
        step._compute_at_position()
        assert not torch.equal(tensors[0], values[0])
        step._restore_values(tensors, values)
        assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, values, strict=True))
    assert not any(tensor.any() for state in step.optimizer.state.values() for tensor in state.values())


class FakeGraph:
    """A CUDA graph on the CPU: while it is recorded nothing is computed, and a replay takes the step."""

    compute = staticmethod(RecordedStep._compute_at_position)

    def __init__(self, monkeypatch, *, broken: bool) -> None:
        self.monkeypatch, self.broken, self.step, self.replays = monkeypatch, broken, None, 0

    @contextlib.contextmanager
    def recording(self, graph: "FakeGraph", stream: object):
        def record(step: RecordedStep) -> None:
            self.step = step
            if self.broken:
                raise RuntimeError("operation not permitted when stream is capturing")

        with self.monkeypatch.context() as patch:
            patch.setattr(RecordedStep, "_compute_at_position", record)
            yield

    def replay(self) -> None:
        self.replays += 1
        self.compute(self.step)


@pytest.mark.parametrize("broken", [False, True])
def test_recording_and_its_failure_leave_the_run_as_it_would_be(tmp_path, monkeypatch, capsys, broken):
    config = replace(QUICK, arch="conv", options={"arch": NARROW["conv"]}, ema=0.9, binarize="dynamic", epochs=2)
    as_recorded(monkeypatch)
    expected = train(config, tmp_path / "expected", quiet=True)
    graph, recovered = FakeGraph(monkeypatch, broken=broken), []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stubs = {
        "current_stream": lambda: stream, "Stream": lambda: stream, "stream": contextlib.nullcontext,
        "set_stream": recovered.append, "synchronize": lambda: None, "CUDAGraph": lambda: graph,
        "graph": graph.recording, "current_device": lambda: 0,
        "default_generators": [SimpleNamespace(graphsafe_set_state=recovered.append)],
    }  # fmt: skip
    for name, stub in stubs.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    monkeypatch.setattr(RecordedStep, "prepare", RecordedStep._record)
    generator = SimpleNamespace(graphsafe_get_state=lambda: "new state")
    make = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": make() if device == "cpu" else generator)
    recorded = train(config, tmp_path / "recorded")
    assert same(weights(recorded), weights(expected))
    assert graph.replays == (0 if broken else 2 * STEPS)
    assert recovered == ([stream, "new state"] if broken else [])
    assert ("can't be recorded as a CUDA graph" in capsys.readouterr().err) == broken


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("arch", ["mlp", "conv", "resnet"])
def test_recorded_step_on_cuda_gives_the_bytes_of_launches_one_by_one(tmp_path, monkeypatch, arch):
    config = replace(QUICK, arch=arch, options={"arch": NARROW[arch]}, device="cuda", ema=0.9, binarize="dynamic")
    recorded = train(config, tmp_path / "recorded", quiet=True)
    monkeypatch.setattr(RecordedStep, "prepare", lambda self, step: None)
    assert same(weights(train(config, tmp_path / "eager", quiet=True)), weights(recorded))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_reaches_the_same_bound_and_resumes_exactly(tmp_path, run, monkeypatch):
    compiled = train(replace(QUICK, compile=True), tmp_path / "compiled", quiet=True)
    bounds = [
        [r[split]["bound"] for r in records(of)[:3] for split in ("train", "validation")] for of in (run, compiled)
    ]
    np.testing.assert_allclose(bounds[1], bounds[0], rtol=1e-3)

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(QUICK, compile=True), tmp_path / "parts", quiet=True, on_epoch=stop)
    assert same(weights(resume(tmp_path / "parts", quiet=True)), weights(compiled))


def test_compiling_is_chosen_for_long_runs_where_it_works(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert [choose_compile(None, steps, "cpu") for steps in (100, 10**6)] == [False, True]
    assert [choose_compile(asked, 10**6, "cpu") for asked in (False, True)] == [False, True]

    def broken(function):
        raise RuntimeError("No working C++ compiler found\nin many lines")

    monkeypatch.setattr(torch, "compile", broken)
    assert choose_compile(None, 10**6, "cpu") is False
    with pytest.raises(UsageError, match=r"--compile does not work here: .*No working C\+\+ compiler found in many"):
        choose_compile(True, 10, "cpu")


def test_auto_precision_is_bf16_where_the_cpu_multiplies_it_fast(monkeypatch):
    for can, expected in [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        assert choose_precision("auto", "cpu") == expected


@needs_mnist
@pytest.mark.parametrize(
    ("arch", "images", "epochs"), [("mlp", 6_000, 2), pytest.param("resnet", 54_000, 3, marks=pytest.mark.slow)]
)
def test_bf16_reaches_the_bound_of_fp32(tmp_path, arch, images, epochs):
    """Within 0.3 nats, or a better one: of a training this short some of the difference is chance."""
    asked = TrainConfig(
        arch=arch, conditional=True, data="mnist", data_dir=str(SHARED), limit=images, epochs=epochs, trackers=("none",)
    )
    fp32, bf16 = (
        records(train(replace(asked, precision=precision), tmp_path / precision, quiet=True))[-1]["test"]["bound"]
        for precision in ("fp32", "bf16")
    )
    assert fp32 < 200
    assert bf16 < fp32 + 0.3


def test_each_epoch_is_told_after_it_was_saved(tmp_path):
    told = []

    def look(record):
        assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]) == record
        assert load_checkpoint(tmp_path / "run" / "last")[0].state["step"] == record["step"]
        told.append(record["epoch"])

    train(QUICK, tmp_path / "run", quiet=True, on_epoch=look)
    assert told == [1, 2, 3]


def test_resume_for_more_epochs_goes_on(run, tmp_path):
    longer = train(QUICK, tmp_path / "longer", quiet=True)
    resume(longer, epochs=5, quiet=True)
    assert [record.get("epoch") for record in records(longer)] == [1, 2, 3, 4, 5, None]
    assert Config.read(longer / "config.json").training.epochs == 5


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for module, names in {pickle: ("dump", "dumps", "load", "loads"), torch: ("save", "load")}.items():
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    resume(train(replace(QUICK, epochs=1), tmp_path / "run", quiet=True), epochs=2, quiet=True)
    assert {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()} == {
        ".json", ".jsonl", ".safetensors", ".png",
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["truncated", "altered", "json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    run = train(QUICK, tmp_path / "run", quiet=True)
    older, newer = sorted((run / "last").glob("*.safetensors"))
    data = newer.read_bytes()
    if damage == "json":
        newer.with_suffix(".json").write_text("{")
    else:
        newer.write_bytes(data[:-1000] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    checkpoint, damaged = load_checkpoint(run / "last")
    assert checkpoint.state["step"] == int(older.stem) and damaged == [newer.stem]
    older.unlink()
    with pytest.raises(CvaeError, match=rf"are damaged \({newer.stem}, {older.stem}\); remove the folder"):
        load_checkpoint(run / "last")


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_networks_run_in_the_precision_asked_for(tmp_path, monkeypatch, precision, expected):
    seen, scored = set(), set()
    nll = Bernoulli.nll

    class Watched(trainer_module.Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.training_step.bare_model.decoder.register_forward_hook(
                lambda module, inputs, output: seen.add(output.dtype)
            )

    def watched_nll(self, params, image):
        scored.add(params.dtype)
        return nll(self, params, image)

    monkeypatch.setattr(launch_module, "Trainer", Watched)
    monkeypatch.setattr(Bernoulli, "nll", watched_nll)
    train(replace(QUICK, epochs=1, precision=precision, validation=0.0), tmp_path / "run", quiet=True)
    assert expected in seen and scored == {torch.float32}


def test_resume_refuses_data_that_changed(tmp_path):
    def save(count):
        np.savez(tmp_path / "data.npz", train=np.zeros((count, 8, 8), np.uint8))

    save(100)
    asked = replace(QUICK, data=f"npz:{tmp_path / 'data.npz'}", conditional=False, limit=None)
    run = train(asked, tmp_path / "run", quiet=True)
    save(101)
    with pytest.raises(CvaeError, match="has 91 training images, but the run was started with 90"):
        resume(run, epochs=5, quiet=True)
    np.savez(tmp_path / "data.npz", train=np.zeros((100, 9, 9), np.uint8))
    with pytest.raises(CvaeError, match=r"images \(1, 9, 9\).*\(1, 8, 8\)"):
        resume(run, epochs=5, quiet=True)


def test_a_loss_that_is_no_longer_finite_stops_the_run_and_keeps_good_weights(tmp_path):
    asked = replace(QUICK, lr=1e25, schedule="constant", clip=0.0, epochs=2)
    with pytest.raises(CvaeError, match=r"not finite at step \d+: .*lower --lr"):
        train(asked, tmp_path / "run", quiet=True)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_moving_average_is_saved_and_differs_from_the_last_weights(tmp_path):
    run = train(replace(QUICK, ema=0.9), tmp_path / "run", quiet=True)
    tensors = load_checkpoint(run / "last")[0].tensors
    saved = weights(run)
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, tensors[f"ema.{name}"], rtol=0, atol=0)
    assert not same(saved, {name: tensors[f"model.{name}"] for name in saved})


def test_the_statistics_of_batch_norm_are_averaged_with_the_weights(tmp_path, monkeypatch):
    name, mean, average = "encoder.blocks.0.norm.running_mean", torch.zeros(4), TrainingStep._average

    def record(step: TrainingStep, ema: VAE, decay: float) -> None:
        mean.mul_(decay).add_(dict(step.bare_model.named_buffers())[name], alpha=1 - decay)
        average(step, ema, decay)

    monkeypatch.setattr(TrainingStep, "_average", record)
    small = {"arch": {"width": 4, "max_width": 4, "hidden": 8}}
    run = train(replace(QUICK, arch="conv", options=small, ema=0.9), tmp_path / "run", quiet=True)
    tensors = load_checkpoint(run / "last")[0].tensors
    torch.testing.assert_close(tensors[f"ema.{name}"], mean)
    assert not torch.allclose(tensors[f"model.{name}"], mean)
    assert tensors["ema.encoder.blocks.0.norm.num_batches_tracked"] == 3 * STEPS


def test_an_epoch_is_a_permutation_and_processes_share_it_without_overlap():
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    make = {"batch_size": 20, "device": torch.device("cpu"), "labelled": True}
    split = Split(images=images, labels=np.arange(100))
    whole = [label.tolist() for _, label in Batches(split, **make).shuffled(3, epoch=0)]
    order = [label for batch in whole for label in batch]
    assert sorted(order) == list(range(100)) != order
    ranks = [
        [label.tolist() for _, label in Batches(split, **make, shard=Shard(r, 2)).shuffled(3, epoch=0)] for r in (0, 1)
    ]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in whole]
    later = [label.tolist() for _, label in Batches(split, **make).shuffled(3, epoch=0, start=2)]
    assert later == whole[2:]
    assert whole != [label.tolist() for _, label in Batches(split, **make).shuffled(3, epoch=1)]


@pytest.mark.parametrize("shard", [WHOLE, Shard(1, 2)], ids=str)
def test_a_set_in_its_file_gives_the_batches_of_one_in_memory(tmp_path, shard):
    images, labels = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), np.uint8), np.arange(50)
    np.save(tmp_path / "images.npy", images)
    make = {"batch_size": 12, "device": torch.device("cpu"), "labelled": True, "shard": shard}
    memory = Batches(Split(images=images, labels=labels), **make)
    file = Batches(Split(images=DiskImages.open(tmp_path / "images.npy"), labels=labels), **make)
    assert memory.resident and not file.resident
    for ours, theirs in ((file.shuffled(1, 2, 1), memory.shuffled(1, 2, 1)), (file.in_order(), memory.in_order())):
        pairs = list(zip(ours, theirs, strict=True))
        assert len(pairs) > 1
        for (image, label), (expected_image, expected_label) in pairs:
            assert torch.equal(image, expected_image) and torch.equal(label, expected_label)
    started = threading.active_count()
    first = file.shuffled(1, 2)
    next(first)
    first.close()  # as at a Ctrl-C; its thread must not stay
    assert threading.active_count() == started


def test_a_file_that_is_cut_short_under_a_run_is_one_line(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    split = Split(images=DiskImages.open(tmp_path / "images.npy"))
    os.truncate(tmp_path / "images.npy", 1000)
    with pytest.raises(CvaeError, match="was truncated"):
        list(Batches(split, 100, torch.device("cpu"), labelled=False).shuffled(0, 0))


def test_schedules_against_their_formulas():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for step in range(50):
        assert lr_factor("cosine", step, 50, 0) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert [lr_factor("constant", step, 9, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    halves = [lr_factor("step", step, 8, 0) for step in range(8)]
    assert halves == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    factors = [lr_factor("step", step, 8, 2, [3, 6, 9]) for step in range(8)]
    assert factors == pytest.approx([0.5, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert [kl_factor(step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert kl_factor(0, 0) == 1


@pytest.mark.parametrize("epochs, every", {1: 1, 10: 1, 20: 1, 21: 2, 60: 5, 100: 5, 101: 10, 1300: 100}.items())
def test_pictures_and_lines_come_at_round_epochs(epochs, every):
    assert report_every(epochs) == every


def test_defaults_are_filled_in_by_the_data():
    dataset = load_dataset(QUICK)
    colour = replace(dataset, train=Split(images=np.zeros((600, 3, 8, 8), np.uint8), labels=dataset.train.labels))
    ink = replace(dataset, train=replace(dataset.train, images=(dataset.train.images > 127) * np.uint8(255)))
    free = replace(QUICK, likelihood=None)
    assert configure(free, dataset).model.likelihood.name == "gaussian-optimal"  # shades of grey
    assert configure(free, ink).model.likelihood.name == "bernoulli"
    assert configure(free, colour).model.likelihood.name == "gaussian-optimal"
    assert configure(replace(QUICK, epochs=None), dataset).training.epochs == math.ceil(1500 / STEPS)
    config = configure(replace(QUICK, options={"objective": {"beta": 4}}), dataset)
    assert config.training.options["objective"] == {"beta": 4.0, "free_bits": 0.0}
    assert from_dict(Config, json.loads(config.to_json())) == from_dict(Config, json.loads(config.to_json()))


def test_options_of_a_part_that_is_not_there_are_refused():
    with pytest.raises(UsageError, match="conditioning"):
        configure(replace(QUICK, conditional=False, options={"conditioning": {"x": 1}}), load_dataset(QUICK))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_unwritable_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CvaeError, match="can't write"):
        train(QUICK, tmp_path / "run", quiet=True)


def test_labels_are_learned(trained):
    """Generated digits fall to the asked class under a nearest-mean classifier of real ones."""
    import cvae

    split = load_dataset(TrainConfig()).train
    means = np.stack([split.images[split.labels == c].mean(0).ravel() for c in range(10)]) / 255  # (10, 64)
    images = cvae.load(trained["labels"]).generate(200, seed=0).reshape(200, 64)
    nearest = ((images[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == np.arange(200) % 10).mean() > 0.8


def test_one_process_may_train_at_several_precisions(tmp_path):
    for precision in ("fp32", "bf16", "fp32"):
        train(
            replace(QUICK, epochs=1, precision=precision), tmp_path / f"{precision}-{time.monotonic_ns()}", quiet=True
        )
    assert trainer_module.Trainer is Trainer


def test_a_run_begins_with_the_weights_of_another(tmp_path, run, monkeypatch):
    """Its first step starts there; killed before its first checkpoint, it starts there again."""
    begun = []
    step = trainer_module.Trainer._train_step
    monkeypatch.setattr(
        trainer_module.Trainer,
        "_train_step",
        lambda self, *batch: (
            begun.append(copy.deepcopy(self.training_step.bare_model.state_dict())),
            step(self, *batch),
        )[1],
    )
    asked = replace(QUICK, epochs=1, init=str(run), ema=0.9)
    train(asked, tmp_path / "run", quiet=True)
    assert same(begun[0], weights(run))
    shutil.rmtree(tmp_path / "run" / "last")
    begun.clear()
    resume(tmp_path / "run", quiet=True)
    assert same(begun[0], weights(run))


def test_weights_of_another_network_are_refused_before_anything_is_written(tmp_path, run):
    for wrong, word in ({"latent_dim": 3}, "another network"), ({"init": "nowhere"}, "'nowhere'"):
        with pytest.raises(UsageError, match=word):
            train(replace(QUICK, **{"init": str(run), **wrong}), tmp_path / "run", quiet=True)
        assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "beta-tc", "batch_size": 1, "limit": 20}, "the codes of several images"),
        (
            {"arch": "ladder", "objective": "iwae", "options": {"objective": {"dreg": True}}},
            "needs a single group of latents",
        ),
    ],
)
def test_what_the_first_step_finds_wrong_leaves_nothing_behind(tmp_path, wrong, message):
    notes = tmp_path / "run" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(UsageError, match=message):
        train(replace(QUICK, **wrong), tmp_path / "run", quiet=True)
    assert list(notes.parent.iterdir()) == [notes]
    notes.unlink()
    with pytest.raises(UsageError, match=message):
        train(replace(QUICK, **wrong), tmp_path / "run", quiet=True)
    assert not notes.parent.exists()
